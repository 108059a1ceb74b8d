"""Mean distances to every class by computing all pairs: what a soft minimum needs, and a hard one if no class can be ruled out.

With the rows in memory each pair is computed once: rows are sorted by class and cut into blocks, and a tile of the distance
matrix (a block by a block) gives class sums for its rows and for its columns. A block holds whole classes of about one size, or
a part of one large class; a class is reduced into the running minima as soon as it is complete, so that neither N x N nor N x K
is ever held. Several processes, rows on disk and a sample of anchors take another way: some rows against all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope import distributed
from embedscope.ops import blocks
from embedscope.ops.class_moments import class_sums
from embedscope.ops.minima import RunningMinimum, take_in
from embedscope.ops.pairwise import Frame, PreparedRows, distance_tile
from embedscope.ops.rows import gathered

if TYPE_CHECKING:
    from embedscope.ops.class_moments import Classes
    from embedscope.ops.minima import MinimumForm
    from embedscope.ops.rows import Rows

# Rows and columns of a tile: 1024 x 1024 float32 is 4 MiB, which two cores keep in their caches from product to sum. Measured
# with 256 to 1024: the largest is best, by 8 % at D = 128 and 14 % at D = 512.
_TILE = 1024

# Rows that are added up first where many are; see `_sums_of_rows`. Measured with 8 to 64: 16 and 32 are best.
_GROUP = 16


@dataclass(frozen=True)
class _Block:
    """Consecutive positions of the sorted rows: whole classes, or a part of one that does not fit.

    Attributes:
        rows: the positions.
        classes: which classes, each with the same number of positions; where a class has fewer rows, the rest are dummies.
        last: whether its classes end here.
    """

    rows: slice
    classes: slice
    last: bool

    def __len__(self) -> int:
        return int(self.rows.stop - self.rows.start)


def _layout(counts: list[int], most: int) -> tuple[list[_Block], list[int]]:
    """Cut classes of ascending size into blocks of about _TILE positions; and the number of positions of each class.

    Sums over runs of one length are fast, so the classes of a block are padded to the largest of them, and runs of some length
    to a multiple of _GROUP. The largest is at most twice the smallest, so that dummies are not most of the work; and a block
    has at most `most` classes, because it keeps their sums for all positions before it.
    """
    found: list[_Block] = []
    padded = []
    position, label = 0, 0
    while label < len(counts):
        parts = max(1, round(counts[label] / _TILE))
        stop = label + 1
        if parts == 1:
            while (
                stop < min(len(counts), label + most)
                and counts[stop] <= 2 * counts[label]
                and _rounded(counts[stop]) * (stop + 1 - label) <= _TILE
            ):
                stop += 1
        run = _rounded(-(-counts[stop - 1] // parts))
        size = run * (stop - label)
        for part in range(parts):
            found.append(_Block(slice(position, position + size), slice(label, stop), last=part == parts - 1))
            position += size
        padded += [run * parts] * (stop - label)
        label = stop
    return found, padded


def _rounded(run: int) -> int:
    return run if run < 2 * _GROUP else -(-run // _GROUP) * _GROUP


def _stand_ins(taken: Tensor, plan: list[_Block], firsts: Tensor) -> dict[int, Tensor]:
    """Let a dummy stand for the first row of its run; return how many do, (M,) a block, by the block's first position.

    `taken` (P,) is the row at each position, -1 for a dummy, and is filled in place. What a run's sum holds too much is then as
    many of its first terms: of the size of the others, so that taking it out again costs no digits. In a run of dummies alone
    all stand for the first row of the class, `firsts` (P,).
    """
    excess = {}
    for block in plan:
        runs = taken[block.rows].view(block.classes.stop - block.classes.start, -1)  # (M, run), a view
        dummy = runs < 0
        runs[:, 0] = torch.where(dummy[:, 0], firsts[block.rows].view_as(runs)[:, 0], runs[:, 0])
        runs.copy_(torch.where(dummy, runs[:, :1], runs))
        excess[block.rows.start] = dummy.sum(dim=1)
    return excess


def all_pairs_once(
    features: Tensor, classes: Classes, frame: Frame, *, unit: bool, form: MinimumForm
) -> tuple[Tensor, RunningMinimum]:
    """Sum the distances over all pairs, each computed once: the own sums (N,) and the minima, in the order of the rows."""
    device = features.device
    by_size = classes.counts.argsort(stable=True)  # (K,) classes by ascending size
    counts = classes.counts[by_size]
    # The sums of a block's classes for all positions before it, in float64, three times over while they are reduced.
    plan, lengths = _layout(counts.tolist(), max(1, blocks.memory() // (4 * 3 * 8 * len(classes.index))))
    padded = torch.tensor(lengths, device=device)  # (K,) positions of each class
    index = torch.repeat_interleave(padded)  # (P,) class of each position, by size
    # Rows take the first positions of their class, dummies what is left.
    row_class = by_size.argsort()[classes.index]  # (N,)
    order = row_class.argsort(stable=True)
    first = counts.cumsum(0) - counts
    place = (padded.cumsum(0) - padded - first)[row_class[order]] + torch.arange(len(order), device=device)
    taken = torch.full((len(index),), -1, dtype=torch.int64, device=device)
    taken[place] = order
    excess = _stand_ins(taken, plan, order[first[index]])
    rows = PreparedRows(features, taken, frame, unit=unit)
    own = torch.zeros(len(index), dtype=torch.float64, device=device)
    found = RunningMinimum(len(index), form, device)
    buffer = rows.left.new_empty(max(map(len, plan)) ** 2)
    unfinished = own.new_zeros(1, 0)  # sums over a class that spans several blocks, for the positions before the last of them
    for number, block in enumerate(blocks.tracked(plan, "distances", len(plan))):
        here, width = block.rows, block.classes.stop - block.classes.start
        right = rows.right(here)
        columns = torch.zeros(block.classes.stop, len(block), dtype=torch.float64, device=device)
        before = torch.zeros(width, here.start, dtype=torch.float64, device=device)
        for other in plan[: number + 1]:
            tile = distance_tile(rows, other.rows, rows, here, right, buffer)  # (positions of other, positions of block)
            runs = tile.view(other.classes.stop - other.classes.start, -1, len(block))
            columns[other.classes] += _sums_of_rows(tile, len(runs)) - excess[other.rows.start][:, None] * runs[:, 0]
            if other is not block:
                runs = tile.view(len(other), width, -1)
                before[:, other.rows] = (runs.sum(dim=2) - excess[here.start] * runs[:, :, 0]).T
        take_in(found, own, here, slice(0, block.classes.stop), columns, counts, index)
        if number and plan[number - 1].classes == block.classes:  # a large class goes on: its sums so far are added
            before[:, : unfinished.shape[1]] += unfinished
        if block.last:
            take_in(found, own, slice(0, here.start), block.classes, before, counts, index)
        unfinished = before
    back = place[order.argsort()]  # where each row went
    result = found.selected(back)
    result.nearest = by_size[result.nearest]
    return own[back], result


def _sums_of_rows(tile: Tensor, classes: int) -> Tensor:
    """Sum the rows of each class, which are runs of one length: (R, C) -> (M, C).

    By groups of rows first: each core then adds up rows that it has in its own cache, which makes the whole pass a quarter
    faster than `tile.sum(dim=0)`, whose cores share the columns.
    """
    run = len(tile) // classes
    if run % _GROUP or run == _GROUP:
        return tile.view(classes, run, -1).sum(dim=1)
    return tile.view(classes * run // _GROUP, _GROUP, -1).sum(dim=1).view(classes, run // _GROUP, -1).sum(dim=1)


def some_against_all(
    features: Rows, classes: Classes, wanted: Tensor, frame: Frame, *, unit: bool, form: MinimumForm
) -> tuple[Tensor, RunningMinimum]:
    """Sum the distances of some rows to all: the own sums (M,) and the minima of this process's share, put together."""
    device, size = wanted.device, len(classes)
    share = distributed.share(len(wanted))
    mine = wanted[share]
    own = torch.zeros(len(mine), dtype=torch.float64, device=device)
    found = RunningMinimum(len(mine), form, device)
    row_bytes = features.shape[1] * 24 + size * 24 + 12 * _TILE
    slabs = blocks.row_slices(len(mine), row_bytes, blocks.memory() // 4)
    for slab in blocks.tracked(slabs, "distances", len(slabs)):
        left = PreparedRows(gathered(features, mine[slab]).to(device), None, frame, unit=unit)
        here = slice(0, slab.stop - slab.start)
        sums = torch.zeros(size, here.stop, dtype=torch.float64, device=device)
        parts = [(part, left.right(part)) for part in blocks.row_slices(here.stop, 1, _TILE * 2)]
        for block in blocks.row_slices(features.shape[0], 1, _TILE * 2):
            right = PreparedRows(features[block].to(device), None, frame, unit=unit)
            for part, laid_out in parts:
                tile = distance_tile(right, slice(0, len(right)), left, part, laid_out)
                sums[:, part] += class_sums(tile, classes.index[block], size)
        take_in(found, own, slab, slice(0, size), sums, classes.counts.double(), classes.index[mine])
    return distributed.all_gather(own), found.of_all_processes()
