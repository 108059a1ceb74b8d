"""Counts, means and spread per class, sufficient for anything quadratic in the features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from embedscope import distributed


@dataclass(frozen=True)
class Classes:
    """The classes that have at least one row.

    Attributes:
        labels: (K,) the distinct labels, ascending; gaps in the numbering do not count as classes.
        index: (N,) int64, the position of each row's class in `labels`.
        counts: (K,) int64, at least 1.
    """

    labels: Tensor
    index: Tensor
    counts: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def present_classes(labels: Tensor) -> Classes:
    """Find the classes that occur: (N,) integers of any value -> Classes."""
    return Classes(*torch.unique(labels, sorted=True, return_inverse=True, return_counts=True))


def all_classes(labels: Tensor, num_classes: int) -> Classes:
    """Take all classes, those without a row too: (N,) integers in [0, K) -> Classes with counts of at least 0."""
    counts = labels.new_zeros(num_classes).index_add(0, labels, torch.ones_like(labels))
    return Classes(torch.arange(num_classes, device=labels.device), labels, counts)


def class_sums(values: Tensor, index: Tensor, num_classes: int) -> Tensor:
    """Sum the rows of each class: (N, D), (N,) -> (K, D). Differentiable in `values`."""
    return values.new_zeros(num_classes, *values.shape[1:]).index_add(0, index, values)


def squared_to_means(rows: Tensor, classes: Classes) -> Tensor:
    """Compute squared Euclidean distances to the class means, with gradients through both: (B, D) -> (B, K) >= 0.

    The distance to the own mean is taken from the difference, so that a class of equal rows has no spread; the others are of
    one matrix product about the mean of the batch.
    """
    rows = rows - rows.mean(dim=0).detach()  # changes no distance and no gradient, and cancels fewer digits
    means = class_sums(rows, classes.index, len(classes)) / classes.counts[:, None]  # (K, D)
    squared = rows.square().sum(dim=1)[:, None] + means.square().sum(dim=1) - 2 * rows @ means.T
    own = (rows - means[classes.index]).square().sum(dim=1)
    return squared.clamp(min=0).scatter(1, classes.index[:, None], own[:, None])


def smallest_spread(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what a class variance may not fall below where one divides by it: (B, D) -> 0-d > 0, no graph.

    It is eps of the dtype that the rows came in, times the variance of the batch: smaller ones are noise in d² / variance, and
    their gradients overflow a half. Equal rows differ by eps of their length when their mean is rounded: that is added.
    """
    with torch.no_grad():
        spread = (rows - rows.mean(dim=0)).square().sum(dim=1).mean()
        rounding = torch.finfo(rows.dtype).eps * rows.square().sum(dim=1).mean()
        return (torch.finfo(dtype).eps * (spread + rounding)).clamp(min=torch.finfo(rows.dtype).tiny)


@dataclass(frozen=True)
class ClassMoments:
    """Means and spread of the classes, of all rows or of some; two of them merge into that of both.

    Attributes:
        counts: (K,) float64, how many rows of each class; may be 0.
        means: (K, D) float64, 0 for a class without rows.
        spread: (K,) float64, the sum of |x - mean|² over the rows of each class.
        zeros: (K,) float64, how many rows of each class were zero before anything was done to them.
        largest: the largest |x| of any row.
    """

    counts: Tensor
    means: Tensor
    spread: Tensor
    zeros: Tensor
    largest: float


def moments_of(rows: Tensor, index: Tensor, num_classes: int, zero: Tensor) -> ClassMoments:
    """Compute the moments of some rows: (B, D) float64, (B,) classes, (B,) bool -> ClassMoments.

    Two passes, mean and then spread: a class of equal rows has no spread, however far from the origin it lies.
    """
    counts = torch.bincount(index, minlength=num_classes).to(rows.dtype)
    means = class_sums(rows, index, num_classes) / counts.clamp(min=1)[:, None]
    spread = class_sums((rows - means[index]).square().sum(dim=1), index, num_classes)
    zeros = class_sums(zero.to(rows.dtype), index, num_classes)
    return ClassMoments(counts, means, spread, zeros, float(rows.square().sum(dim=1).max().sqrt()) if len(rows) else 0.0)


class MomentsOfClasses:
    """Gathers the moments of the classes, of unit rows if asked."""

    def __init__(self, classes: Classes, width: int, device: torch.device, *, unit: bool) -> None:
        self.classes, self.unit = classes, unit
        nothing = torch.zeros(0, width, dtype=torch.float64, device=device)
        self.moments = moments_of(nothing, classes.index[:0], len(classes), nothing.any(dim=1))

    def take(self, rows: slice, block: Tensor) -> None:
        """Take in (B, D) rows."""
        values = unit_rows(block) if self.unit else block
        part = moments_of(values, self.classes.index[rows], len(self.classes), zero_rows(block))
        self.moments = merged_moments(self.moments, part)

    def fold(self) -> None:
        """Merge with the other processes."""
        self.moments = distributed.all_reduce_object(self.moments, merged_moments)


def raw_moments(classes: Classes, width: int, device: torch.device) -> MomentsOfClasses:
    """Make a gatherer of the moments of the rows as they are."""
    return MomentsOfClasses(classes, width, device, unit=False)


def unit_moments(classes: Classes, width: int, device: torch.device) -> MomentsOfClasses:
    """Make a gatherer of the moments of the rows at unit length."""
    return MomentsOfClasses(classes, width, device, unit=True)


def unit_rows(rows: Tensor) -> Tensor:
    """Divide every row by its length, whatever that is; a zero row stays zero: (B, D) float64.

    Losses take `cosines.directions`.
    """
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    odd = ~((lengths > 1e-140) & (lengths < torch.inf)).squeeze(1)  # squares that vanish or overflow
    if bool(odd.any()):
        largest = rows[odd].abs().amax(dim=1, keepdim=True)
        rows = rows.clone()
        rows[odd] = rows[odd] / largest.masked_fill(largest == 0, 1)
        lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / lengths.masked_fill(lengths == 0, 1)


def zero_rows(rows: Tensor) -> Tensor:
    """Tell which rows are exactly zero: (B, D) -> (B,) bool."""
    zero: Tensor = torch.linalg.vector_norm(rows, dim=1) == 0
    return zero & (rows == 0).all(dim=1) if bool(zero.any()) else zero


def merged_moments(a: ClassMoments, b: ClassMoments) -> ClassMoments:
    """Merge the moments of two sets of rows (Chan et al. 1979, doi:10.1007/978-3-642-51461-6_3)."""
    counts = a.counts + b.counts
    share = b.counts / counts.clamp(min=1)
    gap = b.means - a.means
    return ClassMoments(
        counts=counts,
        means=a.means + gap * share[:, None],
        spread=a.spread + b.spread + gap.square().sum(dim=1) * a.counts * share,
        zeros=a.zeros + b.zeros,
        largest=max(a.largest, b.largest),
    )
