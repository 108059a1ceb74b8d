"""Rows that lie far from all others, by a threshold that the data give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedscope.errors import UndefinedError

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.neighbors import Neighbors

NEIGHBORS = 10
_FEWEST_ROWS = 20
# How many standard deviations of the logarithm, estimated from the upper half, and how many times the distances of the row's
# neighbours. On Gaussian data at most 0.6% of the rows pass both in 2 dimensions and none in 8 or more (benchmarks/issues.py).
_DEVIATIONS = 4.0
_AROUND = 1.25
_QUARTILE = 0.6745  # of the standard normal


@dataclass(frozen=True)
class Outliers:
    """How far N rows are from their neighbours.

    Attributes:
        ratio: (N,) float64, mean distance to the 10 nearest rows, over the median of that over all rows.
        threshold: ratio above which rows may be outliers.
        found: (N,) bool, the outliers.
    """

    ratio: Tensor
    threshold: float
    found: Tensor


def outliers(neighbors: Neighbors) -> Outliers:
    """Find the rows that are far from their nearest: (N, k) neighbours, k at least 10 -> Outliers.

    An outlier is beyond 4 standard deviations of the logarithms of the ratios, which the median of those above 0 estimates, and
    further from its neighbours than they are from theirs. Outliers that form a group of more than 10 are near one another, and
    are not found.

    Raises:
        UndefinedError: fewer than 20 rows, or most rows have 10 exact copies.
    """
    if len(neighbors.distances) < _FEWEST_ROWS:
        raise UndefinedError(f"outliers need at least {_FEWEST_ROWS} rows, got {len(neighbors.distances)}")
    near = neighbors.first(NEIGHBORS)
    mean = near.distances.mean(dim=1)
    usual = mean.median()
    if usual == 0:
        raise UndefinedError(f"outliers are undefined: more than half of the rows have {NEIGHBORS} exact copies")
    ratio = mean / usual
    above = ratio[ratio > 1]
    spread = above.log().median() / _QUARTILE if len(above) else torch.tensor(0.0)
    threshold = float((_DEVIATIONS * spread).exp())
    around = mean[near.indices].median(dim=1).values
    return Outliers(ratio, threshold, (ratio > threshold) & (mean > _AROUND * around))
