"""Mean distances of every sample to every class: the one pass behind the silhouettes.

Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7. For a sample i of class y:
    a(i)    = mean distance to the other samples of y            (0 if there is none)
    d(i, c) = mean distance to the samples of c, for c != y
and b(i) is a minimum, or a soft one, of d(i, c) over c.

Squared Euclidean and cosine distances come from class moments in closed form, O(N K D) and two passes over the rows. Euclidean
distances need all pairs. In one process with the rows in memory each pair is computed once: rows are sorted by class and cut
into blocks, and a tile of the distance matrix (a block by a block) gives class sums for its rows and for its columns. A block
holds whole classes, or a part of one large class; a class is reduced into the running minima as soon as it is complete, so that
neither N x N nor N x K is ever held. Several processes, rows on disk and a sample of anchors go another way: some rows against
all.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope import distributed
from embedscope.errors import UndefinedError, check_choice
from embedscope.ops import blocks
from embedscope.ops.class_moments import Classes, ClassMoments, MomentsOfClasses, class_sums, present_classes, unit_rows
from embedscope.ops.gathering import gather
from embedscope.ops.minima import HARD, MinimumForm, RunningMinimum
from embedscope.ops.pairwise import PreparedRows, distance_tile, distances, squared_distances

if TYPE_CHECKING:
    from embedscope.records import Rows

DISTANCES = ("euclidean", "sqeuclidean", "cosine")

# Rows and columns of a tile: 512 x 512 float32 is 1 MiB, which stays in the cache of a core from product to sum. Measured with
# 256 to 2048 on two cores: 512 is best at D = 128, and within 2 % of the best at D = 512.
_TILE = 512


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
    1e-3, exact duplicates and collapsed classes (`benchmarks/precision.py`). Equal rows are exactly 0 apart. No TF32.

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
    if distance != "euclidean":
        if moments is None:
            gatherer = MomentsOfClasses(classes, features.shape[1], labels.device, unit=unit)
            gather(features, [gatherer], labels.device)
            moments = gatherer.moments
        own, found = _closed_form(features, classes, wanted, moments, unit=unit, cosine=distance == "cosine", form=minimum)
    elif anchors is None and isinstance(features, Tensor) and distributed.size() == 1:
        own, found = _all_pairs_once(features.to(labels.device), classes, unit=unit, form=minimum)
    else:
        own, found = _some_against_all(features, classes, wanted, unit=unit, form=minimum)
    index = classes.index[wanted]
    return ClassDistances(
        own=own / (classes.counts[index] - 1).clamp(min=1),
        other=found.result(len(classes) - 1),
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


def batch_class_distances(features: Tensor, labels: Tensor, *, distance: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the same with gradients, for one batch: (B, D), (B,) -> a (B,), d (B, K), own class (B, K) bool, alone (B,).

    d holds the mean distance to every class present, the own one included (meaningless there: mask it).
    """
    check_choice("distance", distance, DISTANCES)
    classes = present_classes(labels)
    member = torch.nn.functional.one_hot(classes.index, len(classes)).to(features.dtype)  # (B, K)
    if distance != "cosine":
        features = features - features.mean(dim=0).detach()  # changes no distance and no gradient, and cancels no digits
    if distance == "euclidean":
        between = distances(features)  # (B, B)
    elif distance == "sqeuclidean":
        norms = features.square().sum(dim=1)
        between = norms[:, None] + norms[None, :] - 2 * features @ features.T
    else:
        unit = torch.nn.functional.normalize(features, dim=1)
        between = 1 - unit @ unit.T
    to_self = torch.eye(len(features), dtype=torch.bool, device=features.device)
    sums = between.clamp(min=0).masked_fill(to_self, 0) @ member  # (B, K)
    counts = classes.counts.to(features.dtype)
    own = (sums * member).sum(dim=1) / (counts[classes.index] - 1).clamp(min=1)
    return own, sums / counts, member.bool(), counts[classes.index] == 1


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
    """Consecutive rows of the sorted features: whole classes, or a part of one that does not fit."""

    rows: slice
    classes: slice
    last: bool  # of its classes

    def __len__(self) -> int:
        return int(self.rows.stop - self.rows.start)


def _blocks(counts: list[int]) -> list[_Block]:
    """Cut rows sorted by class into blocks of at most _TILE rows."""
    found: list[_Block] = []
    start, first = 0, 0  # of the block that is being filled with whole classes
    stop = 0
    for label, count in enumerate(counts):
        if stop > start and stop + count - start > _TILE:
            found.append(_Block(slice(start, stop), slice(first, label), last=True))
            start, first = stop, label
        stop += count
        if count > _TILE:
            parts = -(-count // _TILE)
            edges = [start + count * part // parts for part in range(parts + 1)]
            found += [_Block(slice(*ends), slice(label, label + 1), last=ends[1] == stop) for ends in pairwise(edges)]
            start, first = stop, label + 1
    if stop > start:
        found.append(_Block(slice(start, stop), slice(first, len(counts)), last=True))
    return found


def _all_pairs_once(features: Tensor, classes: Classes, *, unit: bool, form: MinimumForm) -> tuple[Tensor, RunningMinimum]:
    """Sum the distances over all pairs, each computed once: the own sums (N,) and the minima, in the order of the rows."""
    order = classes.index.argsort(stable=True)
    index, counts = classes.index[order], classes.counts.double()
    rows = PreparedRows(features, order, _centre(features, unit=unit), unit=unit)
    own = torch.zeros(len(order), dtype=torch.float64, device=order.device)
    found = RunningMinimum(len(order), form, order.device)
    plan = _blocks(classes.counts.tolist())
    unfinished = own.new_zeros(1, 0)  # sums over a class that spans several blocks, for the rows before the last of them
    for number, block in enumerate(blocks.tracked(plan, "distances", len(plan))):
        here, width = block.rows, block.classes.stop - block.classes.start
        right = rows.right(here)
        columns = torch.zeros(block.classes.stop, len(block), dtype=torch.float64, device=order.device)
        before = torch.zeros(width, here.start, dtype=torch.float64, device=order.device)
        for other in plan[: number + 1]:
            tile = distance_tile(rows, other.rows, rows, here, right)  # (rows of other, rows of block)
            columns[other.classes] += _run_sums(tile, index[other.rows] - other.classes.start, other.classes)
            if other is not block:
                before[:, other.rows] = _run_sums(tile.T, index[here] - block.classes.start, block.classes)
        _take_in(found, own, here, slice(0, block.classes.stop), columns, counts, index)
        if number and plan[number - 1].classes == block.classes:  # a large class goes on: its sums so far are added
            before[:, : unfinished.shape[1]] += unfinished
        if block.last:
            _take_in(found, own, slice(0, here.start), block.classes, before, counts, index)
        unfinished = before
    back = order.argsort()
    return own[back], found.selected(back)


def _run_sums(tile: Tensor, index: Tensor, classes: slice) -> Tensor:
    """Sum the rows of a tile that are of one class: (R, B), (R,) from 0 -> (M, B)."""
    if classes.stop - classes.start == 1:
        return tile.sum(dim=0, keepdim=True)
    return tile.new_zeros(classes.stop - classes.start, tile.shape[1]).index_add_(0, index, tile.contiguous())


def _some_against_all(
    features: Rows, classes: Classes, wanted: Tensor, *, unit: bool, form: MinimumForm
) -> tuple[Tensor, RunningMinimum]:
    """Sum the distances of some rows to all: the own sums (M,) and the minima of this process's share, put together."""
    device, size = wanted.device, len(classes)
    centre = _centre(features, unit=unit)
    share = distributed.share(len(wanted))
    mine = wanted[share]
    own = torch.zeros(len(mine), dtype=torch.float64, device=device)
    found = RunningMinimum(len(mine), form, device)
    row_bytes = features.shape[1] * 24 + size * 24 + 12 * _TILE
    slabs = blocks.row_slices(len(mine), row_bytes, blocks.memory() // 4)
    for slab in blocks.tracked(slabs, "distances", len(slabs)):
        left = PreparedRows(gathered(features, mine[slab]).to(device), None, centre, unit=unit)
        here = slice(0, slab.stop - slab.start)
        sums = torch.zeros(size, here.stop, dtype=torch.float64, device=device)
        for block in blocks.row_slices(features.shape[0], 1, _TILE * 4):
            right = PreparedRows(features[block].to(device), None, centre, unit=unit)
            for part in blocks.row_slices(here.stop, 1, _TILE * 4):
                tile = distance_tile(right, slice(0, len(right)), left, part, left.right(part))
                sums[:, part] += class_sums(tile, classes.index[block], size)
        _take_in(found, own, slab, slice(0, size), sums, classes.counts.double(), classes.index[mine])
    return distributed.concatenated(own), found.of_all_processes()


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


def _centre(features: Rows, *, unit: bool) -> Tensor:
    """Compute the mean of the rows (of the unit rows) in float64: (D,). Moving the origin there changes no distance."""
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    for _, block in blocks.over_rows(features, torch.float64, description="mean"):
        total += (unit_rows(block) if unit else block).sum(dim=0).cpu()
    return distributed.folded(total, torch.add) / features.shape[0]


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
        squared[squared <= floor] = 0
        sums = squared * moments.counts[:, None]
        index = classes.index[mine[block]]
        if cosine:
            zero = (raw == 0).all(dim=1).double()
            sums = (sums + zero * moments.counts[:, None] + moments.zeros[:, None]) / 2
            sums[index, torch.arange(len(index), device=device)] -= zero  # the distance to itself
        _take_in(found, own, block, slice(0, size), sums, classes.counts.double(), classes.index[mine])
    return distributed.concatenated(own), found.of_all_processes()
