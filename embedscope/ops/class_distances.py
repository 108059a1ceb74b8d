"""Mean distances of every sample to every class: the one pass behind the silhouettes.

Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7. For a sample i of class y:
    a(i)    = mean distance to the other samples of y            (0 if there is none)
    d(i, c) = mean distance to the samples of c, for c != y
and b(i) is a minimum, or a soft one, of d(i, c) over c.

Squared Euclidean and cosine distances come from class moments in closed form, O(N K D) and two passes over the rows. Euclidean
distances need all pairs. In one process with the rows in memory each pair is computed once: rows are sorted by class and cut
into blocks, and a tile of the distance matrix (a block by a block) gives class sums for its rows and for its columns. A block
holds whole classes of about one size, or a part of one large class; a class is reduced into the running minima as soon as it
is complete, so that neither N x N nor N x K is ever held. Several processes, rows on disk and a sample of anchors go another
way: some rows against all.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope import distributed
from embedscope.errors import UndefinedError, check_choice
from embedscope.ops import blocks
from embedscope.ops.class_moments import (
    Classes,
    ClassMoments,
    MomentsOfClasses,
    class_sums,
    present_classes,
    unit_rows,
    zero_rows,
)
from embedscope.ops.gathering import gather
from embedscope.ops.minima import HARD, MinimumForm, RunningMinimum
from embedscope.ops.pairwise import Frame, PreparedRows, distance_sums, distance_tile, squared_distances

if TYPE_CHECKING:
    from embedscope.ops._class_distances_triton import Tiling
    from embedscope.ops.rows import Rows

DISTANCES = ("euclidean", "sqeuclidean", "cosine")

# Rows and columns of a tile: 1024 x 1024 float32 is 4 MiB, which two cores keep in their caches from product to sum. Measured
# with 256 to 1024: the largest is best, by 8 % at D = 128 and 14 % at D = 512.
_TILE = 1024

# Rows that are added up first where many are; see `_sums_of_rows`. Measured with 8 to 64: 16 and 32 are best.
_GROUP = 16


@dataclass(frozen=True)
class ClassDistances:
    """What a silhouette needs of every sample.

    Attributes:
        own: (N,) float64, a(i); 0 for the only member of a class.
        other: (N,) float64, b(i): the minimum of d(i, c) over the other classes, hard or soft.
        nearest: (N,) the label of the class with the smallest d(i, c), hard in any case.
        alone: (N,) bool, the only members of their class.
    """

    own: Tensor
    other: Tensor
    nearest: Tensor
    alone: Tensor


def class_distances(
    features: Rows,
    labels: Tensor,
    *,
    distance: str = "euclidean",
    normalize: bool = False,
    minimum: MinimumForm = HARD,
    anchors: Tensor | None = None,
    moments: ClassMoments | None = None,
) -> ClassDistances:
    """Compute a(i), b(i) and the nearest other class, exactly, against all rows.

    Precision: sums are in float64, and so is everything for float64 input. Products of float32 (or half) input are in float32
    about the mean, and pairs so near that the product loses digits are computed again from their difference: the silhouettes
    that follow are within 1e-6 of float64 on ordinary data, and within 1e-5 on features shifted by 1000, clusters of radius
    1e-3, exact duplicates, collapsed classes and outliers (`benchmarks/silhouette_precision.py`). Equal rows are exactly 0
    apart. TF32 is never used.

    Args:
        features: (N, D), any float dtype; a tensor, or rows that are read by blocks.
        labels: (N,) integers; any values, gaps allowed. On the device that computes.
        distance: "euclidean", "sqeuclidean" or "cosine" (1 - cosine similarity; a zero row is at 1 from everything).
        normalize: divide every row by its length first (a zero row stays zero).
        minimum: which minimum over the other classes b(i) is.
        moments: what `class_moments` gathered, where it has been; not read by "euclidean".
        anchors: (M,) ascending positions; only these samples are measured, against all rows. The results are then (M,).

    Raises:
        UndefinedError: fewer than two classes.
    """
    check_choice("distance", distance, DISTANCES)
    classes = present_classes(labels)
    if len(classes) < 2:
        raise UndefinedError(f"needs at least 2 classes, got {len(classes)}")
    unit = normalize or distance == "cosine"
    wanted = torch.arange(len(labels), device=labels.device) if anchors is None else anchors
    scale = 1.0
    if distance != "euclidean":
        if moments is None:
            gatherer = MomentsOfClasses(classes, features.shape[1], labels.device, unit=unit)
            gather(features, [gatherer], labels.device)
            moments = gatherer.moments
        own, found = _closed_form(features, classes, wanted, moments, unit=unit, cosine=distance == "cosine", form=minimum)
    else:
        frame = _frame(features, unit=unit)
        scale = frame.scale
        form = MinimumForm(minimum.form, minimum.tau * scale)
        if anchors is not None or not isinstance(features, Tensor) or distributed.world_size() > 1:
            own, found = _some_against_all(features, classes, wanted, frame, unit=unit, form=form)
        else:
            here = features.to(labels.device)
            on_gpu = here.device.type == "cuda" and here.dtype != torch.float64 and importlib.util.find_spec("triton")
            own, found = (_fused if on_gpu else _all_pairs_once)(here, classes, frame, unit=unit, form=form)
    index = classes.index[wanted]
    return ClassDistances(
        own=own / (classes.counts[index] - 1).clamp(min=1) / scale,
        other=found.result(len(classes) - 1) / scale,
        nearest=classes.labels[found.nearest],
        alone=classes.counts[index] == 1,
    )


def class_moments(
    classes: Classes, width: int, device: torch.device, *, distance: str, normalize: bool = False
) -> MomentsOfClasses | None:
    """Make the gatherer of what `class_distances` needs of a first pass; None for Euclidean distances, which need none."""
    if distance not in DISTANCES[1:]:
        return None
    return MomentsOfClasses(classes, width, device, unit=normalize or distance == "cosine")


def batch_class_distances(features: Tensor, labels: Tensor, *, distance: str) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the same with gradients, for one batch: (B, D), (B,) -> a (B,), d (K, B), alone (B,).

    d holds the mean distance to every class present, and inf at the own one.
    """
    check_choice("distance", distance, DISTANCES)
    classes = present_classes(labels)
    if distance != "cosine":
        features = features - features.mean(dim=0).detach()  # changes no distance and no gradient, and cancels no digits
    if distance == "euclidean":
        sums = distance_sums(features, classes.index, len(classes))  # (K, B)
    else:
        if distance == "sqeuclidean":
            norms = features.square().sum(dim=1)
            between = norms[:, None] + norms[None, :] - 2 * features @ features.T
        else:
            unit = torch.nn.functional.normalize(features, dim=1)
            between = 1 - unit @ unit.T
        to_self = torch.eye(len(features), dtype=torch.bool, device=features.device)
        sums = class_sums(between.clamp(min=0).masked_fill(to_self, 0), classes.index, len(classes))
    counts = classes.counts.to(features.dtype)
    peers = counts[classes.index] - 1  # (B,)
    own_class = classes.index[None]  # (1, B)
    own = sums.gather(0, own_class).squeeze(0) / peers.clamp(min=1)
    return own, (sums / counts[:, None]).scatter(0, own_class, torch.inf), peers == 0


def _take_in(
    found: RunningMinimum, own: Tensor, rows: slice, classes: slice, sums: Tensor, counts: Tensor, index: Tensor
) -> None:
    """Reduce complete class sums (M, B) into the minima, and add those of a sample's own class to its own sum instead.

    `counts` (K,) and `index` (N,) are of all classes and all samples that `found` and `own` hold.
    """
    means = sums / counts[classes, None]
    mine = index[rows] - classes.start
    inside = ((mine >= 0) & (mine < len(sums))).nonzero().squeeze(1)
    own[rows.start + inside] += sums[mine[inside], inside]
    means[mine[inside], inside] = torch.inf
    found.update(rows, classes, means)


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


def _all_pairs_once(
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
        _take_in(found, own, here, slice(0, block.classes.stop), columns, counts, index)
        if number and plan[number - 1].classes == block.classes:  # a large class goes on: its sums so far are added
            before[:, : unfinished.shape[1]] += unfinished
        if block.last:
            _take_in(found, own, slice(0, here.start), block.classes, before, counts, index)
        unfinished = before
    back = place[order.argsort()]  # where each row went
    result = found.selected(back)
    result.nearest = by_size[result.nearest]
    return own[back], result


def _fused(
    features: Tensor, classes: Classes, frame: Frame, *, unit: bool, form: MinimumForm, tiling: Tiling | None = None
) -> tuple[Tensor, RunningMinimum]:
    """Do the same by one kernel on a GPU, and again, exactly, for the rows that have neighbours too near for its products."""
    from embedscope.ops._class_distances_triton import fused_class_distances

    own, found, again = fused_class_distances(features, classes, frame, unit=unit, form=form, tiling=tiling)
    wanted = again.nonzero().squeeze(1)
    if len(wanted) > len(again) // 2:
        return _all_pairs_once(features, classes, frame, unit=unit, form=form)
    if len(wanted):
        own[wanted], exact = _some_against_all(features, classes, wanted, frame, unit=unit, form=form)
        found.replace(wanted, exact)
    return own, found


def _sums_of_rows(tile: Tensor, classes: int) -> Tensor:
    """Sum the rows of each class, which are runs of one length: (R, C) -> (M, C).

    By groups of rows first: each core then adds up rows that it has in its own cache, which makes the whole pass a quarter
    faster than `tile.sum(dim=0)`, whose cores share the columns.
    """
    run = len(tile) // classes
    if run % _GROUP or run == _GROUP:
        return tile.view(classes, run, -1).sum(dim=1)
    return tile.view(classes * run // _GROUP, _GROUP, -1).sum(dim=1).view(classes, run // _GROUP, -1).sum(dim=1)


def _some_against_all(
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
        _take_in(found, own, slab, slice(0, size), sums, classes.counts.double(), classes.index[mine])
    return distributed.all_gather(own), found.of_all_processes()


def gathered(features: Rows, positions: Tensor) -> Tensor:
    """Read rows at ascending positions: (n, D). Rows on disk are read in spans, not one by one."""
    if isinstance(features, Tensor):
        return features[positions.to(features.device)]
    parts = []
    for block in blocks.row_slices(features.shape[0], features.shape[1] * features.dtype.itemsize):
        inside = positions[(positions >= block.start) & (positions < block.stop)].cpu()
        if len(inside):
            span = slice(int(inside[0]), int(inside[-1]) + 1)
            parts.append(features[span][inside - span.start])
    return torch.cat(parts)


def _frame(features: Rows, *, unit: bool) -> Frame:
    """Choose the origin and the unit of length: one pass over the rows."""
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    largest = 0.0
    for _, block in blocks.over_rows(features, torch.float64, description="mean"):
        total += (unit_rows(block) if unit else block).sum(dim=0).cpu()
        largest = max(largest, float(block.abs().max()))
    centre = distributed.all_reduce_object(total, torch.add) / features.shape[0]
    largest = distributed.all_reduce_object(largest, max)
    scale = 1.0 if unit or not 0 < largest < math.inf else 2.0 ** -max(-1000, min(1000, math.frexp(largest)[1]))
    return Frame(centre * scale, scale)


def _closed_form(
    features: Rows, classes: Classes, wanted: Tensor, moments: ClassMoments, *, unit: bool, cosine: bool, form: MinimumForm
) -> tuple[Tensor, RunningMinimum]:
    """Sum squared distances from class moments: over a class, n |x - mean|² + sum |y - mean|².

    Cosine distances are half the squared distances of unit rows; a zero row, whose cosine is 0, is half further away from every
    other row.
    """
    device, size = wanted.device, len(classes)
    centre = (moments.means * moments.counts[:, None]).sum(dim=0) / moments.counts.sum()
    # The class mean is rounded: what is below the resolution of the rows is no distance.
    floor = (4 * torch.finfo(torch.float64).eps * moments.largest) ** 2
    share = distributed.share(len(wanted))
    mine = wanted[share]
    own = torch.zeros(len(mine), dtype=torch.float64, device=device)
    found = RunningMinimum(len(mine), form, device)
    slices = blocks.row_slices(len(mine), 8 * (4 * size + 2 * features.shape[1]))
    for block in blocks.tracked(slices, "distances", len(slices)):
        raw = gathered(features, mine[block]).to(device, torch.float64)
        rows = (unit_rows(raw) if unit else raw) - centre
        squared = squared_distances(moments.means - centre, rows) + (moments.spread / moments.counts)[:, None]  # (K, B)
        squared.masked_fill_(squared <= floor, 0)
        sums = squared * moments.counts[:, None]
        index = classes.index[mine[block]]
        if cosine:
            zero = zero_rows(raw).double()
            sums = (sums + zero * moments.counts[:, None] + moments.zeros[:, None]) / 2
            sums[index, torch.arange(len(index), device=device)] -= zero  # the distance to itself
        _take_in(found, own, block, slice(0, size), sums, classes.counts.double(), classes.index[mine])
    return distributed.all_gather(own), found.of_all_processes()
