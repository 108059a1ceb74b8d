"""Gaussian potentials of unit rows (arXiv:2005.10242): of one batch with gradients, and of all pairs in blocks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from embedscope import distributed
from embedscope.ops import blocks
from embedscope.ops.class_moments import unit_rows, zero_rows
from embedscope.ops.pairwise import working_dtype
from embedscope.ops.pass_costs import announce_all_pairs

if TYPE_CHECKING:
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
    buffer = torch.empty(0, dtype=dtype, device=device)
    step = max(1, min(_TILE, math.isqrt(blocks.memory() // (16 * dtype.itemsize))))
    most = max(step, min(8 * blocks.BLOCK_BYTES, blocks.memory() // 6) // (8 * (4 * width + 8)))
    outer = blocks.row_slices(count, 1, most)
    number = 0
    for place, here in enumerate(blocks.tracked(outer, "comparing all pairs", len(outer))):
        x, norms, zero[here] = _laid(features[here], dtype, device)
        for there in outer[place:]:
            y, others = (x, norms) if there == here else _laid(features[there], dtype, device)[:2]
            for down in blocks.row_slices(len(x), 1, step):
                for across in blocks.row_slices(len(y), 1, step, start=down.start if there == here else 0):
                    number += 1
                    if number % distributed.world_size() != distributed.rank():
                        continue
                    left, right = x[down], y[across]
                    if buffer.numel() < len(left) * len(right):
                        buffer = torch.empty(step * step, dtype=dtype, device=device)
                    tile = buffer[: len(left) * len(right)].view(len(left), len(right))
                    torch.mm(left, right.T, out=tile)
                    # -t |x - y|², at most 0; a zero row has an infinite norm and no potential.
                    tile.mul_(2 * t).sub_(t * norms[down, None]).sub_(t * others[across]).clamp_(max=0).exp_()
                    itself = there == here and down == across
                    if itself:
                        tile.fill_diagonal_(0)
                    sums[here.start + down.start : here.start + down.stop] += tile.sum(dim=1, dtype=torch.float64)
                    if not itself:
                        sums[there.start + across.start : there.start + across.stop] += tile.sum(dim=0, dtype=torch.float64)
    distributed.all_reduce([sums])
    left = ~zero
    return sums[left] / max(int(left.sum()) - 1, 1), zero


def _laid(rows: Tensor, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Bring rows to unit length: (B, D), |x|² (B,), infinite for zero rows, and which these are."""
    exact = rows.to(device, torch.float64)
    zero = zero_rows(exact)
    unit = unit_rows(exact).to(dtype)
    return unit, unit.square().sum(dim=1).masked_fill(zero, torch.inf), zero
