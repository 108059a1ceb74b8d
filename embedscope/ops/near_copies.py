"""Rows that are copies of one another, exact or nearly so, by a threshold that the data give.

A row has a near copy if the copy is much nearer than rows usually are to their nearest: by default below 0.13 times the median
distance to the nearest row, cleanlab's default. Two corrections keep ordinary data free of false ones:

- In m dimensions the share of rows whose nearest is that near by chance is about ln 2 · 0.13^m, 1.2% for m = 2. The factor is
  lowered until one row among all is expected. m is estimated from the ratio of the first two distances (TwoNN,
  doi:10.1038/s41598-017-11873-y), by its median.
- The copy must be as near by what is usual for the row's own k neighbors (0.7 quantile), too, so that the rows of a class
  denser than the others are not copies. Groups of more than 0.7 k near copies are therefore not found unless they are exact,
  and neither are near copies in data of which most rows have one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.neighbors import Neighbors

SHARE = 0.13
_AROUND = 0.7  # quantile of the neighbors of a row: most of them may be copies, too


@dataclass(frozen=True)
class Copies:
    """Groups of copies among N rows.

    Attributes:
        group: (N,) int64, the smallest position in the row's group: its own if it has no copy.
        threshold: distance below which two rows were taken for copies, before the correction for density.
        usual: the median distance to the nearest row; 0 where more than half of the rows have an exact copy.
    """

    group: Tensor
    threshold: float
    usual: float


def near_copies(neighbors: Neighbors) -> Copies:
    """Group the rows that are copies: (N, k) neighbors, best 20 or more -> Copies.

    Exact copies are always found. A group is connected: each of its rows is a copy of one of the others, not of all.
    """
    first = neighbors.distances[:, 0]
    usual = float(first.median())
    threshold = _factor(neighbors) * usual
    around = first[neighbors.indices].quantile(_AROUND, dim=1, interpolation="lower")  # (N,) what is usual near a row
    scale = torch.minimum(around, torch.tensor(usual, dtype=around.dtype))
    near = neighbors.distances < (threshold / usual if usual else 0.0) * scale[:, None]
    near |= neighbors.distances == 0
    rows, places = near.nonzero(as_tuple=True)
    return Copies(_components(rows, neighbors.indices[rows, places], len(first)), threshold, usual)


def _factor(neighbors: Neighbors) -> float:
    """Return the share of the usual distance below which one row among all is expected by chance; SHARE at most."""
    count, k = neighbors.distances.shape
    if k < 2:
        return 0.0  # two rows: nothing is usual
    first, second = neighbors.distances[:, 0], neighbors.distances[:, 1]
    apart = first > 0
    if not apart.any():
        return 0.0
    spread = float((second[apart] / first[apart]).log().median())
    if spread == 0:
        return SHARE
    dimension = math.log(2) / spread
    return min(SHARE, math.pow(count * math.log(2), -1 / dimension))


def _components(rows: Tensor, others: Tensor, count: int) -> Tensor:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = coo_array((torch.ones(len(rows)).numpy(), (rows.numpy(), others.numpy())), shape=(count, count))
    parts = torch.from_numpy(connected_components(pairs, directed=False)[1]).long()
    smallest = torch.full((count,), count).scatter_reduce(0, parts, torch.arange(count), "amin")
    return smallest[parts]
