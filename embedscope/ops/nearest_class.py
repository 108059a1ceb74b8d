"""The distance to the own class and to the nearest other one, exactly, without most of the pairs.

a(i) needs the pairs within a class, N² / K of them. b(i) is a mean distance to one class, and bounds (`ops.class_bounds`) rule
out almost all others: on features of trained networks three or four classes of a hundred are left. Their means are then
computed as always, from all of their pairs, so that the result is what all pairs would give.

1. Class by class: pairs within the class, each once, and the numbers that bound distances to it.
2. Rows in chunks: bounds in two stages, which leave for each row the class of the smallest upper bound and a few others.
3. Class by class: the rows that need it, first those of which it has the smallest upper bound, then those whose lower bound
   for it is still below what they have.

Rows lie by class, classes by ascending size. Processes share the classes in step 1 and the rows in steps 2 and 3: no pair is
computed twice on their account, and what they found is put together, never reduced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope import distributed
from embedscope.ops import blocks
from embedscope.ops.class_bounds import ClassBounds, candidates, class_bounds, fields, unpacked
from embedscope.ops.pairwise import PreparedRows, distance_tile, working_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embedscope.ops.sorted_rows import SortedRows

# Rows and columns of a tile of distances, and of one within a class, where smaller ones leave out more of what is there twice;
# rows of a chunk whose bounds are computed at a time; numbers of their products. On a CPU all of these are about what its
# caches hold; a GPU wants larger pieces, since each costs a launch.
_TILE = 1024
_WITHIN = 256
_CHUNK = 512
_PIECE = 2**21
_ON_GPU = 16

# Rows of the classes that are bounded in one batch.
_BATCH = 2048

# An exact mean of float32 distances is off by less than this share, and by far less in float64 (`pairwise.NEAR`); a class is
# passed over only if the square of its lower bound is above by more.
_MARGIN = 2.0**-15


@dataclass(frozen=True)
class Layout:
    """Where the classes lie: by ascending size, and those of one size by label.

    Attributes:
        counts: (K,) int64 how many rows each class has.
        starts: K + 1 positions, where each begins and the last ends.
        index: (N,) the class at each position.
    """

    counts: Tensor
    starts: list[int]
    index: Tensor

    def rows(self, label: int) -> slice:
        """Return the positions of a class."""
        return slice(self.starts[label], self.starts[label + 1])


def laid_out(counts: Tensor) -> Layout:
    """Lay out classes of ascending sizes (K,)."""
    return Layout(counts, [0, *counts.cumsum(0).tolist()], torch.repeat_interleave(counts))


def nearest_classes(rows: SortedRows, layout: Layout, wanted: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Find the distances to the own and the nearest other class.

    Args:
        rows: by class, as laid out.
        layout: at least two classes.
        wanted: (M,) ascending positions of the rows to measure; None for all.

    Returns:
        own (M,) float64, the sum of the distances to the own class; other (M,) float64, the smallest mean distance to another
        class; nearest (M,), which class that is: of several as near, the first in the layout.
    """
    bounds, within = _class_by_class(rows, layout, pairs=wanted is None)
    count = len(layout.index) if wanted is None else len(wanted)
    share = distributed.share(count)
    parts = []
    for block in blocks.row_slices(share.stop, _row_bytes(rows), _resident(rows, count), start=share.start):
        positions = torch.arange(block.start, block.stop, device=layout.index.device) if wanted is None else wanted[block]
        here = rows.part(block) if wanted is None else rows.selected(positions)
        parts.append(_nearest(here, layout.index[positions], rows, layout, bounds, own_too=wanted is not None))
    device = layout.index.device
    found = [torch.cat(each) for each in zip(*parts, strict=True)] if parts else _nothing(device)
    own, other, nearest = map(distributed.all_gather, found)
    return (within if within is not None else own), other, nearest


def _nothing(device: torch.device) -> list[Tensor]:
    empty = torch.zeros(0, dtype=torch.float64, device=device)
    return [empty, empty, empty.long()]


def _row_bytes(rows: SortedRows) -> int:
    """Return what a row takes while it is measured: itself, as it is read and prepared, and its candidates."""
    return rows.shape[1] * 16 + 1024


def _resident(rows: SortedRows, count: int) -> int:
    """Return how much of the rows to hold at a time: all that are in memory anyway, half of what is allowed from a file."""
    return _row_bytes(rows) * max(1, count) if rows.whole is not None else blocks.memory() // 2


def groups(layout: Layout, width: int) -> list[slice]:
    """Cut the classes into groups of about one size that are bounded together."""
    most = max(1, min(_BATCH, blocks.memory() // (64 * width)))
    counts = layout.counts.tolist()
    found, label = [], 0
    while label < len(counts):
        stop = label + 1
        while (
            stop < len(counts)
            and counts[stop] <= 2 * counts[label]
            and counts[stop] < width
            and counts[stop] * (stop + 1 - label) <= most
        ):
            stop += 1
        found.append(slice(label, stop))
        label = stop
    return found


def rank_of(layout: Layout) -> int:
    """Choose how many directions of a class are told apart: they cost as many columns as rows of the class."""
    return max(2, min(16, len(layout.index) // len(layout.counts) // 100))


def _class_by_class(rows: SortedRows, layout: Layout, *, pairs: bool) -> tuple[ClassBounds, Tensor | None]:
    """Compute what bounds the distances to each class, and the sums of the distances within it, (N,); classes are shared."""
    width, rank = rows.shape[1], rank_of(layout)
    shares = _shared(groups(layout, width), layout)
    mine = shares[distributed.rank()]
    packed, within = [], []
    buffer = _tile_buffer(layout, rows.dtype)
    for group in blocks.tracked(mine, "classes", len(mine)):
        here = rows.part(slice(layout.starts[group.start], layout.starts[group.stop]))
        packed.append(class_bounds(here.left[:, :width], layout.counts[group], rank).packed())
        if pairs:
            first = layout.starts[group.start]
            for label in range(group.start, group.stop):
                own = layout.rows(label)
                within.append(_within(here.selected(slice(own.start - first, own.stop - first)), buffer))
    device, dtype = layout.index.device, working_dtype(rows.dtype)
    nothing = torch.empty(0, fields(width, rank), dtype=dtype, device=device)
    bounds = distributed.all_gather(torch.cat([nothing, *packed]))
    labels = [label for share in shares for group in share for label in range(group.start, group.stop)]
    found = torch.empty_like(bounds)
    found[torch.tensor(labels, device=device)] = bounds
    if not pairs:
        return unpacked(found, width), None
    sums = distributed.all_gather(torch.cat(within) if within else torch.zeros(0, dtype=torch.float64, device=device))
    place = torch.cat([torch.arange(*layout.rows(label).indices(len(layout.index)), device=device) for label in labels])
    own_sums = torch.empty_like(sums)
    own_sums[place] = sums
    return unpacked(found, width), own_sums


def _shared(found: Sequence[slice], layout: Layout) -> list[list[slice]]:
    """Deal groups of classes out to the processes: the largest first, each to the one with the least work."""
    size = distributed.world_size()
    if size == 1:
        return [list(found)]
    shares: list[list[slice]] = [[] for _ in range(size)]
    work = [0] * size
    costs = {group.start: int(layout.counts[group].square().sum()) for group in found}
    for group in sorted(found, key=lambda each: -costs[each.start]):
        least = work.index(min(work))
        shares[least].append(group)
        work[least] += costs[group.start] + 1
    return shares


def _within(rows: PreparedRows, buffer: Tensor) -> Tensor:
    """Sum the distances of each row of a class to the others, each pair computed once by tiles: (n,) float64."""
    sums = torch.zeros(len(rows), dtype=torch.float64, device=rows.left.device)
    parts = _tiles(len(rows), rows.left.device, _WITHIN)
    for number, columns in enumerate(parts):
        right = rows.right(columns)
        for part in parts[: number + 1]:
            tile = distance_tile(rows, part, rows, columns, right, buffer, diagonal=part is columns)
            sums[part] += tile.sum(dim=1)
            if part is not columns:
                sums[columns] += tile.sum(dim=0)
    return sums


def _tile_buffer(layout: Layout, dtype: torch.dtype) -> Tensor:
    """Make room for one tile of distances, which is used again and again."""
    device = layout.index.device
    most = _TILE * (_ON_GPU if device.type == "cuda" else 1)
    return torch.empty(most * min(most, int(layout.counts.max())), dtype=working_dtype(dtype), device=device)


def _tiles(rows: int, device: torch.device, size: int) -> list[slice]:
    """Cut rows into tiles of one size, about."""
    most = size * (_ON_GPU if device.type == "cuda" else 1)
    count = max(1, -(-rows // most))
    return [slice(rows * part // count, rows * (part + 1) // count) for part in range(count)]


def _nearest(
    here: PreparedRows,
    own: Tensor,
    rows: SortedRows,
    layout: Layout,
    bounds: ClassBounds,
    *,
    own_too: bool,
) -> list[Tensor]:
    """Measure some rows, of the classes `own`: sums of own distances (0 unless asked for), smallest means, nearest classes."""
    first, row, label, lower = _candidates(here, own, bounds)
    every = torch.arange(len(here), device=own.device)
    within = torch.zeros(len(here), dtype=torch.float64, device=own.device)
    other = torch.full_like(within, torch.inf)
    nearest = first.clone()
    buffer = _tile_buffer(layout, rows.dtype)
    if own_too:
        for each, some in _by_class(own, "own class"):
            within[some] = _sums(here, every[some], rows, layout.rows(each), buffer)
    for each, some in _by_class(first, "distances"):
        other[some] = _sums(here, every[some], rows, layout.rows(each), buffer) / layout.counts[each]
    left = lower <= other[row].square() * (1 + _MARGIN)
    row, label, lower = row[left], label[left], lower[left]
    for each, pairs in _by_class(label, "distances"):
        some = row[pairs]
        some = some[lower[pairs] <= other[some].square() * (1 + _MARGIN)]  # other has come down since
        if len(some):
            means = _sums(here, some, rows, layout.rows(each), buffer) / layout.counts[each]
            closer = (means < other[some]) | ((means == other[some]) & (each < nearest[some]))
            some, means = some[closer], means[closer]
            other[some], nearest[some] = means, each
    return [within, other, nearest]


def _candidates(here: PreparedRows, own: Tensor, bounds: ClassBounds) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bound the distances of rows by chunks: the first class of each (n,), and the other pairs: rows, classes, lower bounds."""
    factor = _ON_GPU if own.device.type == "cuda" else 1
    chunks = _chunks(own, _CHUNK * factor)
    found = []
    for chunk in blocks.tracked(chunks, "bounds", len(chunks)):
        some = candidates(here.left[chunk], here.norms[chunk], own[chunk], bounds, _PIECE * factor)
        found.append((some.first, some.rows + chunk.start, some.classes, some.lower))
    first, row, label, lower = map(torch.cat, zip(*found, strict=True))
    return first, row, label, lower


def _chunks(own: Tensor, most: int) -> list[slice]:
    """Cut rows, which lie by class, into chunks of at most `most`, whole classes if they fit."""
    ends = [*((own.diff() != 0).nonzero().squeeze(1) + 1).tolist(), len(own)]
    found: list[slice] = []
    start = 0
    for end in ends:
        if found and end - found[-1].start <= most // 2:  # small classes share a chunk
            found[-1] = slice(found[-1].start, end)
        else:
            found += blocks.row_slices(end, 1, most, start=start)
        start = end
    return found


def _by_class(labels: Tensor, description: str) -> Iterator[tuple[int, Tensor]]:
    """Yield each class that occurs among (c,) labels, ascending, with the places where it does."""
    order = labels.argsort(stable=True)
    found, counts = torch.unique_consecutive(labels[order], return_counts=True)
    parts = list(zip(found.tolist(), torch.split(order, counts.tolist()), strict=True))
    yield from blocks.tracked(parts, description, len(parts))


def _sums(here: PreparedRows, some: Tensor, rows: SortedRows, columns: slice, buffer: Tensor) -> Tensor:
    """Sum the distances of some rows (n,) to all rows of a class: (n,) float64."""
    sums = torch.zeros(len(some), dtype=torch.float64, device=some.device)
    y, first = (rows.whole, columns.start) if rows.whole is not None else (rows.part(columns), 0)
    parts = _tiles(len(some), some.device, _TILE)
    picked = [here.selected(some[part]) for part in parts] if len(parts) == 1 else None
    for tile in _tiles(columns.stop - columns.start, some.device, _TILE):
        there = slice(first + tile.start, first + tile.stop)
        right = y.right(there)
        for part in parts:
            x = picked[0] if picked else here.selected(some[part])
            sums[part] += distance_tile(x, slice(0, len(x)), y, there, right, buffer).sum(dim=1)
    return sums
