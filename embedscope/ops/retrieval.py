"""Ranks of the rows of the own class among all others: what retrieval metrics are made of, a block of rows at a time.

R-precision and MAP@R look at as many nearest rows as the own class has, thousands at times: they are reduced to numbers per row
while a block is there, and never stored. Squared distances are products in float64. What differs by less than their rounding
(2 ** -40 of the norms, and 2 ** -32 of the distance among a million rows) counts as equal, and is ordered by position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope import distributed
from embedscope.errors import UndefinedError, check_choice
from embedscope.ops import blocks
from embedscope.ops.class_moments import present_classes, zero_rows
from embedscope.ops.neighbor_space import RIGHT_ANGLE, Space, surveyed
from embedscope.ops.neighbors import DISTANCES
from embedscope.ops.rows import gathered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embedscope.ops.class_moments import Classes
    from embedscope.ops.rows import Rows

# The size from which the rows of a class are measured from one of their own, so that those near each other keep their digits.
_OWN_ORIGIN = 64

_GRID = 2.0**-40
_ITSELF = torch.iinfo(torch.int64).max


def first_ranks(features: Rows, labels: Tensor, *, distance: str, anchors: Tensor | None = None) -> Tensor:
    """Return at which rank each row meets the first other row of its class: (M,) float64, at least 1; NaN if there is none.

    The rank is counted, not sorted for: one more than the rows that are nearer.
    """

    def ranks(keys: Tensor, same: Tensor, _: Tensor) -> Tensor:
        first = keys.masked_fill(~same, _ITSELF).amin(dim=1, keepdim=True)
        return ((keys < first).sum(dim=1) + 1).double()[:, None]

    return _reduced(features, labels, distance, anchors, ranks, 1)[:, 0]


def precisions(features: Rows, labels: Tensor, *, distance: str, anchors: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return R-precision and the average precision at R of each row: (M,), (M,) float64 in [0, 1]; NaN where R is 0.

    R is how many other rows the class has.
    """
    index = present_classes(labels).index

    def both(keys: Tensor, same: Tensor, sizes: Tensor) -> Tensor:
        nearest = keys.topk(int(sizes.max()), dim=1, largest=False, sorted=True).values
        hits = same.gather(1, nearest & _position_mask(len(index)))
        ranks = torch.arange(1, hits.shape[1] + 1, device=keys.device)
        hits &= ranks <= sizes[:, None]
        average = (hits * hits.cumsum(dim=1) / ranks.double()).sum(dim=1)
        return torch.stack([hits.sum(dim=1).double(), average], dim=1) / sizes[:, None]

    found = _reduced(features, labels, distance, anchors, both, 2)
    return found[:, 0], found[:, 1]


def _reduced(
    features: Rows,
    labels: Tensor,
    distance: str,
    anchors: Tensor | None,
    reduce: Callable[[Tensor, Tensor, Tensor], Tensor],
    width: int,
) -> Tensor:
    """Reduce the keys of each row by `reduce(keys (B, N), whether of its class (B, N), other rows of it (B,)) -> (B, width)`.

    Returns:
        (M, width) float64; NaN for a row that is alone in its class.

    Raises:
        UndefinedError: every class has one row.
    """
    unit = check_choice("distance", distance, DISTANCES) == "cosine"
    classes = present_classes(labels)
    if not bool((classes.counts > 1).any()):
        raise UndefinedError("no class has two rows: there is nothing to retrieve")
    space = surveyed(features, None, unit=unit, device=labels.device)
    asked = torch.arange(len(labels), device=labels.device) if anchors is None else anchors
    mine = asked[distributed.share(len(asked))]
    found = torch.full((len(mine), width), torch.nan, dtype=torch.float64, device=labels.device)
    groups = list(_groups(classes.index[mine], classes.counts))
    for here, own in blocks.tracked(groups, "ranks", len(groups)):
        origin, typical = _origin(space, features, classes, own)
        for block in blocks.row_slices(len(here), len(labels) * 40, blocks.memory() // 8):
            positions = mine[here[block]]
            keys = _keys(space, features, positions, origin, typical)
            same = classes.index[positions, None] == classes.index
            found[here[block]] = reduce(keys, same, classes.counts[classes.index[positions]] - 1)
    return distributed.all_gather(found)


def _groups(index: Tensor, counts: Tensor) -> Iterator[tuple[Tensor, int | None]]:
    """Put rows together that are measured from one origin: large classes each alone, and all small ones; lone rows nowhere."""
    size = counts[index]
    small = ((size > 1) & (size < _OWN_ORIGIN)).nonzero().squeeze(1)
    if len(small):
        yield small[size[small].argsort(stable=True)], None
    for label in (counts >= _OWN_ORIGIN).nonzero().squeeze(1).tolist():
        here = (index == label).nonzero().squeeze(1)
        if len(here):
            yield here, label


def _origin(space: Space, features: Rows, classes: Classes, own: int | None) -> tuple[Tensor, float]:
    """Return where to measure a class from, a row of it near its median, (D,) float64, and a typical |x|² from there.

    Rows that are equal to that row then are exactly at 0. Small classes have the origin and the unit of the space.
    """
    if own is None:
        return space.centre, 1.0
    members = (classes.index == own).nonzero().squeeze(1)
    rows = space.exact(gathered(features, members[:: max(1, len(members) // 256)]))
    origin = rows[(rows - rows.median(dim=0).values).square().sum(dim=1).argmin()]
    return origin, float((rows - origin).square().sum(dim=1).median())


def _keys(space: Space, features: Rows, positions: Tensor, origin: Tensor, typical: float) -> Tensor:
    """Order all rows by (distance, position) from some: (B,) -> (B, N) int64, whose lowest bits are positions."""
    count = features.shape[0]
    x = space.exact(_in_any_order(features, positions))
    blank = zero_rows(x) if space.unit else None
    x = x - origin
    norms = x.square().sum(dim=1)  # (B,)
    grid = torch.exp2(torch.ceil(torch.log2((norms + typical).clamp(min=2.0**-900)))) * _GRID
    keys = torch.empty(len(x), count, dtype=torch.int64, device=x.device)
    mask = _position_mask(count)
    for span in blocks.row_slices(count, features.shape[1] * 24):
        y = space.exact(features[span])
        void = zero_rows(y) if blank is not None else None
        y = y - origin
        squared = torch.addmm(y.square().sum(dim=1)[None, :], x, y.T, alpha=-2).add_(norms[:, None])
        if blank is not None and void is not None:
            squared[blank] = RIGHT_ANGLE
            squared[:, void] = RIGHT_ANGLE
        squared = squared.clamp_(min=0).div_(grid[:, None]).round_().mul_(grid[:, None]).add_(0.0)
        # The bits of positive numbers are ordered as the numbers are.
        keys[:, span] = (squared.view(torch.int64) & ~mask) | torch.arange(span.start, span.stop, device=x.device)
    keys[torch.arange(len(x), device=x.device), positions] = _ITSELF
    return keys


def _in_any_order(features: Rows, positions: Tensor) -> Tensor:
    order = positions.argsort()
    return gathered(features, positions[order])[
        order.argsort().to("cpu" if not isinstance(features, Tensor) else features.device)
    ]


def _position_mask(count: int) -> int:
    """Return the bits that hold a position."""
    return (1 << count.bit_length()) - 1


def mean_over_retrievable(per_sample: Tensor) -> float:
    """Average (M,) values, those of rows without another of their class, which are NaN, left out.

    Raises:
        UndefinedError: nothing is left.
    """
    kept = per_sample[~per_sample.isnan()]
    if len(kept) == 0:
        raise UndefinedError("none of the measured rows has another one of its class")
    return float(kept.mean())
