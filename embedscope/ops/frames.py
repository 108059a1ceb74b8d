"""One pass over the rows before their distances: the origin, the unit, and where the classes lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedscope import distributed
from embedscope.ops import blocks
from embedscope.ops.class_moments import class_sums, unit_rows
from embedscope.ops.pairwise import Frame, near_for

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.class_moments import Classes
    from embedscope.ops.rows import Rows

# Of squared distances where the largest number is 1: an outlier is 1e15 times further away than other rows from each other.
_VANISHING = 1e-30


@dataclass(frozen=True)
class Survey:
    """Results of one pass over the rows.

    Attributes:
        frame: the origin and the unit of length for distances.
        means: (K, D) float64, the class means in that frame; None if they take too much memory.
        spread: (K,) float64, the mean of |x - mean|² over each class, in the unit of the frame; an estimate, since it is a
            difference of large numbers if the rows lie far from the origin.
    """

    frame: Frame
    means: Tensor | None
    spread: Tensor

    @property
    def beyond_float32(self) -> bool:
        """Whether a class is so small against the largest number that its squared distances vanish in float32."""
        inside = self.spread[self.spread > 0]
        return len(inside) > 0 and float(inside.min()) < _VANISHING


def surveyed(features: Rows, classes: Classes, *, unit: bool) -> Survey:
    """Pass over the rows once; of unit rows if asked."""
    size, width, device = len(classes), features.shape[1], classes.index.device
    by_class = size * width * 8 <= blocks.memory() // 8
    total = torch.zeros(size if by_class else 1, width, dtype=torch.float64, device=device)
    squares = torch.zeros(size, dtype=torch.float64, device=device)
    largest = 0.0
    for block, rows in blocks.over_rows(features, torch.float64, device, description="mean"):
        values = unit_rows(rows) if unit else rows
        index = classes.index[block]
        total += class_sums(values, index, size) if by_class else values.sum(dim=0)
        lowest, highest = map(float, rows.aminmax())
        largest = max(largest, -lowest, highest)
        squares += class_sums(values.square().sum(dim=1), index, size)
    total = distributed.all_reduce_object(total, torch.add)
    squares = distributed.all_reduce_object(squares, torch.add)
    largest = distributed.all_reduce_object(largest, max)
    scale = 1.0 if unit or not 0 < largest < math.inf else 2.0 ** -max(-1000, min(1000, math.frexp(largest)[1]))
    frame = Frame(total.sum(dim=0) / features.shape[0] * scale, scale, near_for(features.shape[0] / size))
    if not by_class:
        return Survey(frame, None, squares)
    means = total / classes.counts[:, None] * scale
    spread = squares / classes.counts * scale * scale - means.square().sum(dim=1)
    return Survey(frame, means - frame.center, spread.clamp(min=0))
