"""Which rows two embeddings have in common, by their ids, and whether they can be compared on these."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope.ops.blocks import memory
from embedscope.ops.sorted_rows import sorted_on_disk
from embedscope.store import select
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedscope.ops.rows import Rows
    from embedscope.store.features import FeatureSet

    Array = np.ndarray[Any, Any]

# Common rows per class, on average, from which they are compared: as many as intervals take. Fewer will do if they are at least
# half of the rows, so that the overlap is not accidental.
_FEW = 10


@dataclass(frozen=True, eq=False)
class Pairing:
    """Rows that two embeddings share.

    Attributes:
        first: (n,) int64 ascending, their positions in the first; empty where `reason` says why none are compared.
        second: (n,) int64, where each of them is in the second.
        alone: how many rows only the first has, and only the second.
        reason: why the rows are not compared in pairs, or None.
    """

    first: Array
    second: Array
    alone: tuple[int, int]
    reason: str | None = None

    @property
    def whole(self) -> bool:
        """Whether both contain the same rows."""
        return self.reason is None and self.alone == (0, 0)


def paired(ids: Array, labels: Array, other_ids: Array, other_labels: Array) -> Pairing:
    """Match rows by id: ids (N,) and labels (N,), names of classes, of one embedding and (M,) of another.

    The rows are compared only if all common ids have the same label in both, and if they are of two classes or more and not a
    handful. Ids that are row numbers say nothing about rows of embeddings of different length.
    """
    place = {each: row for row, each in enumerate(other_ids)}
    order = np.array([place.get(each, -1) for each in ids], dtype=np.int64)
    first = np.flatnonzero(order >= 0)
    second, nothing = order[first], np.empty(0, dtype=np.int64)
    alone = len(ids) - len(first), len(other_ids) - len(first)
    reason = None
    if not len(first):
        reason = "they have no ids in common"
    elif len(ids) != len(other_ids) and are_row_numbers(ids) and are_row_numbers(other_ids):
        reason = f"ids are row numbers, and they have {len(ids):,} and {counted(len(other_ids), 'row')}"
    elif differing := int((labels[first] != other_labels[second]).sum()):
        reason = f"{counted(differing, 'has', 'have', of=counted(len(first), 'common id'))} a different label"
    elif alone != (0, 0):
        classes = len(np.unique(labels[first].astype(str)))
        if classes < 2 or (len(first) < _FEW * classes and 2 * len(first) < min(len(ids), len(other_ids))):
            whose = counted(classes, "class")
            reason = f"only {counted(len(first), f'id of {whose} is', f'ids of {whose} are')} in both"
    return Pairing(first, second, alone) if reason is None else Pairing(nothing, nothing, alone, reason)


@contextmanager
def common_rows(first: FeatureSet, second: FeatureSet, pairing: Pairing) -> Iterator[tuple[FeatureSet, FeatureSet]]:
    """Give the common rows of both, in the order of the first.

    Rows on disk that lie in another order are read into memory if they fit, and are written in order to a temporary file
    otherwise.
    """
    keep = np.zeros(len(first.ids), dtype=bool)
    keep[pairing.first] = True
    ascending = bool((np.diff(pairing.second) > 0).all())
    mask = np.zeros(len(second.ids), dtype=bool)
    mask[pairing.second] = True
    other = select(second, mask)
    with ExitStack() as stack:
        if not ascending:
            order = torch.from_numpy(np.argsort(np.argsort(pairing.second)))  # positions among the rows that are kept
            other = replace(
                other,
                features=_ordered(other.features, order, stack),
                magnitudes=None if other.magnitudes is None else _ordered(other.magnitudes, order, stack),
                labels=other.labels[order.numpy()],
                ids=other.ids[order.numpy()],
                split=None if other.split is None else other.split[order.numpy()],
            )
        yield select(first, keep), other


def _ordered(rows: Rows, order: torch.Tensor, stack: ExitStack) -> Rows:
    count, width = rows.shape
    if isinstance(rows, torch.Tensor) or count * width * rows.dtype.itemsize <= memory() // 4:
        return rows[:][order]
    return stack.enter_context(sorted_on_disk(rows, order))


def are_row_numbers(ids: Array) -> bool:
    """Whether ids are only row numbers, so that the same id elsewhere may be a different sample."""
    return all(str(each) == str(row) for row, each in enumerate(ids))
