"""Which classes and which samples changed from one embedding to another, by their silhouettes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope.errors import UndefinedError
from embedscope.evaluation.pairing import Pairing, common_rows, paired
from embedscope.metrics.silhouette import silhouette
from embedscope.ops.blocks import memory
from embedscope.ops.class_influences import class_influences
from embedscope.ops.class_moments import present_classes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from embedscope.metrics import Result
    from embedscope.store.features import FeatureSet

    Array = np.ndarray[Any, Any]

# Error rate of the intervals of all classes together: 5%.
_LEVEL = 0.05


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
class Changes:
    """What changed: classes, samples (None without pairs), and what a reader needs to know."""

    classes: tuple[ClassChange, ...]
    sides: SideChanges | None
    notes: list[str]


def compare_classes(
    first: FeatureSet, second: FeatureSet, distance: str = "euclidean"
) -> tuple[tuple[ClassChange, ...], Pairing]:
    """Return how the mean silhouette of each class differs, and the rows that were compared; both labeled throughout.

    UndefinedError for fewer than two classes.
    """
    pairing = paired(first.ids, class_names_of_rows(first), second.ids, class_names_of_rows(second))
    if pairing.reason is not None:
        found = class_changes((first, second), distance, same=False)
    else:
        with common_rows(first, second, pairing) as pair:
            found = class_changes(pair, distance, same=True)
    if not found.classes:
        raise UndefinedError(found.notes[-1])
    return found.classes, pairing


def class_changes(pair: tuple[FeatureSet, FeatureSet], distance: str, *, same: bool) -> Changes:
    """Compare silhouettes by class, and with the `same` rows in the same order, by sample."""
    labels = [torch.from_numpy(each.labels) for each in pair]
    try:
        found = [silhouette(each.features, its, distance=distance) for each, its in zip(pair, labels, strict=True)]
    except UndefinedError as error:
        return Changes((), None, [f"silhouette: {error}"])
    rows = [_in_memory(each) for each in pair]
    lacking = any(each is None for each in rows)
    notes = ["the features do not fit in memory: class changes have no intervals"] if lacking else []
    means = [_means(each, one.per_sample) for each, one in zip(pair, found, strict=True)]
    shared = [name for name in means[0] if name in means[1]]
    if not shared:
        notes.append("the embeddings have no class in common")
    reach = _Reach(pair, rows, labels, found, distance, len(shared), same=same)
    changes = []
    for name in shared:
        (_, before), (samples, after) = means[0][name], means[1][name]
        gap = after - before
        half = reach.of(name)
        changes.append(ClassChange(name, samples, before, after, gap, None if half is None else (gap - half, gap + half)))
    return Changes(tuple(changes), _sides(pair[0], found) if same else None, notes)


def _in_memory(features: FeatureSet) -> Tensor | None:
    count, width = features.features.shape
    if isinstance(features.features, torch.Tensor) or 16 * count * width <= memory() // 2:
        return features.features[:]
    return None


def class_names_of_rows(features: FeatureSet) -> Array:
    """Return the name of the class of each row: (N,) str; all have a label."""
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
        """Half the width for a class, or None without an interval."""
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
    """Correct influences (N,) for class means that are estimated from the same rows."""
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
