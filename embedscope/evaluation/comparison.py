"""What changed from one embedding to another: metrics, structure, classes, samples."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope.errors import UndefinedError
from embedscope.evaluation.comparing import Difference, pair_differences
from embedscope.evaluation.pairing import Pairing, common_rows, paired
from embedscope.metrics.silhouette import silhouette
from embedscope.ops.blocks import memory
from embedscope.ops.cka import linear_cka, mutual_neighbors
from embedscope.ops.class_influences import class_influences
from embedscope.ops.class_moments import present_classes
from embedscope.ops.rows import gathered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from embedscope.evaluation.scores import Scores
    from embedscope.metrics import Result
    from embedscope.store.features import FeatureSet

    Array = np.ndarray[Any, Any]

NEIGHBORS = 10

# Of the intervals of all classes together: 95%.
_LEVEL = 0.05

# Rows among which nearest neighbours are compared; their number is that of pairs.
NEIGHBOR_ROWS = 10_000


@dataclass(frozen=True)
class ClassChange:
    """How the mean silhouette of a class differs between two embeddings.

    Attributes:
        name: of the class.
        samples: of it, in the second embedding.
        first: its mean silhouette in the first embedding.
        second: the same in the second.
        difference: second - first.
        ci95: interval of the difference; those of all classes hold together with 95% (Bonferroni). None for a class of one
            sample, and where the features do not fit in memory.
    """

    name: str
    samples: int
    first: float
    second: float
    difference: float
    ci95: tuple[float, float] | None

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.ci95 is not None and not self.ci95[0] <= 0 <= self.ci95[1]


@dataclass(frozen=True)
class SideChanges:
    """Which samples changed sides: nearer to their own class than to any other (silhouette above 0), or not.

    Samples that are alone in their class have no side and are left out.

    Attributes:
        right: samples nearer to their own class in both embeddings.
        wrong: in neither.
        gained: ids of those in the second only.
        lost: ids of those in the first only.
        p_value: exact two-sided McNemar test of as many gained as lost.
    """

    right: int
    wrong: int
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """How an embedding compares with the first one.

    Attributes:
        first: its name.
        second: that of the other.
        rows: how many rows are compared in pairs; 0 for embeddings of different rows.
        alone: how many rows only the first has, and only the second.
        reason: why rows are not compared in pairs, or None.
        differences: of all metrics that have intervals; of the common rows where those are compared.
        cka: debiased linear CKA, 1 for the same structure; None without pairs.
        mutual_knn: share of the nearest neighbours, by cosine, that both have; None without pairs.
        neighbors: how many nearest neighbours each row has there.
        neighbor_rows: among how many rows, drawn at random if there are more.
        distance: of the silhouettes of classes and samples.
        classes: in the order of their labels; empty where silhouettes are undefined.
        sides: which samples changed sides; None without pairs.
        notes: what a reader has to know.
    """

    first: str
    second: str
    rows: int
    alone: tuple[int, int]
    reason: str | None
    differences: tuple[Difference, ...]
    cka: float | None = None
    mutual_knn: float | None = None
    neighbors: int = NEIGHBORS
    neighbor_rows: int = 0
    distance: str = "euclidean"
    classes: tuple[ClassChange, ...] = ()
    sides: SideChanges | None = None
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Lay the comparison out for `score --json`."""
        found = asdict(self)
        found["paired"] = self.reason is None
        found["only_first"], found["only_second"] = found.pop("alone")
        found["differences"] = [each.as_json() for each in self.differences]
        found["classes"] = [{**asdict(each), "significant": each.significant} for each in self.classes]
        return found


def compare(
    first: FeatureSet, second: FeatureSet, scores: tuple[Scores, Scores], measure: Callable[[FeatureSet], Scores], seed: int
) -> Comparison:
    """Compare two embeddings, on the rows that both have where that is sound, see `pairing.paired`.

    Args:
        first: its labelled rows.
        second: the same of the other.
        scores: of both, of all their rows, with intervals.
        measure: makes such scores of other rows.
        seed: of the rows that are drawn for neighbours.
    """
    before, after = scores
    distance = next((one.options["distance"] for one in before.metrics.values() if one.name == "silhouette"), "euclidean")
    pairing = paired(first.ids, _names(first), second.ids, _names(second))
    blank = Comparison(first.name, second.name, len(pairing.first), pairing.alone, pairing.reason, (), distance=distance)
    if pairing.reason is not None:
        found = _class_changes((first, second), distance, same=False)
        return replace(
            blank, differences=tuple(pair_differences(before, after)), classes=found.classes, notes=tuple(found.notes)
        )
    in_order = pairing.whole and bool((np.diff(pairing.second) > 0).all())
    with common_rows(first, second, pairing) as (one, other):
        if not in_order:
            before, after = before if not pairing.alone[0] else measure(one), measure(other)
        found = _class_changes((one, other), distance, same=True)
        cka, mutual, drawn, notes = _structure(one, other, seed)
    return replace(
        blank,
        differences=tuple(_on_common(each, pairing) for each in pair_differences(before, after)),
        cka=cka,
        mutual_knn=mutual,
        neighbor_rows=drawn,
        classes=found.classes,
        sides=found.sides,
        notes=tuple(dict.fromkeys([*notes, *found.notes])),
    )


def compare_classes(
    first: FeatureSet, second: FeatureSet, distance: str = "euclidean"
) -> tuple[tuple[ClassChange, ...], Pairing]:
    """Return how the mean silhouette of each class differs, and the rows that were compared; both labelled throughout.

    UndefinedError for fewer than two classes.
    """
    pairing = paired(first.ids, _names(first), second.ids, _names(second))
    if pairing.reason is not None:
        found = _class_changes((first, second), distance, same=False)
    else:
        with common_rows(first, second, pairing) as pair:
            found = _class_changes(pair, distance, same=True)
    if not found.classes:
        raise UndefinedError(found.notes[0] if found.notes else "no class is in both embeddings")
    return found.classes, pairing


def sides_column(scores: Sequence[Scores], comparisons: Sequence[Comparison]) -> Array:
    """Say of all samples of all embeddings, as `sample_columns` lists them, which "gained" or "lost": (n,) str."""
    found = []
    for entry in scores:
        if entry.table is None:
            continue
        its = next((each.sides for each in comparisons if each.second == entry.name), None)
        said = {} if its is None else dict.fromkeys(its.gained, "gained") | dict.fromkeys(its.lost, "lost")
        found += [said.get(each, "") for each in entry.table.ids]
    return np.array(found, dtype=object)


def _on_common(difference: Difference, pairing: Pairing) -> Difference:
    if pairing.whole:
        return difference
    return replace(difference, note=f"on the {len(pairing.first):,} rows that both have")


def _structure(first: FeatureSet, second: FeatureSet, seed: int) -> tuple[float | None, float | None, int, list[str]]:
    """CKA and mutual neighbours of rows in the same order, how many rows the latter is of, and why one is None."""
    notes: list[str] = []

    def defined(function: Callable[[], float]) -> float | None:
        try:
            return function()
        except UndefinedError as error:
            notes.append(str(error))
            return None

    count = len(first.ids)
    rows, others = first.features, second.features
    cka = defined(lambda: linear_cka(rows, others))
    if count > NEIGHBOR_ROWS:
        positions = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:NEIGHBOR_ROWS].sort().values
        rows, others = gathered(rows, positions), gathered(others, positions)
    mutual = defined(lambda: mutual_neighbors(rows, others, NEIGHBORS))
    return cka, mutual, min(count, NEIGHBOR_ROWS), notes


@dataclass(frozen=True)
class _Changes:
    classes: tuple[ClassChange, ...]
    sides: SideChanges | None
    notes: list[str]


def _class_changes(pair: tuple[FeatureSet, FeatureSet], distance: str, *, same: bool) -> _Changes:
    """Compare silhouettes by class, and with the `same` rows in the same order, by sample."""
    labels = [torch.from_numpy(each.labels) for each in pair]
    try:
        found = [silhouette(each.features, its, distance=distance) for each, its in zip(pair, labels, strict=True)]
    except UndefinedError as error:
        return _Changes((), None, [f"silhouette: {error}"])
    rows = [_in_memory(each) for each in pair]
    lacking = any(each is None for each in rows)
    notes = ["the features do not fit in memory: changes of classes have no intervals"] if lacking else []
    means = [_means(each, one.per_sample) for each, one in zip(pair, found, strict=True)]
    shared = [name for name in means[0] if name in means[1]]
    reach = _Reach(pair, rows, labels, found, distance, len(shared), same=same)
    changes = []
    for name in shared:
        (_, before), (samples, after) = means[0][name], means[1][name]
        gap = after - before
        half = reach.of(name)
        changes.append(ClassChange(name, samples, before, after, gap, None if half is None else (gap - half, gap + half)))
    return _Changes(tuple(changes), _sides(pair[0], found) if same else None, notes)


def _in_memory(features: FeatureSet) -> Tensor | None:
    count, width = features.features.shape
    if isinstance(features.features, torch.Tensor) or 16 * count * width <= memory() // 2:
        return features.features[:]
    return None


def _names(features: FeatureSet) -> Array:
    names: Array = np.array(features.class_names, dtype=object)[features.labels]
    return names


def _means(features: FeatureSet, samples: Tensor | None) -> dict[str, tuple[int, float]]:
    """Class name -> how many samples, and their mean."""
    assert samples is not None
    values = samples.cpu().numpy()
    found = {}
    for label in np.unique(features.labels):
        of_class = values[features.labels == label]
        found[features.class_names[label]] = len(of_class), float(of_class.mean())
    return found


class _Reach:
    """Half widths of the intervals of changes of classes."""

    def __init__(
        self,
        pair: tuple[FeatureSet, FeatureSet],
        rows: Sequence[Tensor | None],
        labels: Sequence[Tensor],
        found: Sequence[Result],
        distance: str,
        count: int,
        *,
        same: bool,
    ) -> None:
        self._pair, self._rows, self._found, self._distance, self._same = pair, rows, found, distance, same
        self._classes = [present_classes(each) for each in labels]
        self._level = 1 - _LEVEL / 2 / max(count, 1)

    def of(self, name: str) -> float | None:
        """Half the width for a class, None where there can be no interval."""
        from scipy import stats

        moved, counts = [], []
        for features, rows, classes, found in zip(self._pair, self._rows, self._classes, self._found, strict=True):
            place = classes.labels.tolist().index(features.class_names.index(name))
            counts.append(int(classes.counts[place]))
            if rows is None or counts[-1] < 2:
                return None
            moved.append(_unbiased(class_influences(rows, classes, found.state, place, distance=self._distance), classes))
        if self._same:
            variance = float((moved[1] - moved[0]).square().sum())
        else:
            variance = sum(float(each.square().sum()) for each in moved)
        return float(stats.t.ppf(self._level, min(counts) - 1)) * math.sqrt(variance)


def _unbiased(influences: Tensor, classes: Any) -> Tensor:
    """Make up for the means of classes, about which influences (N,) vary, being estimated from the same rows."""
    counts = classes.counts[classes.index].double()
    larger: Tensor = influences * (counts / (counts - 1).clamp(min=1)).sqrt()
    return larger


def _sides(features: FeatureSet, found: Sequence[Result]) -> SideChanges:
    from scipy import stats

    right, alone = [], found[0].state.alone.cpu().numpy()
    for each in found:
        assert each.per_sample is not None
        right.append(each.per_sample.cpu().numpy() > 0)
    gained, lost = (~right[0] & right[1] & ~alone), (right[0] & ~right[1] & ~alone)
    changed = int(gained.sum() + lost.sum())
    return SideChanges(
        right=int((right[0] & right[1]).sum()),
        wrong=int((~right[0] & ~right[1] & ~alone).sum()),
        gained=tuple(map(str, features.ids[gained])),
        lost=tuple(map(str, features.ids[lost])),
        p_value=float(stats.binomtest(int(gained.sum()), changed).pvalue) if changed else 1.0,
    )
