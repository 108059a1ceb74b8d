"""What changed from one embedding to another: metrics, structure, classes, samples."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope.errors import UndefinedError
from embedscope.evaluation.changes import ClassChange, SideChanges, class_changes, class_names_of_rows
from embedscope.evaluation.comparing import Difference, pair_differences
from embedscope.evaluation.pairing import Pairing, common_rows, paired
from embedscope.ops.cka import linear_cka, mutual_neighbors
from embedscope.ops.rows import gathered
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedscope.evaluation.scores import Scores
    from embedscope.store.features import FeatureSet

    Array = np.ndarray[Any, Any]

NEIGHBORS = 10

# Rows among which nearest neighbors are compared; their number is that of pairs.
NEIGHBOR_ROWS = 10_000


@dataclass(frozen=True, repr=False)
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
        mutual_knn: share of the nearest neighbors, by cosine, that both have; None without pairs.
        neighbors: how many nearest neighbors each row has there.
        neighbor_rows: among how many rows, drawn at random if there are more.
        distance: of the silhouettes of classes and samples.
        classes: in the order of their labels; empty where silhouettes are undefined.
        sides: which samples changed sides; None without pairs.
        notes: what a reader needs to know.
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

    def __repr__(self) -> str:
        parts = [counted(self.rows, "row") if self.reason is None else f"unpaired: {self.reason}"]
        if self.cka is not None:
            parts.append(f"CKA {self.cka:.4f}")
        if self.mutual_knn is not None:
            parts.append(f"mutual kNN {self.mutual_knn:.4f}")
        if self.classes:
            gained, lost = (sum(each.significant and sign * each.difference > 0 for each in self.classes) for sign in (1, -1))
            parts.append(f"{gained} of {len(self.classes)} classes gained, {lost} lost")
        if self.sides is not None:
            parts.append(f"{counted(len(self.sides.gained), 'sample')} gained, {len(self.sides.lost):,} lost")
        return f"{self.second} against {self.first}: {'; '.join(parts)}"


def compare(
    first: FeatureSet, second: FeatureSet, scores: tuple[Scores, Scores], measure: Callable[[FeatureSet], Scores], seed: int
) -> Comparison:
    """Compare two embeddings, on the rows in both if that is sound, see `pairing.paired`.

    Args:
        first: its labeled rows.
        second: the same of the other.
        scores: of both, of all their rows, with intervals.
        measure: makes such scores of other rows.
        seed: of the rows that are drawn for neighbors.
    """
    before, after = scores
    distance = next((one.options["distance"] for one in before.metrics.values() if one.name == "silhouette"), "euclidean")
    pairing = paired(first.ids, class_names_of_rows(first), second.ids, class_names_of_rows(second))
    blank = Comparison(first.name, second.name, len(pairing.first), pairing.alone, pairing.reason, (), distance=distance)
    if pairing.reason is not None:
        found = class_changes((first, second), distance, same=False)
        return replace(
            blank, differences=tuple(pair_differences(before, after)), classes=found.classes, notes=tuple(found.notes)
        )
    in_order = pairing.whole and bool((np.diff(pairing.second) > 0).all())
    with common_rows(first, second, pairing) as (one, other):
        if not in_order:
            before, after = before if not pairing.alone[0] else measure(one), measure(other)
        found = class_changes((one, other), distance, same=True)
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


def sides_column(scores: Sequence[Scores], comparisons: Sequence[Comparison]) -> Array:
    """Mark the samples of all embeddings, in the order of `sample_columns`, that "gained" or "lost": (n,) str."""
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
    return replace(difference, note=f"on the {counted(len(pairing.first), 'row')} in both")


def _structure(first: FeatureSet, second: FeatureSet, seed: int) -> tuple[float | None, float | None, int, list[str]]:
    """Return CKA, mutual neighbors, the number of rows for the latter, and why one is None; rows in the same order."""
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
