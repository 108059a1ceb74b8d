"""Distances between rows: never negative, exactly zero between equal rows, accurate between near ones."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from embedscope.ops.blocks import row_slices
from embedscope.ops.class_moments import class_sums, unit_rows

# |x|² + |y|² - 2 x·y has an absolute error of about eps (|x|² + |y|²). Pairs nearer than this share of the norms are computed
# again from their difference, so that a distance is off by eps / (2 share) of itself at most: 4e-6 and 1e-10.
NEAR = {torch.float32: 2.0**-6, torch.float64: 2.0**-20}


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances of every row of x to every row of y: (B, D), (M, D) -> (B, M).

    One matrix product; pairs for which it loses more than half of its digits are computed again from their difference. Absolute
    error about eps (|x|² + |y|²) elsewhere, so move the origin near the data first. Not differentiable.
    """
    xx = x.square().sum(dim=1)  # (B,)
    yy = y.square().sum(dim=1)  # (M,)
    squared = torch.addmm(yy[None, :], x, y.T, alpha=-2).add_(xx[:, None])  # (B, M)
    share = torch.finfo(x.dtype).eps ** 0.5
    rows, columns = (squared <= share * (xx[:, None] + yy[None, :])).nonzero(as_tuple=True)
    for block in row_slices(len(rows), x.shape[1] * x.element_size() * 3):
        i, j = rows[block], columns[block]
        squared[i, j] = (x[i] - y[j]).square().sum(dim=1)
    return squared


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Choose what products are computed in: float64 for float64, float32 for everything shorter."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class Frame:
    """Origin and unit of the distances.

    Attributes:
        center: (D,) float64, the mean of the scaled (or unit) rows: moving the origin there changes no distance, and the nearer
            the rows, the fewer digits cancel.
        scale: a power of two that brings the largest number to about 1, so that squares neither overflow nor vanish; distances
            are this many times too large. 1 for unit rows.
        near: how many times NEAR pairs are computed again at, for float32; see `near_for`.
    """

    center: Tensor
    scale: float
    near: float = 1.0


def near_for(rows_per_class: float) -> float:
    """Return how many times NEAR the pairs reach that are computed again from their difference, in float32: 1 to 8.

    Errors average out in the mean distance to a class of many rows; to a class of two they do not, and a silhouette of classes
    around a common center, far from that of all rows, would be off by 2e-5.
    """
    return max(1.0, 8.0 / math.sqrt(max(1.0, rows_per_class)))


class PreparedRows:
    """Rows in a frame, laid out so that one matrix product gives squared distances.

    Attributes:
        left: (P, D + 2), [x, |x|², 1]: its product with `right`, [-2 y, 1, |y|²], is |x - y|².
        norms: (P,), |x|².
        near: share of the norms below which the squared distance of a pair is computed again from its difference.
    """

    def __init__(self, features: Tensor, order: Tensor | None, frame: Frame, *, unit: bool) -> None:
        """Prepare (N, D) features as they are or, in an order (P,), by row number; at unit length if asked."""
        self._features, self._order, self._unit = features, order, unit
        self._center, self._scale = frame.center.to(features.device), frame.scale
        dtype = working_dtype(features.dtype)
        self.near = NEAR[dtype] * (frame.near if dtype == torch.float32 else 1)
        rows, width = len(features) if order is None else len(order), features.shape[1]
        self.left = torch.empty(rows, width + 2, dtype=working_dtype(features.dtype), device=features.device)
        # float32 rows need no float64 on the way: whatever the center is rounded to, all of them are moved by the same.
        direct = features.dtype == torch.float32 and not unit and self._scale < 2.0**100
        for block in row_slices(rows, width * 24):
            if direct:
                here = features[block] if order is None else features.index_select(0, order[block])
                torch.sub(here * self._scale, self._center.float(), out=self.left[block, :width])
            else:
                here = self.exact(torch.arange(block.start, block.stop, device=features.device))
                self.left[block, :width] = here - self._center
        self.norms = self.left[:, :width].square().sum(dim=1)
        self.left[:, width] = self.norms
        self.left[:, width + 1] = 1

    def __len__(self) -> int:
        return len(self.left)

    def right(self, rows: slice) -> Tensor:
        """Lay some rows out as the right-hand side of the product: (D + 2, B)."""
        right = self.left[rows].clone()
        right[:, :-2] *= -2
        right[:, -2], right[:, -1] = 1, self.norms[rows]
        return right.T

    def selected(self, positions: Tensor | slice) -> PreparedRows:
        """Return the rows at (n,) positions, copied, or those of a slice, which stay where they are."""
        found = copy.copy(self)
        order = torch.arange(len(self), device=self.left.device) if self._order is None else self._order
        found._order = order[positions]
        if isinstance(positions, slice):
            found.left, found.norms = self.left[positions], self.norms[positions]
        else:
            found.left, found.norms = self.left.index_select(0, positions), self.norms[positions]
        return found

    def exact(self, positions: Tensor) -> Tensor:
        """Return rows at (n,) positions in float64, not about the center, which an outlier moves far from them: (n, D)."""
        rows = self._features[positions if self._order is None else self._order[positions]].double()
        return unit_rows(rows) if self._unit else rows * self._scale


def distance_tile(
    x: PreparedRows,
    rows: slice,
    y: PreparedRows,
    columns: slice,
    right: Tensor,
    buffer: Tensor | None = None,
    *,
    diagonal: bool = False,
) -> Tensor:
    """Compute the distances of some rows of x to some rows of y, of which `right` is the right-hand side: -> (R, C).

    The tile lies in the `buffer`, if any, until the next call: fresh memory for each tile costs a third of the time. With
    `diagonal`, rows and columns are the same rows, each of which is 0 from itself.
    """
    left = x.left[rows]
    size = len(left) * right.shape[1]
    out = None if buffer is None else buffer[:size].view(len(left), right.shape[1])
    squared = torch.mm(left, right, out=out)
    if diagonal:
        squared.fill_diagonal_(torch.inf)  # not near, so that it is not computed again
    share = y.near
    # A row is looked at only if its nearest column may be near: this pass costs less than clamping, which it replaces.
    suspicious = squared.amin(dim=1) <= share * (x.norms[rows] + y.norms[columns].max())
    near = suspicious.nonzero().squeeze(1)
    if len(near):
        bound = share * (x.norms[rows][near, None] + y.norms[columns])
        i, j = (squared[near] <= bound).nonzero(as_tuple=True)
        i = near[i]
        _compute_again(squared, i, j, x, rows, y, columns)
    if diagonal:
        squared.fill_diagonal_(0)
    return squared.sqrt_()


def _compute_again(
    squared: Tensor, i: Tensor, j: Tensor, x: PreparedRows, rows: slice, y: PreparedRows, columns: slice
) -> None:
    # Where many pairs are near, one product in float64 costs less than their differences.
    if len(i) > squared.numel() // 16:
        first = torch.arange(rows.start, rows.stop, device=squared.device)
        second = torch.arange(columns.start, columns.stop, device=squared.device)
        left, right = x.exact(first), y.exact(second)
        origin = right[y.norms[columns].argmin()]  # of the rows themselves, and not an outlier
        squared.copy_(squared_distances(left - origin, right - origin))
        return
    for block in row_slices(len(i), squared.element_size() * 6 * x.left.shape[1]):
        gap = x.exact(i[block] + rows.start) - y.exact(j[block] + columns.start)
        squared[i[block], j[block]] = gap.square().sum(dim=1).to(squared.dtype)


def distances(x: Tensor) -> Tensor:
    """Euclidean distances between the rows of one batch, with gradients: (B, D) -> (B, B), zero on the diagonal.

    The gradient of a distance at zero (a row and its duplicate, or itself) is 0, the one subgradient that pushes neither row.
    """
    norms = x.square().sum(dim=1)  # (B,)
    squared = norms[:, None] + norms[None, :] - 2 * x @ x.T  # (B, B)
    # The square root has an infinite slope at 0: keep zeros out of it, in the value and in the graph.
    # What is not a number is not near, so that it shows.
    apart = ~(squared <= torch.finfo(x.dtype).eps * (norms[:, None] + norms[None, :]))
    apart = apart & ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    return torch.where(apart, squared, 1.0).sqrt() * apart


class _DistanceSums(torch.autograd.Function):
    """Sums of distances to groups of a batch, with a backward of one product and a few passes over blocks of the pairs.

    With G the gradient of the sums and g(i) the group of row i, a pair pulls with p_ij = (G_g(i)j + G_g(j)i) / |x_i - x_j|, and
    the gradient of a row is sum_j p_ij (x_i - x_j). Autograd would keep seven matrices of all pairs, and walk through each.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, groups: int) -> Tensor:
        # |x|² + |y|² - 2 x·y as one product of (B, D + 2). What rounding may have added to a distance is taken off it, so that
        # a row and its duplicate come to 0; NaN stays, so that it shows.
        norms = (1 - torch.finfo(x.dtype).eps) * x.square().sum(dim=1, keepdim=True)  # (B, 1)
        ones = torch.full_like(norms, 1)
        squared = torch.cat([-2 * x, norms, ones], dim=1) @ torch.cat([x, ones, norms], dim=1).T  # (B, B)
        between = squared.clamp_min_(0).sqrt_().fill_diagonal_(0)
        ctx.save_for_backward(x, index, between)
        return class_sums(between, index, groups)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # (G, B)
        x, index, between = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative, autograd has to see it all
            sums = class_sums(distances(x), index, len(gradient))
            return torch.autograd.grad(sums, x, gradient, create_graph=True)[0], None, None
        by_row = gradient.T.contiguous()  # (B, G)
        result = torch.empty_like(x)
        for rows in row_slices(len(x), 3 * len(x) * x.element_size()):
            pull = by_row[rows].gather(1, index.expand(rows.stop - rows.start, -1))  # (R, B)
            # Where there is no distance, there is no direction and no pull.
            pull.add_(gradient.index_select(0, index[rows])).div_(between[rows]).nan_to_num_(0, 0, 0)
            result[rows] = torch.addmm(pull.sum(dim=1, keepdim=True) * x[rows], pull, x, alpha=-1)
        return result, None, None


def distance_sums(x: Tensor, index: Tensor, groups: int) -> Tensor:
    """Sum the Euclidean distances of each row of a batch to the rows of each group, with gradients.

    The distance of a row to itself and to its duplicates is 0, and so is its gradient: the one subgradient that pushes neither.

    Args:
        x: (B, D).
        index: (B,) int64, the group of each row, from 0 to `groups` - 1.
        groups: G, how many.

    Returns:
        (G, B).
    """
    if torch.compiler.is_compiling():  # which fuses what autograd would walk through, and cannot ask for the memory limit
        return class_sums(distances(x), index, groups)
    sums: Tensor = _DistanceSums.apply(x, index, groups)  # type: ignore[no-untyped-call]
    return sums
