"""Gaussian potentials of unit rows (arXiv:2005.10242): of one batch with gradients, and of all pairs in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedscope import distributed
from embedscope.ops import blocks
from embedscope.ops.class_moments import unit_rows, zero_rows
from embedscope.ops.pairwise import working_dtype

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


def log_potentials(x: Tensor, y: Tensor, t: float) -> Tensor:
    """Compute -t |x - y|² of every row of x with every row of y: (B, D), (M, D) -> (B, M) <= 0, with gradients."""
    squared = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)[None, :] - 2 * x @ y.T
    return -t * squared.clamp(min=0)


def mean_potentials(features: Rows, t: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Compute the mean of exp(-t |x - y|²) over all other rows y, for each row x, both at unit length.

    Zero rows have no direction and are left out. Products are in float32 for float32 and shorter rows, sums in float64.

    Args:
        features: (N, D).
        t: > 0.
        device: that computes.

    Returns:
        (n,) float64 in (0, 1], of the n rows that are not zero, in order; and (N,) bool, which rows are zero.
    """
    count, width = features.shape
    dtype = working_dtype(features.dtype)
    sums = torch.zeros(count, dtype=torch.float64, device=device)
    zero = torch.zeros(count, dtype=torch.bool, device=device)
    mine = distributed.share(count)
    outer = blocks.row_slices(mine.stop, 4 * width * 8, min(8 * blocks.BLOCK_BYTES, blocks.memory() // 4), start=mine.start)
    for here in blocks.tracked(outer, "comparing all pairs", len(outer)):
        x = unit_rows(features[here].to(device, torch.float64)).to(dtype)
        for there in blocks.row_slices(count, 8 * (4 * width + 3 * len(x))):
            block = features[there].to(device, torch.float64)
            zero[there] = zero_rows(block)
            potentials = log_potentials(x, unit_rows(block).to(dtype), t).exp_()
            overlap = range(max(here.start, there.start), min(here.stop, there.stop))
            if overlap:
                same = torch.arange(overlap.start, overlap.stop, device=device)
                potentials[same - here.start, same - there.start] = 0
            sums[here] += potentials.masked_fill_(zero[there], 0).sum(dim=1, dtype=torch.float64)
    distributed.all_reduce([sums])
    if distributed.world_size() > count:  # a process without rows has seen none
        zero = distributed.all_reduce_object(zero, torch.logical_or)
    left = ~zero
    return sums[left] / max(int(left.sum()) - 1, 1), zero
