"""Counts and sums per class: sufficient for class means, and for everything that is quadratic in the features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Classes:
    """The classes that have at least one row.

    Attributes:
        labels: (K,) the distinct labels, ascending; gaps in the numbering are no classes.
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


def class_sums(values: Tensor, index: Tensor, num_classes: int) -> Tensor:
    """Sum the rows of each class: (N, D), (N,) -> (K, D). Differentiable in `values`."""
    return values.new_zeros(num_classes, *values.shape[1:]).index_add(0, index, values)
