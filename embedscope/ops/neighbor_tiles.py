"""Which rows may be among the nearest: the smallest lower bounds of squared distances, kept per row while tiles pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope import distributed
from embedscope.ops import blocks
from embedscope.ops.neighbor_space import lower_bounds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedscope.ops.neighbor_space import LaidRows, Space
    from embedscope.ops.rows import Rows

# Rows and columns of a tile on a CPU, where it should stay in the cache; a GPU wants larger ones, since each costs launches.
_TILE = 2048
_ON_GPU = 8192

# Numbers of a tile that are looked at together: only a group whose smallest is below the largest one kept is looked into.
_GROUP = 16

# The share of groups from which the whole tile is looked at instead, and the share of its numbers from which it is sorted.
_DENSE, _TOO_DENSE = 8, 4


@dataclass(frozen=True)
class Candidates:
    """What was kept of each of M rows.

    Attributes:
        lower: (M, c) lower bounds of squared distances, in no order; infinite where nothing is kept.
        indices: (M, c) int64, positions.
        norms: (M,) float64, |x|² of the rows.
        all_norms: (N,) float64, |y|² of the rows that were searched.
        complete: whether every row that was searched is kept.
    """

    lower: Tensor
    indices: Tensor
    norms: Tensor
    all_norms: Tensor
    complete: bool

    def part(self, rows: slice) -> Candidates:
        """Return those of some rows."""
        return Candidates(self.lower[rows], self.indices[rows], self.norms[rows], self.all_norms, self.complete)

    def settled(self, k: int, space: Space) -> tuple[Tensor, Tensor]:
        """Tell which candidates may be among the k nearest, (M, c) bool, and for which rows no other row may be, (M,) bool."""
        kept = torch.zeros_like(self.lower, dtype=torch.bool)
        settled = torch.ones(len(self.lower), dtype=torch.bool, device=self.lower.device)
        for block in blocks.row_slices(len(kept), self.lower.shape[1] * 40):
            lower = self.lower[block].double()
            upper = space.upper(lower, self.norms[block, None] + self.all_norms[self.indices[block]])
            farthest = upper.topk(k, dim=1, largest=False).values.amax(dim=1)
            if not self.complete:
                settled[block] = lower.amax(dim=1) > farthest
            kept[block] = (lower <= farthest[:, None]) & settled[block, None]
        return kept, settled


class _Kept:
    """The c smallest of what passes, per row."""

    def __init__(self, rows: int, count: int, like: Tensor) -> None:
        self.values = torch.full((rows, count), torch.inf, dtype=like.dtype, device=like.device)
        self.indices = torch.zeros(rows, count, dtype=torch.int64, device=like.device)
        self.largest = torch.full((rows,), torch.inf, dtype=like.dtype, device=like.device)
        self._waiting: dict[tuple[int, int], list[tuple[Tensor, Tensor, Tensor]]] = {}

    def take(self, rows: slice, tile: Tensor, start: int, *, turned: bool = False) -> None:
        """Take in a tile (R, C) of some rows, whose columns begin at a position; `turned`, its columns are the rows."""
        other = tile.shape[0 if turned else 1]
        groups = other // _GROUP
        whole = groups * _GROUP
        if groups == 0 or not self._sift(rows, tile[:whole] if turned else tile[:, :whole], start, groups, turned=turned):
            return self._take_all(rows, tile.T if turned else tile, start)
        if whole < other:
            self._take_all(rows, tile[whole:].T if turned else tile[:, whole:], start + whole)
        return None

    def _sift(self, rows: slice, tile: Tensor, start: int, groups: int, *, turned: bool) -> bool:
        """Take in what is below the largest kept; False, and nothing is taken, if that is so much that sorting is cheaper."""
        bound, kept = self.largest[rows], self.values.shape[1]
        parted = tile.view(_GROUP, groups, len(bound)) if turned else tile.view(len(bound), _GROUP, groups)
        smallest = parted.amin(dim=0).T if turned else parted.amin(dim=1)  # (R, groups)
        first = bool(torch.isinf(bound).any())
        if first:
            if groups < 2 * kept:
                return False
            # The c smallest minima of groups are c numbers: what is above all of them is not among the c smallest.
            most = smallest.topk(kept, dim=1, largest=False, sorted=False).values.amax(dim=1)
            bound = torch.minimum(bound, torch.nextafter(most, torch.full_like(most, torch.inf)))
        row, group = (smallest < bound[:, None]).nonzero(as_tuple=True)
        if len(row) > smallest.numel() // (2 if first else _DENSE):
            return not first and self._sift_all(rows, tile, start, turned=turned)
        if len(row):
            values = parted[:, group, row].T if turned else parted[row, :, group]  # (hits, _GROUP)
            hit, member = (values < bound[row, None]).nonzero(as_tuple=True)
            self._wait(rows, (row[hit], start + member * groups + group[hit], values[hit, member]), now=first)
        return True

    def _sift_all(self, rows: slice, tile: Tensor, start: int, *, turned: bool) -> bool:
        """Take in what is below the largest kept, without groups; False, and nothing is taken, for over a quarter of it."""
        bound = self.largest[rows]
        below = tile < (bound if turned else bound[:, None])
        if int(below.sum()) > below.numel() // _TOO_DENSE:
            return False
        one, other = below.nonzero(as_tuple=True)
        row, column = (other, one) if turned else (one, other)
        self._wait(rows, (row, start + column, tile[one, other]), now=True)
        return True

    def _wait(self, rows: slice, found: tuple[Tensor, Tensor, Tensor], *, now: bool) -> None:
        """Put off merging until it is worth it: what is kept only becomes smaller, so nothing is missed meanwhile."""
        waiting = self._waiting.setdefault((rows.start, rows.stop), [])
        waiting.append(found)
        if now or sum(len(each) for each, _, _ in waiting) > (rows.stop - rows.start) * self.values.shape[1] // 2:
            self._merge(rows)

    def fold(self) -> None:
        """Merge what waits, and what the other processes kept."""
        for start, stop in list(self._waiting):
            self._merge(slice(start, stop))

        def merged(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            values, order = torch.cat([one[0], other[0]], dim=1).topk(one[0].shape[1], dim=1, largest=False, sorted=False)
            return values, torch.cat([one[1], other[1]], dim=1).gather(1, order)

        self.values, self.indices = distributed.all_reduce_object((self.values, self.indices), merged)

    def _take_all(self, rows: slice, tile: Tensor, start: int) -> None:
        values, columns = tile.topk(min(self.values.shape[1], tile.shape[1]), dim=1, largest=False, sorted=False)
        self._keep(rows, values, columns + start)

    def _merge(self, rows: slice) -> None:
        row, position, value = (torch.cat(each) for each in zip(*self._waiting.pop((rows.start, rows.stop)), strict=True))
        order = row.argsort(stable=True)
        row, position, value = row[order], position[order], value[order]
        counts = torch.bincount(row, minlength=rows.stop - rows.start)
        slot = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        values = value.new_full((len(counts), int(counts.max())), torch.inf)
        positions = torch.zeros_like(values, dtype=torch.int64)
        values[row, slot], positions[row, slot] = value, position
        self._keep(rows, values, positions)

    def _keep(self, rows: slice, values: Tensor, positions: Tensor) -> None:
        values, order = torch.cat([self.values[rows], values], dim=1).topk(
            self.values.shape[1], dim=1, largest=False, sorted=False
        )
        self.values[rows] = values
        self.indices[rows] = torch.cat([self.indices[rows], positions], dim=1).gather(1, order)
        self.largest[rows] = values.amax(dim=1)


def kept_count(k: int, searched: int) -> int:
    """Choose how many candidates to keep for k neighbors among all rows."""
    return min(k + 8 + k // 8, searched)


def closest(
    space: Space, features: Rows, asked: Rows, rows: slice, positions: Tensor | None, k: int, *, symmetric: bool
) -> Candidates:
    """Keep the rows with the smallest lower bounds of their squared distances, a few more than k of them.

    Args:
        space: where to compare.
        features: (N, D), searched.
        asked: what is searched for.
        rows: which of these: M.
        positions: where each of `asked` is among the features, so that it is not its own candidate; None if they are not there.
        k: how many neighbors are wanted.
        symmetric: whether `rows` of `asked` are all features, so that a tile serves its rows and its columns.

    Returns:
        Candidates of all M rows, in every process; each computed a share of the tiles.
    """
    searched = features.shape[0] - (positions is not None)
    count, device = rows.stop - rows.start, space.center.device
    kept = _Kept(count, kept_count(k, searched), torch.empty(0, dtype=space.dtype, device=device))
    norms = torch.empty(count, dtype=torch.float64, device=device)
    all_norms = torch.empty(features.shape[0], dtype=torch.float64, device=device)
    for (first, x), (second, y) in _pairs(space, features, asked, rows, symmetric=symmetric):
        own = slice(first.start - rows.start, first.stop - rows.start)
        norms[own], all_norms[second] = x.norms, y.norms
        for across, down, tile in _tiles(space, x, y, symmetric=symmetric and first == second):
            here = slice(own.start + down.start, own.start + down.stop)
            start = second.start + across.start
            if positions is not None:
                column = positions[first.start + down.start : first.start + down.stop] - start
                inside = ((column >= 0) & (column < tile.shape[1])).nonzero().squeeze(1)
                tile[inside, column[inside]] = torch.inf
            kept.take(here, tile, start)
            if symmetric and (first != second or across != down):
                kept.take(slice(start, start + tile.shape[1]), tile, here.start, turned=True)
    kept.fold()
    return Candidates(kept.values, kept.indices, norms, all_norms, kept.values.shape[1] == searched)


def _pairs(
    space: Space, features: Rows, asked: Rows, rows: slice, *, symmetric: bool
) -> Iterator[tuple[tuple[slice, LaidRows], tuple[slice, LaidRows]]]:
    """Lay out parts of what is asked for and what is searched that fit in memory; each two parts once if symmetric."""
    size, room = (features.shape[1] + 2) * space.dtype.itemsize, blocks.memory() // 6
    for first in blocks.row_slices(rows.stop, size, room, start=rows.start):
        x = space.laid(asked, first)
        if symmetric:
            yield (first, x), (first, x)
        for second in blocks.row_slices(features.shape[0], size, room, start=first.stop if symmetric else 0):
            yield (first, x), (second, space.laid(features, second))


def _tiles(space: Space, x: LaidRows, y: LaidRows, *, symmetric: bool) -> Iterator[tuple[slice, slice, Tensor]]:
    """Compute this process's share of the tiles: (columns, rows, lower bounds in one buffer); one half if symmetric."""
    step = _tile_rows(space)
    buffer = torch.empty(min(step, len(x)) * min(step, len(y)), dtype=space.dtype, device=space.center.device)
    downs, acrosses = (blocks.row_slices(len(each), 1, step) for each in (x, y))
    for number, across in enumerate(blocks.tracked(acrosses, "neighbors", len(acrosses))):
        columns = y.part(across)
        right = columns.right()
        for other, down in enumerate(downs[: number + 1] if symmetric else downs):
            if (number + other) % distributed.world_size() == distributed.rank():
                lines = x.part(down)
                out = buffer[: len(lines) * len(columns)].view(len(lines), len(columns))
                yield across, down, lower_bounds(lines, columns, right, out)


def _tile_rows(space: Space) -> int:
    wanted = _TILE if space.center.device.type == "cpu" else _ON_GPU
    # A tile, and what is made of it if all of it must be sorted.
    most = math.isqrt(max(1, blocks.memory() // (16 * space.dtype.itemsize)))
    return max(1, min(wanted, most))
