"""Ranks of rows from products in float64, a key of distance and position per pair: the thorough way, for any size of class.

Squared distances are products in float64. What differs by less than their rounding (2 ** -40 of the norms, and 2 ** -32 of the
distance among a million rows) counts as equal, and is ordered by position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope.ops import blocks
from embedscope.ops.class_moments import zero_rows
from embedscope.ops.neighbor_space import RIGHT_ANGLE, Space
from embedscope.ops.rows import gathered, gathered_in_any_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedscope.ops.class_moments import Classes
    from embedscope.ops.rows import Rows

# The size from which the rows of a class are measured from one of their own, so that those near each other keep their digits.
_OWN_ORIGIN = 64

# Bytes of a tile of distances, which several operations pass over.
_TILE_BYTES = 2**21

_GRID = 2.0**-40
_ITSELF = torch.iinfo(torch.int64).max


def ranks_by_keys(space: Space, features: Rows, classes: Classes, positions: Tensor) -> Tensor:
    """Return the first rank, R-precision and average precision at R of some rows: (n,) positions -> (n, 3) float64.

    NaN for rows that are alone in their class.
    """
    count = features.shape[0]
    found = torch.full((len(positions), 3), torch.nan, dtype=torch.float64, device=positions.device)
    groups = list(_groups(classes.index[positions], classes.counts))
    if not groups:
        return found
    searched = _Searched(space, features)
    buffer = torch.empty(0, dtype=torch.int64, device=positions.device)
    for here, own in blocks.tracked(groups, "ranks", len(groups)):
        origin, typical = _origin(space, features, classes, own)
        searched.move(origin)
        for block in blocks.row_slices(len(here), count * 40, blocks.memory() // 8):
            rows = positions[here[block]]
            if buffer.numel() < len(rows) * count:  # fresh memory for each block takes as long as the product
                buffer = torch.empty(len(rows) * count, dtype=torch.int64, device=positions.device)
            keys = buffer[: len(rows) * count].view(len(rows), count)
            _fill(keys, searched, gathered_in_any_order(features, rows), rows, typical)
            found[here[block]] = _measured(keys, classes, rows)
    return found


def precisions(hits: Tensor, sizes: Tensor) -> Tensor:
    """Return R-precision and average precision at R: (B, C) bool by rank, (B,) R, at most C -> (B, 2) float64."""
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    hits = hits & (ranks <= sizes[:, None])
    average = (hits * hits.cumsum(dim=1) / ranks.double()).sum(dim=1)
    return torch.stack([hits.sum(dim=1).double(), average], dim=1) / sizes[:, None]


def _measured(keys: Tensor, classes: Classes, positions: Tensor) -> Tensor:
    """Turn keys into the first rank, R-precision and average precision at R: (B, N) -> (B, 3)."""
    count, own = keys.shape[1], classes.index[positions, None]
    sizes = classes.counts[own[:, 0]] - 1  # (B,)
    nearest = keys.topk(int(sizes.max()), dim=1, largest=False, sorted=True).values
    hits = classes.index[nearest.bitwise_and_(_position_mask(count))] == own
    first = hits.double().argmax(dim=1) + 1
    for row in (~hits.any(dim=1)).nonzero().squeeze(1).tolist():
        best = keys[row][classes.index == own[row]].amin()
        first[row] = (keys[row] < best).sum() + 1
    return torch.cat([first.double()[:, None], precisions(hits, sizes)], dim=1)


class _Searched:
    """All rows in float64, measured from one origin after another; kept in memory where that fits."""

    def __init__(self, space: Space, features: Rows) -> None:
        self.space, self.features = space, features
        count, width = features.shape
        self.origin = space.center
        self._exact = self._moved = self._void = None
        if 16 * count * width <= blocks.memory() // 4:
            self._exact = torch.empty(count, width, dtype=torch.float64, device=space.center.device)
            for span in blocks.row_slices(count, width * 24):
                self._exact[span] = space.exact(features[span])
            self._void = zero_rows(self._exact) if space.unit else None
            self._moved = torch.empty_like(self._exact)

    def move(self, origin: Tensor) -> None:
        """Measure from here from now on."""
        self.origin = origin
        if self._exact is not None:
            torch.sub(self._exact, origin, out=self._moved)

    def parts(self, rows: int) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """Give (columns, the rows (C, D), which have no direction), so that a tile of `rows` rows stays in the cache."""
        count, width = self.features.shape
        if self._moved is not None:
            for span in blocks.row_slices(count, 8 * rows, _TILE_BYTES):
                yield span, self._moved[span], None if self._void is None else self._void[span]
            return
        for span in blocks.row_slices(count, width * 24):
            y = self.space.exact(self.features[span])
            yield span, y - self.origin, zero_rows(y) if self.space.unit else None


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

    Rows equal to that row are then exactly at 0. Small classes have the origin and the unit of the space.
    """
    if own is None:
        return space.center, 1.0
    members = (classes.index == own).nonzero().squeeze(1)
    rows = space.exact(gathered(features, members[:: max(1, len(members) // 256)]))
    origin = rows[(rows - rows.median(dim=0).values).square().sum(dim=1).argmin()]
    return origin, float((rows - origin).square().sum(dim=1).median())


def _fill(keys: Tensor, searched: _Searched, rows: Tensor, positions: Tensor, typical: float) -> None:
    """Order all rows by (distance, position) from some, in place: (B, N) int64, whose lowest bits are positions."""
    count, space = keys.shape[1], searched.space
    x = space.exact(rows)
    blank = zero_rows(x) if space.unit else None
    x = x - searched.origin
    norms = x.square().sum(dim=1)  # (B,)
    grid = torch.exp2(torch.ceil(torch.log2((norms + typical).clamp(min=2.0**-900)))) * _GRID
    mask, places = _position_mask(count), torch.arange(count, device=x.device)
    for span, y, void in searched.parts(len(x)):
        squared = torch.addmm(y.square().sum(dim=1)[None, :], x, y.T, alpha=-2).add_(norms[:, None])
        if blank is not None and void is not None:
            squared[blank] = RIGHT_ANGLE
            squared[:, void] = RIGHT_ANGLE
        squared = squared.clamp_(min=0).div_(grid[:, None]).round_().mul_(grid[:, None]).add_(0.0)
        # The bits of positive numbers are ordered as the numbers are.
        torch.bitwise_or(squared.view(torch.int64).bitwise_and_(~mask), places[span], out=keys[:, span])
    keys[torch.arange(len(x), device=x.device), positions] = _ITSELF


def _position_mask(count: int) -> int:
    """Return the bits that hold a position."""
    return (1 << count.bit_length()) - 1
