"""Similarity of two embeddings of the same rows: debiased linear CKA, and the overlap of nearest neighbors.

With kernels K = XXᵀ and L = YYᵀ whose diagonals are set to zero (K°, L°), the unbiased HSIC is

    HSIC = [tr K°L° + (1ᵀK°1)(1ᵀL°1) / ((n - 1)(n - 2)) - 2 / (n - 2) 1ᵀK°L°1] / (n (n - 3))

and CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) (Song et al. 2012, jmlr.org/papers/v13/song12a; Kornblith et al. 2019,
arXiv:1905.00414). It does not change when X is centered, and then the row sums of K° are -|x_i|², so that all terms follow from
cross moments: tr K°L° = |XᵀY|² - sum |x_i|²|y_i|². Nothing of size n x n is computed unless the features are wider than
that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope.errors import UndefinedError
from embedscope.ops import blocks
from embedscope.ops.neighbors import nearest_neighbors

if TYPE_CHECKING:
    from embedscope.ops.rows import Rows

# A variance that is rounding noise of equal rows.
_NOTHING = 1e-24


def linear_cka(first: Rows, second: Rows) -> float:
    """Return the debiased linear CKA of two embeddings of the same rows: 1 for equal ones, about 0 for unrelated ones.

    Invariant to translation, rotation and scale of either. Read in blocks, in float64; memory is that of (D, E), (D, D) and
    (E, E), or of (N, N) where a layer is wider than N.

    Args:
        first: (N, D), any float dtype, in memory or on disk.
        second: (N, E), row i the same sample as row i of the first.

    Returns:
        At most 1 up to rounding; may be below 0.

    Raises:
        UndefinedError: fewer than four rows, or rows of one embedding that are all equal or that differ in one only.
    """
    count = first.shape[0]
    if count != second.shape[0]:
        raise ValueError(f"CKA needs the same rows in both, got {count} and {second.shape[0]}")
    if count < 4:
        raise UndefinedError(f"CKA needs at least 4 rows, got {count}")
    means, scales = zip(*(_mean_and_scale(rows) for rows in (first, second)), strict=True)
    if 0.0 in scales:
        raise UndefinedError("CKA is undefined if all rows of an embedding are equal")
    if max(first.shape[1], second.shape[1]) > count:
        one, other = (
            (rows[:].double() - mean) / scale for rows, mean, scale in zip((first, second), means, scales, strict=True)
        )
        products, norms = _of_kernels(one, other)
    else:
        products, norms = _of_moments(first, second, means, scales)
    within_first, within_second, between = (
        _hsic(product, *pair, count)
        for product, pair in zip(products, ((norms[0], norms[0]), (norms[1], norms[1]), (norms[0], norms[1])), strict=True)
    )
    if min(within_first, within_second) < 1e-12 / count:
        raise UndefinedError("CKA is undefined if the rows of an embedding have no structure besides their norms")
    return between / math.sqrt(within_first * within_second)


def mutual_neighbors(first: Rows, second: Rows, k: int = 10) -> float:
    """Return the share of the k nearest rows, by cosine, that two embeddings have in common: in [0, 1], k / (N - 1) by chance.

    Args:
        first: (N, D), any float dtype.
        second: (N, E), row i the same sample as row i of the first.
        k: at most N - 1.

    Raises:
        UndefinedError: k is not below N.

    Reference: Huh et al. 2024, arXiv:2405.07987.
    """
    count = first.shape[0]
    if not 1 <= k < count:
        raise UndefinedError(f"{k} nearest rows need more than {k} rows, got {count}")
    near = [nearest_neighbors(rows, k, distance="cosine").indices.sort(dim=1).values for rows in (first, second)]
    shared = 0
    for rows in blocks.row_slices(count, k * k * 8):
        shared += int((near[0][rows, :, None] == near[1][rows, None, :]).sum())
    return shared / (count * k)


def _mean_and_scale(rows: Rows) -> tuple[Tensor, float]:
    """Return the mean (D,) float64 and the root of the mean square distance to it; 0.0 if that is rounding noise."""
    count, width = rows.shape
    total, largest = torch.zeros(width, dtype=torch.float64), 0.0
    for _, block in blocks.over_all_rows(rows, torch.float64, torch.device("cpu"), copies=2, description="means"):
        total += block.sum(dim=0)
        largest = max(largest, float(block.abs().max()))
    mean = total / count
    squares = 0.0
    for _, block in blocks.over_all_rows(rows, torch.float64, torch.device("cpu"), copies=3, description="variance"):
        squares += float((block - mean).square().sum())
    return mean, 0.0 if squares <= _NOTHING * count * width * largest**2 else math.sqrt(squares / count)


def _of_moments(
    first: Rows, second: Rows, means: tuple[Tensor, ...], scales: tuple[float, ...]
) -> tuple[list[float], list[Tensor]]:
    """Stream both: |XᵀX|², |YᵀY|² and |XᵀY|², and the squared norms (N,) of the centered, scaled rows of each."""
    count, widths = first.shape[0], (first.shape[1], second.shape[1])
    moments = [torch.zeros(one, other, dtype=torch.float64) for one, other in ((widths[0],) * 2, (widths[1],) * 2, widths)]
    norms: list[list[Tensor]] = [[], []]
    slices = blocks.row_slices(count, 8 * 3 * sum(widths))
    for rows in blocks.tracked(slices, "CKA", len(slices)):
        one, other = (
            (each[rows].to("cpu", torch.float64) - mean) / scale
            for each, mean, scale in zip((first, second), means, scales, strict=True)
        )
        for moment, (left, right) in zip(moments, ((one, one), (other, other), (one, other)), strict=True):
            moment += left.T @ right
        for found, each in zip(norms, (one, other), strict=True):
            found.append(each.square().sum(dim=1))
    return [float(moment.square().sum()) for moment in moments], [torch.cat(found) for found in norms]


def _of_kernels(one: Tensor, other: Tensor) -> tuple[list[float], list[Tensor]]:
    """Compute the same from (N, N) kernels, which are smaller than moments where rows are wider than there are many."""
    kernels = one @ one.T, other @ other.T
    pairs = (kernels[0], kernels[0]), (kernels[1], kernels[1]), kernels
    return [float((left * right).sum()) for left, right in pairs], [kernel.diagonal() for kernel in kernels]


def _hsic(product: float, left: Tensor, right: Tensor, count: int) -> float:
    """Unbiased HSIC of centered rows from |XᵀY|² and the squared norms (N,) of both; see the module's docstring."""
    both = float((left * right).sum())
    sums = float(left.sum()) * float(right.sum()) / ((count - 1) * (count - 2))
    return (product - both + sums - 2 / (count - 2) * both) / (count * (count - 3))
