"""Rows that lie far from all others, by a threshold derived from the data."""

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
# neighbors. On Gaussian data at most 0.6% of the rows pass both in 2 dimensions and none in 8 or more (benchmarks/issues.py).
_DEVIATIONS = 4.0
_AROUND = 1.25
# Share of the rows up to which rows that are far out are outliers. More of them are a group, such as a wide class in data
# without labels, and are compared with one another: of 100 or 200 among 1,000 Gaussian rows 5 times as wide as the others, none
# is then called an outlier in 8 to 64 dimensions, but for 9 in one of 18 cases (benchmarks/RESULTS.md).
_MOST = 0.05
_QUARTILE = 0.6745  # of the standard normal


@dataclass(frozen=True)
class Outliers:
    """Distances of N rows from their neighbors.

    Attributes:
        ratio: (N,) float64, mean distance to the 10 nearest rows, over the median of that over all rows.
        threshold: ratio above which rows may be outliers.
        found: (N,) bool, the outliers.
        group: number of rows that are as far out, and so many that they are compared with one another.
    """

    ratio: Tensor
    threshold: float
    found: Tensor
    group: int


def outliers(neighbors: Neighbors, labels: Tensor | None = None) -> Outliers:
    """Find the rows that are far from their nearest neighbors: (N, k) neighbors, k at least 10 -> Outliers.

    An outlier is beyond 4 standard deviations of the logarithms of three ratios: of its mean distance to its 10 nearest to the
    median of all rows, to that of its class, and to that of its neighbors, as in the local outlier factor
    (doi:10.1145/342009.335388). The median of the logarithms above 0 estimates each deviation. Outliers that form a group of
    more than 10 are near one another, and are not found. Where more than 5% of the rows that are not compared with a class (and
    more than 20) are so far out, each has to be far out among these, too.

    Args:
        neighbors: of all rows.
        labels: (N,) integers; negative ones, and those of classes of fewer than 20 rows, are compared with all rows only.

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
    threshold = _threshold(ratio)
    around = mean[near.indices].median(dim=1).values
    # Where the neighbors are copies of one another, the row is as far from them as can be.
    local = torch.where(around > 0, mean / around, torch.where(mean > 0, torch.inf, 1.0))
    found = (ratio > threshold) & (local > max(_AROUND, _threshold(local[local.isfinite()])))
    loose = torch.ones_like(found)  # rows that are compared with all others only
    if labels is not None:
        for label in torch.unique(labels[labels >= 0]).tolist():
            members = (labels == label).nonzero().squeeze(1)
            own = mean[members]
            if len(members) >= _FEWEST_ROWS and (middle := own.median()) > 0:
                found[members] &= own / middle > _threshold(own / middle)
                loose[members] = False
    group = 0
    while len(far := (found & loose).nonzero().squeeze(1)) > max(_FEWEST_ROWS, _MOST * int(loose.sum())):
        own = mean[far] / mean[far].median()
        found[far] = own > _threshold(own)
        group += len(far) - int(found[far].sum())
    return Outliers(ratio, threshold, found, group)


def _threshold(ratio: Tensor) -> float:
    """Return what is beyond 4 standard deviations: (n,) ratios to a typical value -> at least 1."""
    above = ratio[ratio > 1]
    return float((_DEVIATIONS * above.log().median() / _QUARTILE).exp()) if len(above) else 1.0
