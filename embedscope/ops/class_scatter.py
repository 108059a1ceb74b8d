"""Scatter within and between the classes, from one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedscope import distributed
from embedscope.errors import UndefinedError
from embedscope.ops.class_moments import Classes, ClassMoments, merged_moments, moments_of, zero_rows

if TYPE_CHECKING:
    from torch import Tensor


class ClassScatter:
    """Gathers the means of the classes and the products of rows about them.

    With fewer rows than dimensions, it keeps the rows, and rotates them into the N dimensions that they span: means and
    products are then in those coordinates, about the mean of all rows. All in float64. d = min(N, D).

    Attributes, filled by `fold`:
        counts: (K,) float64.
        means: (K, d) of the classes, each about an origin that they share.
        within: (d, d), the sum of (x - mean)(x - mean)' over all rows, each about the mean of its class.
    """

    def __init__(self, classes: Classes, width: int, device: torch.device) -> None:
        self.classes, self.width = classes, width
        self._kept: list[Tensor] | None = [] if len(classes.index) < width else None
        side = 0 if self._kept is not None else width
        nothing = torch.zeros(0, side, dtype=torch.float64, device=device)
        self._moments = moments_of(nothing, classes.index[:0], len(classes), zero_rows(nothing))
        self.within = torch.zeros(side, side, dtype=torch.float64, device=device)

    @property
    def counts(self) -> Tensor:
        """How many rows each class has."""
        return self._moments.counts

    @property
    def means(self) -> Tensor:
        """Means of the classes."""
        return self._moments.means

    def take(self, rows: slice, block: Tensor) -> None:
        """Take in (B, D) rows."""
        if self._kept is not None:
            self._kept.append(block)
            return
        self._moments, self.within = _merged(
            (self._moments, self.within), _scatter_of(block, self.classes.index[rows], len(self.classes))
        )

    def fold(self) -> None:
        """Merge with the other processes."""
        if self._kept is not None:
            empty = torch.zeros(0, self.width, dtype=torch.float64, device=self.within.device)
            rows = distributed.all_gather(torch.cat([empty, *self._kept]))
            # Rows are the columns of QR, and R the same rows in the axes of Q.
            rows = torch.linalg.qr((rows - rows.mean(dim=0)).T)[1].T.contiguous()
            self._moments, self.within = _scatter_of(rows, self.classes.index, len(self.classes))
            self._kept = []
            return
        device = self.within.device
        self._moments, within = distributed.all_reduce_object((self._moments, self.within.cpu()), _merged)
        self.within = within.to(device)

    def between(self) -> Tensor:
        """Class means about the mean of the class means, in which every class counts the same: (K, d).

        UndefinedError for fewer than two classes, or if all class means are equal.
        """
        if len(self.classes) < 2:
            raise UndefinedError("there is only one class, so no spread between classes")
        means = self.means - self.means.mean(dim=0)
        if not bool(torch.isfinite(self.within).all()) or not bool(torch.isfinite(means.square().sum())):
            raise UndefinedError("the features are too large: their squares overflow")
        if float(means.abs().max()) <= 4 * torch.finfo(means.dtype).eps * self._moments.largest:
            raise UndefinedError("all class means are equal")
        return means


def class_scatter(classes: Classes, width: int, device: torch.device) -> ClassScatter:
    """Make a gatherer for the rows of these classes."""
    return ClassScatter(classes, width, device)


def between_directions(means: Tensor) -> tuple[Tensor, Tensor]:
    """Find the variances and directions in which centered means differ: (K, d) -> (r,) descending > 0, (d, r) orthonormal.

    Variances are the eigenvalues of S_B, the mean of the outer products of the means, above max(K, d) eps of the largest.
    """
    count = len(means)
    values, vectors = torch.linalg.eigh(means @ means.T / count)  # those of S_B, at most K of them
    values, vectors = values.flip(0), vectors.flip(1)
    kept = values > values[0] * max(means.shape) * torch.finfo(values.dtype).eps
    values = values[kept]
    return values, means.T @ vectors[:, kept] / (count * values).sqrt()


def _scatter_of(rows: Tensor, index: Tensor, num_classes: int) -> tuple[ClassMoments, Tensor]:
    moments = moments_of(rows, index, num_classes, zero_rows(rows))
    residuals = rows - moments.means[index]
    return moments, residuals.T @ residuals


def _merged(a: tuple[ClassMoments, Tensor], b: tuple[ClassMoments, Tensor]) -> tuple[ClassMoments, Tensor]:
    """Merge means and products (Chan et al. 1979); classes that only one of them has add nothing."""
    share = a[0].counts * b[0].counts / (a[0].counts + b[0].counts).clamp(min=1)
    both = share > 0
    gap = ((b[0].means - a[0].means) * share.sqrt()[:, None])[both].to(a[1].device)
    return merged_moments(a[0], b[0]), a[1] + b[1] + gap.T @ gap
