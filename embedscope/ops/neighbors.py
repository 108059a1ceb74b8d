"""The nearest rows of each row: exact, in blocks, never all pairs at once.

Products in the dtype of the rows (float32 for shorter ones) give lower and upper bounds of squared distances. A few more than k
rows with the smallest lower bounds are kept per row (`ops.neighbor_tiles`); their distances, and with them the order, are
computed again from differences in float64. A row whose neighbors the bounds do not separate from what was left out is measured
again by products in float64, without a limit on how many rows are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope import distributed
from embedscope.arguments import check_choice
from embedscope.errors import UndefinedError
from embedscope.ops import blocks
from embedscope.ops.neighbor_space import Space, lower_bounds, pair_distances, surveyed
from embedscope.ops.neighbor_tiles import Candidates, closest, kept_count
from embedscope.ops.pass_costs import announce_all_pairs
from embedscope.ops.rows import gathered

if TYPE_CHECKING:
    from embedscope.ops.rows import Rows

DISTANCES = ("euclidean", "cosine")

# How much longer than a distance a pair takes, and by what share of that each further neighbor adds to it.
_DEARER, _KEEPING = 1.5, 0.01


@dataclass(frozen=True)
class Neighbors:
    """The k nearest rows of each of M rows.

    Attributes:
        indices: (M, k) int64, positions of the nearest rows, by (distance, position).
        distances: (M, k) float64, ascending: Euclidean, or 1 - cosine.
    """

    indices: Tensor
    distances: Tensor

    def first(self, k: int) -> Neighbors:
        """Return the k nearest of them: (M, k)."""
        return Neighbors(self.indices[:, :k], self.distances[:, :k])

    def of(self, positions: Tensor) -> Neighbors:
        """Return those of the rows at (n,) positions: (n, k)."""
        return Neighbors(self.indices[positions], self.distances[positions])


def nearest_neighbors(
    features: Rows,
    k: int,
    *,
    distance: str = "euclidean",
    queries: Rows | None = None,
    anchors: Tensor | None = None,
    device: torch.device | None = None,
) -> Neighbors:
    """Find the k nearest rows of each row, itself left out, or of each query.

    Args:
        features: (N, D), any float dtype; searched. Read by blocks if not a tensor.
        k: at most N - 1 are found (N with queries).
        distance: "euclidean" or "cosine"; 1 - cosine is 1 from and to a zero row.
        queries: (M, D) rows to search for, which are not among the features; the features themselves, each without itself,
            if None.
        anchors: (M,) positions of the features to search for, each without itself; all of them if None.
        device: where to compute; where the features are if None.

    Returns:
        Neighbors of (M, min(k, N - 1)) or (M, min(k, N)). The order is that of (squared distance, position), the distance
        computed from differences in float64: exactly 0 between equal rows, to the last digits elsewhere. Under torchrun the
        processes share the work, and all of them get the result.

    Raises:
        UndefinedError: fewer than two rows.
        UsageError: an unknown distance.
    """
    unit = check_choice("distance", distance, DISTANCES) == "cosine"
    searched, alone = features.shape[0], queries is None
    k = min(k, searched - 1 if alone else searched)
    if k < 1:
        raise UndefinedError("neighbors need at least two rows")
    where = device or (features.device if isinstance(features, Tensor) else torch.device("cpu"))
    space = surveyed(features, queries, unit=unit, device=where)
    asked = gathered(features, anchors) if anchors is not None else features if queries is None else queries
    positions = None
    if alone:
        positions = torch.arange(searched, device=where) if anchors is None else anchors.to(where)
    announce_all_pairs(
        asked.shape[0],
        searched,
        features.shape[1],
        space.dtype,
        where,
        once=asked is features,
        what="neighbors",
        factor=_DEARER * (1 + _KEEPING * k),
        sampled=False,
    )
    found = [
        _searched(space, features, asked, group, positions, k, symmetric=group == slice(0, searched) and asked is features)
        for group in blocks.row_slices(asked.shape[0], kept_count(k, searched) * 48, blocks.memory() // 3)
    ]
    indices, squared = (torch.cat(each) for each in zip(*found, strict=True))
    return in_space(space, indices, squared)


def in_space(space: Space, indices: Tensor, squared: Tensor) -> Neighbors:
    """Turn (M, k) positions and squared distances in the space into neighbors."""
    return Neighbors(indices, squared / 2 if space.unit else squared.sqrt() / space.scale)


def _searched(
    space: Space, features: Rows, asked: Rows, rows: slice, positions: Tensor | None, k: int, *, symmetric: bool
) -> tuple[Tensor, Tensor]:
    found = closest(space, features, asked, rows, positions, k, symmetric=symmetric)
    share = distributed.share(rows.stop - rows.start)
    mine = slice(rows.start + share.start, rows.start + share.stop)
    indices, squared = refined(space, features, asked, positions, found.part(share), k, mine)
    return distributed.all_gather(indices), distributed.all_gather(squared)


def refined(
    space: Space, features: Rows, asked: Rows, positions: Tensor | None, found: Candidates, k: int, mine: slice
) -> tuple[Tensor, Tensor]:
    """Order the candidates of some rows by their exact distances.

    Args:
        space: where to compare.
        features: (N, D), searched.
        asked: what is searched for.
        positions: where each of `asked` is among the features; None if they are not there.
        found: candidates of the rows in `mine`.
        k: how many neighbors are wanted.
        mine: which rows of `asked`: m.

    Returns:
        (m, k) int64 positions, and (m, k) float64 squared distances in the space.
    """
    count, device = mine.stop - mine.start, space.center.device
    indices = torch.empty(count, k, dtype=torch.int64, device=device)
    squared = torch.empty(count, k, dtype=torch.float64, device=device)
    kept, settled = found.settled(k, space)
    room = features.shape[1] * 8 + found.indices.shape[1] * 40
    # Rows on disk are read once per block of queries, so as many of these as fit are taken at a time.
    most = None if isinstance(features, Tensor) else blocks.memory() // 4
    for block in blocks.row_slices(count, room, most):
        exact = torch.full(kept[block].shape, torch.inf, dtype=torch.float64, device=device)
        rows, columns = kept[block].nonzero(as_tuple=True)
        here = space.exact(asked[slice(mine.start + block.start, mine.start + block.stop)])
        exact[rows, columns] = pair_distances(space, features, here, rows, found.indices[block][rows, columns])
        order = found.indices[block].argsort(dim=1)
        by_position = exact.gather(1, order)
        values, second = by_position.sort(dim=1, stable=True)
        squared[block] = values[:, :k]
        indices[block] = found.indices[block].gather(1, order.gather(1, second[:, :k]))
    hard = (~settled).nonzero().squeeze(1)
    for part in blocks.row_slices(len(hard), features.shape[1] * 24, blocks.memory() // 8):
        chosen = hard[part]
        itself = None if positions is None else positions[chosen + mine.start]
        indices[chosen], squared[chosen] = _thorough(space, features, gathered(asked, chosen + mine.start), itself, k)
    return indices, squared


def _thorough(space: Space, features: Rows, asked: Tensor, itself: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Find the neighbors of rows that many others are about as near to: float64 products, and every row that they leave.

    Equal rows have the same neighbors, but for themselves: they are measured once, with one neighbor more.
    """
    space = replace(space, dtype=torch.float64)
    distinct, which = torch.unique(asked.to(space.center.device), dim=0, return_inverse=True)
    more = k if itself is None else k + 1
    parts = [
        _all_within_reach(space, features, distinct[block], more)
        for block in blocks.row_slices(len(distinct), features.shape[0] * 32, blocks.memory() // 8)
    ]
    indices, squared = (torch.cat(each)[which] for each in zip(*parts, strict=True))
    if itself is None:
        return indices, squared
    own = indices == itself[:, None]
    own[~own.any(dim=1), -1] = True  # among more than k equal rows, it comes later: the last one goes
    return indices[~own].view(-1, k), squared[~own].view(-1, k)


def _all_within_reach(space: Space, features: Rows, asked: Tensor, k: int) -> tuple[Tensor, Tensor]:
    here = space.laid(asked, slice(0, len(asked)))
    lower = torch.empty(len(asked), features.shape[0], dtype=torch.float64, device=asked.device)
    norms = torch.empty(features.shape[0], dtype=torch.float64, device=asked.device)
    for span in blocks.row_slices(features.shape[0], features.shape[1] * 24):
        laid = space.laid(features, span)
        norms[span] = laid.norms
        lower[:, span] = lower_bounds(here, laid, laid.right(), lower.new_empty(len(asked), len(laid)))
    farthest = [
        space.upper(bounds, norm + norms).topk(k, largest=False).values.amax()
        for bounds, norm in zip(lower, here.norms, strict=True)
    ]
    rows, positions = (lower <= torch.stack(farthest)[:, None]).nonzero(as_tuple=True)
    exact = pair_distances(space, features, space.exact(asked), rows, positions)
    order = exact.argsort(stable=True)
    order = order[rows[order].argsort(stable=True)]  # by row, within it by distance, within that by position
    counts = torch.bincount(rows, minlength=len(asked))
    chosen = order[(counts.cumsum(0) - counts)[:, None] + torch.arange(k, device=asked.device)]
    return positions[chosen], exact[chosen]
