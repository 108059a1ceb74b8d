"""Eigenvalues of the covariance of the features, from one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope import distributed
from embedscope.errors import UndefinedError

if TYPE_CHECKING:
    from embedscope.ops.class_moments import Classes


class Covariance:
    """Gathers the mean and the centered products of rows (Chan et al. 1979, doi:10.1007/978-3-642-51461-6_3).

    Where there are fewer rows than dimensions, it keeps the rows and takes their N x N Gram matrix instead. All in float64.
    """

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self.rows, self.width, self.device = rows, width, device
        self._kept: list[Tensor] | None = [] if rows < width else None
        self._count = 0
        self._largest = 0.0
        self._mean = torch.zeros(width, dtype=torch.float64, device=device)
        side = 0 if self._kept is not None else width
        self._product = torch.zeros(side, side, dtype=torch.float64, device=device)

    def take(self, rows: slice, block: Tensor) -> None:
        """Take in (B, D) rows."""
        self._largest = max(self._largest, float(block.abs().max()))
        if self._kept is not None:
            self._kept.append(block)
            return
        mean = block.mean(dim=0)
        centered = block - mean
        self._count, self._mean, self._product = _merged(
            (self._count, self._mean, self._product), (len(block), mean, centered.T @ centered)
        )

    def fold(self) -> None:
        """Merge with the other processes."""
        self._largest = distributed.all_reduce_object(self._largest, max)
        if self._kept is not None:
            rows = distributed.all_gather(torch.cat([self._mean.new_zeros(0, self.width), *self._kept]))
            self._mean = rows.mean(dim=0)
            self._kept = [rows - self._mean]
            return
        state = self._count, self._mean.cpu(), self._product.cpu()
        _, mean, product = distributed.all_reduce_object(state, _merged)
        self._mean, self._product = mean.to(self.device), product.to(self.device)

    def eigenvalues(self) -> Tensor:
        """Eigenvalues of the covariance (divisor N - 1): (min(N, D),), descending, >= 0."""
        product = self._product if self._kept is None else self._kept[0] @ self._kept[0].T
        eigenvalues = _eigenvalues(product / max(self.rows - 1, 1), max(self.rows, self.width))
        # The mean is rounded: rows that are all equal keep about eps of their size around it.
        rounding = (4 * torch.finfo(torch.float64).eps * self._largest) ** 2 * self.width
        return eigenvalues.masked_fill(eigenvalues <= rounding, 0)

    def second_moment_eigenvalues(self) -> Tensor:
        """Squared singular values of Z, about the origin instead of the mean: (min(N, D),), descending."""
        if self._kept is None:
            product = self._product + self.rows * torch.outer(self._mean, self._mean)
        else:
            rows = self._kept[0] + self._mean
            product = rows @ rows.T
        return _eigenvalues(product, max(self.rows, self.width))


def covariance(classes: Classes, width: int, device: torch.device) -> Covariance:
    """Make a gatherer for the rows of these classes."""
    return Covariance(len(classes.index), width, device)


_State = tuple[int, Tensor, Tensor]


def _merged(a: _State, b: _State) -> _State:
    count = a[0] + b[0]
    if not count:
        return a
    gap = b[1] - a[1]
    return count, a[1] + gap * (b[0] / count), a[2] + b[2] + torch.outer(gap, gap) * (a[0] * b[0] / count)


def _eigenvalues(product: Tensor, size: int) -> Tensor:
    if not bool(torch.isfinite(product).all()):
        raise UndefinedError("the features are too large: their squares overflow")
    values: Tensor = torch.linalg.eigvalsh(product).flip(0)
    # Below this, an eigenvalue is rounding (the usual bound of a numerical rank), and has no logarithm worth taking.
    floor = values[0].clamp(min=0) * torch.finfo(values.dtype).eps * size
    return values.masked_fill(values <= floor, 0)


def entropy_rank(shares: Tensor) -> Tensor:
    """Compute exp of the entropy of shares (D,) >= 0 that sum to about 1: their effective number."""
    return torch.exp(-torch.xlogy(shares, shares).sum())


def principal_axes(rows: Tensor, share: float) -> Tensor:
    """Find the fewest principal axes of a batch that explain a share in (0, 1] of its variance: (B, D) -> (D, P), orthonormal.

    No graph: the gradient of an axis is unbounded where two variances are nearly equal. One axis of zeros if all rows are
    equal.
    """
    with torch.no_grad():
        rows = rows - rows.mean(dim=0)
        few = len(rows) < rows.shape[1]
        product = rows @ rows.T if few else rows.T @ rows
        # Rows that are not finite are for the caller to notice; eigh would raise.
        variances, vectors = torch.linalg.eigh(product.nan_to_num(0, 0, 0))  # ascending
        variances, vectors = variances.clamp(min=0).flip(0), vectors.flip(1)
        held = variances.cumsum(dim=0)
        count = int((held < share * held[-1]).sum()) + 1
        axes: Tensor = vectors[:, :count] * (held[-1] > 0)
        if few:
            axes = rows.T @ axes / variances[:count].sqrt().clamp(min=torch.finfo(rows.dtype).tiny)
        return axes
