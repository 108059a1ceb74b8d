"""Take some rows of a feature set without reading the rest into memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from embedscope.errors import InputError, UsageError, unknown
from embedscope.ops.gathering import gather
from embedscope.text import counted

if TYPE_CHECKING:
    from embedscope.ops.rows import Rows
    from embedscope.store.features import FeatureSet

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class SelectedRows:
    """The rows of `base` at ascending positions, read in contiguous spans."""

    base: Rows
    positions: Array  # (n,) int64, ascending

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, D)."""
        return (len(self.positions), self.base.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows that are selected from."""
        return self.base.dtype

    def __getitem__(self, rows: slice) -> Tensor:
        wanted = self.positions[rows]
        if not len(wanted):
            return self.base[:0]
        first = int(wanted[0])
        span = self.base[first : int(wanted[-1]) + 1]
        return span if len(span) == len(wanted) else span[torch.from_numpy(wanted - first)]


def select(features: FeatureSet, keep: Array) -> FeatureSet:
    """Keep the rows where the (N,) mask is true."""
    if keep.all():
        return features
    positions = np.flatnonzero(keep)
    return replace(
        features,
        features=SelectedRows(features.features, positions),
        magnitudes=None if features.magnitudes is None else SelectedRows(features.magnitudes, positions),
        logits=None if features.logits is None else SelectedRows(features.logits, positions),
        labels=features.labels[keep],
        ids=features.ids[keep],
        split=None if features.split is None else features.split[keep],
    )


def select_split(features: FeatureSet, split: str | None) -> FeatureSet:
    """Keep the rows of one split, or all if None; UsageError for a split that is not there, InputError if there are none."""
    if split is None:
        return features
    if features.split is None:
        raise InputError(f"{features.source} has no splits; omit `split={split}`")
    known = sorted(set(features.split))
    if split not in known:
        raise UsageError(unknown("split", split, known, place=features.source))
    return select(features, features.split == split)


def select_labeled(features: FeatureSet) -> tuple[FeatureSet, int]:
    """Leave out the unlabeled rows, and count them; InputError if no row is left."""
    keep = features.labels >= 0
    if not keep.any():
        raise InputError(f"{features.source} has {counted(len(keep), 'row')}, none of them labeled")
    return select(features, keep), int((~keep).sum())


def check_finite(features: FeatureSet) -> None:
    """Raise InputError with the count and the first ids if rows hold NaN or infinite values."""
    for kind, rows in (("features", features.features), ("magnitudes", features.magnitudes)):
        if rows is not None:
            gather(rows, [], torch.device("cpu"), ids=features.ids, source=features.source, kind=kind)
