"""Features as the computations see them: anything with a shape, a dtype and row slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from embedscope.ops import blocks


class Rows(Protocol):
    """What a metric reads features from: a Tensor, or anything with a shape, a dtype and row slices that give Tensors."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the stored rows."""
        ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...


@dataclass(frozen=True)
class InDouble:
    """The rows of `base` as float64."""

    base: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""
        return self.base.shape

    @property
    def dtype(self) -> torch.dtype:
        """Float64."""
        return torch.float64

    def __getitem__(self, rows: slice) -> Tensor:
        return self.base[rows].double()


@dataclass(frozen=True)
class SelectedColumns:
    """Some columns of the rows of `base`."""

    base: Rows
    columns: Tensor  # (L,) int64

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, L)."""
        return self.base.shape[0], len(self.columns)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the base."""
        return self.base.dtype

    def __getitem__(self, rows: slice) -> Tensor:
        found = self.base[rows]
        return found[:, self.columns.to(found.device)]


def gathered(features: Rows, positions: Tensor) -> Tensor:
    """Read rows at ascending positions: (n, D). Rows on disk are read in spans, not one by one."""
    if isinstance(features, Tensor):
        return features[positions.to(features.device)]
    parts = []
    for block in blocks.row_slices(features.shape[0], features.shape[1] * features.dtype.itemsize):
        inside = positions[(positions >= block.start) & (positions < block.stop)].cpu()
        if len(inside):
            span = slice(int(inside[0]), int(inside[-1]) + 1)
            parts.append(features[span][inside - span.start])
    return torch.cat(parts)


def gathered_in_any_order(features: Rows, positions: Tensor) -> Tensor:
    """Read rows at positions in any order: (n, D)."""
    if isinstance(features, Tensor):
        return features[positions.to(features.device)]
    order = positions.argsort()
    return gathered(features, positions[order])[order.argsort().cpu()]
