"""Squared distances between rows: never negative, exactly zero between equal rows, accurate between near ones."""

from __future__ import annotations

import torch
from torch import Tensor

from embedscope.ops.blocks import row_slices


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances of every row of x to every row of y: (B, D), (M, D) -> (B, M).

    One matrix product; |x|² + |y|² - 2 x·y loses all digits where x and y are nearly equal, so those pairs are computed
    again from their difference. Absolute error about eps (|x|² + |y|²) elsewhere, so move the origin near the data first.
    Not differentiable; see `distances` for that.
    """
    xx = x.square().sum(dim=1)  # (B,)
    yy = y.square().sum(dim=1)  # (M,)
    squared = torch.addmm(yy[None, :], x, y.T, alpha=-2).add_(xx[:, None])  # (B, M)
    # Below this share of the norms less than half of the digits of the product are left.
    share = torch.finfo(x.dtype).eps ** 0.5
    rows, columns = (squared <= share * (xx[:, None] + yy[None, :])).nonzero(as_tuple=True)
    for block in row_slices(len(rows), x.shape[1] * x.element_size() * 3):
        i, j = rows[block], columns[block]
        squared[i, j] = (x[i] - y[j]).square().sum(dim=1)
    return squared


def distances(x: Tensor) -> Tensor:
    """Euclidean distances between the rows of one batch, with gradients: (B, D) -> (B, B), zero on the diagonal.

    The gradient of a distance at zero (a row and its duplicate, or itself) is 0, the one subgradient that pushes neither row.
    """
    norms = x.square().sum(dim=1)  # (B,)
    squared = norms[:, None] + norms[None, :] - 2 * x @ x.T  # (B, B)
    # The square root has an infinite slope at 0: keep zeros out of it, in the value and in the graph.
    apart = squared > torch.finfo(x.dtype).eps * (norms[:, None] + norms[None, :])
    apart = apart & ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    return torch.where(apart, squared, 1.0).sqrt() * apart
