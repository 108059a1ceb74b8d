"""Ranks of the rows of the own class among all others: what retrieval metrics are made of.

R-precision and MAP@R look at as many nearest rows as the own class has: they are reduced to numbers per row while a block of
rows is there, and never stored. One pass serves all of them, and finds the nearest neighbors on the way. Rows of classes that
are small beside the data are ranked by short products (`ops.rank_candidates`), all others by float64 (`ops.rank_keys`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope import distributed
from embedscope.arguments import check_choice
from embedscope.errors import UndefinedError
from embedscope.ops import blocks
from embedscope.ops.class_moments import present_classes
from embedscope.ops.neighbor_space import Space, surveyed
from embedscope.ops.neighbor_tiles import kept_count
from embedscope.ops.neighbors import DISTANCES, Neighbors, in_space, refined
from embedscope.ops.pass_costs import announce_all_pairs
from embedscope.ops.rank_candidates import ranks_by_candidates, worth_candidates
from embedscope.ops.rank_keys import ranks_by_keys
from embedscope.ops.rows import gathered

if TYPE_CHECKING:
    from embedscope.ops.class_moments import Classes
    from embedscope.ops.neighbor_tiles import Candidates
    from embedscope.ops.rows import Rows

# How much longer than a distance a rank takes by candidates, with what does not depend on the dimensions; and by keys.
_DEARER, _DEARER_IN_FEW, _DEARER_BY_KEYS = 1.6, 100, 1.7


@dataclass(frozen=True)
class Retrieved:
    """Ranks of M rows, NaN for a row alone in its class, and what was found on the way.

    Attributes:
        first: (M,) float64, rank of the first row of the own class, at least 1.
        r_precision: (M,) float64, share of the own class among the R nearest, R being how many other rows the class has.
        average: (M,) float64, average precision at R.
        neighbors: the k nearest of each row; None if none were asked for, or a search of its own is cheaper.
    """

    first: Tensor
    r_precision: Tensor
    average: Tensor
    neighbors: Neighbors | None = None


def retrieved(features: Rows, labels: Tensor, *, distance: str, anchors: Tensor | None = None, k: int = 0) -> Retrieved:
    """Return what retrieval metrics read of each row, from one pass over the pairs.

    Args:
        features: (N, D), any float dtype; read by blocks where they are not a tensor.
        labels: (N,) integers.
        distance: "euclidean" or "cosine". Rows at equal distances are ordered by position.
        anchors: (M,) positions of the rows to rank; all if None.
        k: how many neighbors to find on the way, as `nearest_neighbors` does.

    Raises:
        UndefinedError: every class has one row.
        UsageError: an unknown distance.
    """
    unit = check_choice("distance", distance, DISTANCES) == "cosine"
    classes = present_classes(labels)
    check_retrievable(classes)
    count, device = features.shape[0], labels.device
    asked = torch.arange(count, device=device) if anchors is None else anchors
    space = surveyed(features, None, unit=unit, device=device)
    near = worth_candidates(classes.counts[classes.index[asked]] - 1, count)
    k = _found_on_the_way(k, near, count)
    _announce(space, features, near, len(asked))
    share = distributed.share(len(asked))
    mine, chosen = asked[share], near[share] if k == 0 else torch.ones_like(near[share])
    ranks = torch.full((len(mine), 3), torch.nan, dtype=torch.float64, device=device)
    nearest: Candidates | None = None
    left = ~chosen
    if bool(chosen.any()):
        found = ranks_by_candidates(space, features, classes, mine[chosen], k=k)
        ranks[chosen], left[chosen], nearest = found.ranks, found.open, found.nearest
    if bool(left.any()):
        ranks[left] = ranks_by_keys(space, features, classes, mine[left])
    neighbors = _refined(space, features, anchors, asked, nearest, k, share) if k else None
    first, precision, average = distributed.all_gather(ranks).unbind(dim=1)
    return Retrieved(first, precision, average, neighbors)


def _found_on_the_way(k: int, near: Tensor, count: int) -> int:
    """Return k if neighbors are cheaper to find on the way, else 0."""
    wanted = min(k, count - 1)
    fits = len(near) * kept_count(wanted, count - 1) * 48 <= blocks.memory() // 3
    return wanted if fits and int(near.sum()) * 2 > len(near) else 0


def _refined(
    space: Space, features: Rows, anchors: Tensor | None, asked: Tensor, found: Candidates | None, k: int, mine: slice
) -> Neighbors:
    rows = features if anchors is None else gathered(features, anchors)
    if found is None:  # another process has the rows
        indices = torch.empty(0, k, dtype=torch.int64, device=asked.device)
        squared = torch.empty(0, k, dtype=torch.float64, device=asked.device)
    else:
        indices, squared = refined(space, features, rows, asked, found, k, mine)
    return in_space(space, distributed.all_gather(indices), distributed.all_gather(squared))


def _announce(space: Space, features: Rows, near: Tensor, asked: int) -> None:
    by_candidates, (count, width), device = int(near.sum()), features.shape, space.center.device
    dearer = _DEARER + _DEARER_IN_FEW / (width + 40)
    for rows, dtype, factor in (
        (by_candidates, space.dtype, dearer),
        (asked - by_candidates, torch.float64, _DEARER_BY_KEYS),
    ):
        announce_all_pairs(rows, count, width, dtype, device, once=False, what="ranks", factor=factor)


def retrievable(classes: Classes) -> bool:
    """Tell whether a class has two rows."""
    return bool((classes.counts > 1).any())


def check_retrievable(classes: Classes) -> None:
    """Raise UndefinedError if every class has one row."""
    if not retrievable(classes):
        raise UndefinedError("no class has two rows: there is nothing to retrieve")


def mean_over_retrievable(per_sample: Tensor) -> float:
    """Average (M,) values, those of rows without another of their class, which are NaN, left out.

    Raises:
        UndefinedError: nothing is left.
    """
    kept = per_sample[~per_sample.isnan()]
    if len(kept) == 0:
        raise UndefinedError("none of the measured rows has another one of its class")
    return float(kept.mean())
