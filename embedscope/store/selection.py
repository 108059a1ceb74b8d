"""Take some rows of a feature set without reading the rest into memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from embedscope.errors import InputError, UsageError, unknown
from embedscope.ops.blocks import over_rows

if TYPE_CHECKING:
    from embedscope.records import FeatureSet, Rows

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
        labels=features.labels[keep],
        ids=features.ids[keep],
        split=None if features.split is None else features.split[keep],
    )


def select_split(features: FeatureSet, split: str | None) -> FeatureSet:
    """Keep the rows of one split, or all if None; UsageError for a split that is not there, InputError if there are none."""
    if split is None:
        return features
    if features.split is None:
        raise InputError(f"{features.source} has no splits; leave out --split {split}")
    known = sorted(set(features.split))
    if split not in known:
        raise UsageError(unknown(f"split in {features.source}", split, known))
    return select(features, features.split == split)


def select_labelled(features: FeatureSet) -> tuple[FeatureSet, int]:
    """Leave out the unlabelled rows, and count them; InputError if no row is left."""
    keep = features.labels >= 0
    if not keep.any():
        raise InputError(f"{features.source} has {len(keep)} rows and none of them has a label")
    return select(features, keep), int((~keep).sum())


def check_finite(features: FeatureSet) -> None:
    """Raise InputError with the count and the first ids if rows hold NaN or infinite values."""
    for kind, rows in (("features", features.features), ("magnitudes", features.magnitudes)):
        if rows is None:
            continue
        bad = np.zeros(rows.shape[0], dtype=bool)
        for block, values in over_rows(rows, torch.float32 if rows.dtype != torch.float64 else torch.float64):
            bad[block] = ~torch.isfinite(values).all(dim=1).numpy()
        if count := int(bad.sum()):
            first = ", ".join(f"{row} ({features.ids[row]})" for row in np.flatnonzero(bad)[:5])
            more = ", …" if count > 5 else ""
            raise InputError(
                f"{features.source}: {count} of {len(bad)} rows of the {kind} hold NaN or infinite values: rows {first}{more}"
            )
