"""Gaussian potentials of unit rows (arXiv:2005.10242): of one batch with gradients, and of all pairs in blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedscope import distributed
from embedscope.ops import blocks
from embedscope.ops.class_moments import unit_rows, zero_rows
from embedscope.ops.pairwise import working_dtype
from embedscope.ops.pass_costs import announce_all_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from embedscope.ops.rows import Rows


# Rows and columns of a tile, which several operations pass over; and how much longer than a distance a potential takes.
_TILE = 1024
_DEARER = 1.4


def log_potentials(x: Tensor, y: Tensor, t: float) -> Tensor:
    """Compute -t |x - y|² of every row of x with every row of y: (B, D), (M, D) -> (B, M) <= 0, with gradients."""
    squared = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)[None, :] - 2 * x @ y.T
    return -t * squared.clamp(min=0)


def mean_potentials(features: Rows, t: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Compute the mean of exp(-t |x - y|²) over all other rows y, for each row x, both at unit length.

    Zero rows have no direction and are left out. Products are in float32 for float32 and shorter rows, sums in float64. Each
    pair is computed once.

    Args:
        features: (N, D).
        t: > 0.
        device: that computes.

    Returns:
        (n,) float64 in (0, 1], of the n rows that are not zero, in order; and (N,) bool, which rows are zero.
    """
    count, width = features.shape
    dtype = working_dtype(features.dtype)
    announce_all_pairs(count, count, width, dtype, device, once=True, what="potentials", factor=_DEARER, sampled=False)
    sums = torch.zeros(count, dtype=torch.float64, device=device)
    zero = torch.zeros(count, dtype=torch.bool, device=device)
    step = max(1, min(_TILE, math.isqrt(blocks.memory() // (16 * dtype.itemsize))))
    buffer = torch.empty(step * step, dtype=dtype, device=device)
    number = 0
    for x, y in _parts(features, dtype, device, step):
        zero[x.rows] = x.zero
        for down, across in _tiles(x, y, step):
            number += 1
            if number % distributed.world_size() != distributed.rank():
                continue
            tile = _potentials(x, y, down, across, t, buffer)
            rows = slice(x.rows.start + down.start, x.rows.start + down.stop)
            columns = slice(y.rows.start + across.start, y.rows.start + across.stop)
            if rows == columns:
                tile.fill_diagonal_(0)
            else:
                sums[columns] += tile.sum(dim=0, dtype=torch.float64)
            sums[rows] += tile.sum(dim=1, dtype=torch.float64)
    distributed.all_reduce([sums])
    left = ~zero
    return sums[left] / max(int(left.sum()) - 1, 1), zero


@dataclass(frozen=True)
class _Laid:
    """Some of the rows at unit length: (B, D), their |x|² (B,), infinite for zero rows, and which these are (B,)."""

    rows: slice
    unit: Tensor
    norms: Tensor
    zero: Tensor


def _parts(features: Rows, dtype: torch.dtype, device: torch.device, step: int) -> Iterator[tuple[_Laid, _Laid]]:
    """Lay out parts of the rows that fit in memory, each two of them once."""
    count, width = features.shape
    most = max(step, min(8 * blocks.BLOCK_BYTES, blocks.memory() // 6) // (8 * (4 * width + 8)))
    spans = blocks.row_slices(count, 1, most)
    for place, here in enumerate(blocks.tracked(spans, "comparing all pairs", len(spans))):
        x = _laid(features, here, dtype, device)
        yield x, x
        for there in spans[place + 1 :]:
            yield x, _laid(features, there, dtype, device)


def _tiles(x: _Laid, y: _Laid, step: int) -> Iterator[tuple[slice, slice]]:
    """Cut two parts into tiles (rows of x, rows of y), one half of them where both are the same."""
    for down in blocks.row_slices(len(x.unit), 1, step):
        for across in blocks.row_slices(len(y.unit), 1, step, start=down.start if x is y else 0):
            yield down, across


def _potentials(x: _Laid, y: _Laid, down: slice, across: slice, t: float, buffer: Tensor) -> Tensor:
    """Compute the potentials of a tile in the buffer: (R, C) in [0, 1]."""
    left, right = x.unit[down], y.unit[across]
    tile = buffer[: len(left) * len(right)].view(len(left), len(right))
    torch.mm(left, right.T, out=tile)
    # -t |x - y|², at most 0; a zero row has an infinite norm and no potential.
    return tile.mul_(2 * t).sub_(t * x.norms[down, None]).sub_(t * y.norms[across]).clamp_(max=0).exp_()


def _laid(features: Rows, rows: slice, dtype: torch.dtype, device: torch.device) -> _Laid:
    exact = features[rows].to(device, torch.float64)
    zero = zero_rows(exact)
    unit = unit_rows(exact).to(dtype)
    return _Laid(rows, unit, unit.square().sum(dim=1).masked_fill(zero, torch.inf), zero)
