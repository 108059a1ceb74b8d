"""Mean distances of every sample to every class: the pass that all silhouettes use.

Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7. For a sample i of class y:
    a(i)    = mean distance to the other samples of y            (0 if there is none)
    d(i, c) = mean distance to the samples of c, for c != y
and b(i) is a minimum, or a soft one, of d(i, c) over c.

Squared Euclidean and cosine distances come from class moments in closed form, O(N K D) and two passes over the rows. Euclidean
distances take pairs: for the hard minimum those within a class and those with the few classes that bounds leave
(`ops.nearest_class`), if that is less work (`ops.pass_costs`); otherwise all of them (`ops.all_pairs`).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from embedscope import distributed
from embedscope.arguments import check_choice
from embedscope.errors import UndefinedError
from embedscope.ops import blocks
from embedscope.ops.all_pairs import all_pairs_once, some_against_all
from embedscope.ops.class_moments import (
    Classes,
    ClassMoments,
    MomentsOfClasses,
    all_classes,
    class_sums,
    present_classes,
    unit_rows,
    zero_rows,
)
from embedscope.ops.frames import Survey, surveyed
from embedscope.ops.fused import fused, fusible
from embedscope.ops.gathering import gather
from embedscope.ops.minima import HARD, MinimumForm, RunningMinimum, take_in
from embedscope.ops.nearest_class import laid_out, nearest_classes
from embedscope.ops.pairwise import distance_sums, squared_distances, working_dtype
from embedscope.ops.pass_costs import announce_all_pairs, bounds_pay, may_pay
from embedscope.ops.rows import InDouble, Rows, gathered
from embedscope.ops.sorted_rows import SortedRows, sorted_on_disk

DISTANCES = ("euclidean", "sqeuclidean", "cosine")


@dataclass(frozen=True)
class ClassDistances:
    """What a silhouette needs for every sample.

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
        minimum: which minimum over the other classes b(i) is. The hard one takes the fewest pairs.
        moments: what `class_moments` gathered, if it has; not read by "euclidean".
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
        survey = surveyed(features, classes, unit=unit)
        if survey.beyond_float32:
            features = features.double() if isinstance(features, Tensor) else InDouble(features)
        scale = survey.frame.scale
        form = MinimumForm(minimum.form, minimum.tau * scale)
        own, found = _euclidean(features, classes, anchors, survey, unit=unit, form=form)
    index = classes.index[wanted]
    return ClassDistances(
        own=own / (classes.counts[index] - 1).clamp(min=1) / scale,
        other=found.result(len(classes) - 1) / scale,
        nearest=classes.labels[found.nearest],
        alone=classes.counts[index] == 1,
    )


def _euclidean(
    features: Rows, classes: Classes, anchors: Tensor | None, survey: Survey, *, unit: bool, form: MinimumForm
) -> tuple[Tensor, RunningMinimum]:
    """Sum the distances of all rows, or of the anchors, to their own class, and find the minima: in the unit of the frame."""
    device = classes.index.device
    if isinstance(features, Tensor):
        features = features.to(device)
    once = anchors is None and isinstance(features, Tensor) and distributed.world_size() == 1
    if form.form == "hard":
        found = _by_bounds(features, classes, anchors, survey, unit=unit, once=once)
        if found is not None:
            return found
    count, dtype = len(classes.index), working_dtype(features.dtype)
    measured = count if anchors is None else len(anchors)
    announce_all_pairs(measured, count, features.shape[1], dtype, device, once=once)
    if not once:
        wanted = torch.arange(count, device=device) if anchors is None else anchors
        return some_against_all(features, classes, wanted, survey.frame, unit=unit, form=form)
    assert isinstance(features, Tensor)
    compute = fused if fusible(features) else all_pairs_once
    return compute(features, classes, survey.frame, unit=unit, form=form)


def _by_bounds(
    features: Rows, classes: Classes, anchors: Tensor | None, survey: Survey, *, unit: bool, once: bool
) -> tuple[Tensor, RunningMinimum] | None:
    """Do the same for the hard minimum without most pairs; None if that would take longer than all pairs, or is not possible.

    Rows that are not in memory are sorted by class into a temporary file first, see `sorted_rows.sorted_on_disk`; processes on
    several machines do not share one, and compute all pairs.
    """
    device = classes.index.device
    by_size = classes.counts.argsort(stable=True)  # (K,) classes by ascending size
    place = by_size.argsort()[classes.index]  # (N,)
    order = place.argsort(stable=True)  # (N,) the row at each position
    layout = laid_out(classes.counts[by_size])
    wanted, back = None, order.argsort()
    if anchors is not None:
        wanted, turn = back[anchors].sort()
        back = turn.argsort()
    if survey.means is not None:
        survey = replace(survey, means=survey.means[by_size], spread=survey.spread[by_size])
    in_memory = isinstance(features, Tensor)
    count, width, own_pairs = len(back) if wanted is None else len(wanted), features.shape[1], anchors is None
    if not may_pay(layout, survey, count, width, own=own_pairs, once=once, memory=blocks.memory() // 4):
        return None
    if not in_memory and distributed.world_size() != distributed.local_world_size():
        return None
    with nullcontext(features) if in_memory else sorted_on_disk(features, order) as by_class:
        rows = SortedRows(by_class, order if in_memory else None, survey.frame, device, unit=unit)
        pays = bounds_pay(rows, layout, survey, wanted, once=once)
        if not distributed.all_reduce_object(pays, lambda one, other: one and other):  # all processes go the same way
            return None
        own, other, nearest = nearest_classes(rows, layout, wanted)
    found = RunningMinimum(0, HARD, device)
    found.lowest, found.nearest = other[back], by_size[nearest[back]]
    return own[back], found


def class_moments(
    classes: Classes, width: int, device: torch.device, *, distance: str, normalize: bool = False
) -> MomentsOfClasses | None:
    """Make the gatherer of what `class_distances` needs of a first pass; None for Euclidean distances, which need none."""
    if distance not in DISTANCES[1:]:
        return None
    return MomentsOfClasses(classes, width, device, unit=normalize or distance == "cosine")


def batch_class_distances(
    features: Tensor, labels: Tensor, *, distance: str, num_classes: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the same with gradients, for one batch: (B, D), (B,) -> a (B,), d (K, B), alone (B,).

    d is the mean distance to every class present, and inf at the own one. With `num_classes`, of labels in [0, K), it holds
    all K classes, inf at those without a row: no shape depends on the labels then, as torch.compile needs it.
    """
    check_choice("distance", distance, DISTANCES)
    classes = present_classes(labels) if num_classes is None else all_classes(labels, num_classes)
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
    means = sums / counts[:, None]
    if num_classes is not None:
        means = means.masked_fill((counts == 0)[:, None], torch.inf)
    return own, means.scatter(0, own_class, torch.inf), peers == 0


def _closed_form(
    features: Rows, classes: Classes, wanted: Tensor, moments: ClassMoments, *, unit: bool, cosine: bool, form: MinimumForm
) -> tuple[Tensor, RunningMinimum]:
    """Sum squared distances from class moments: over a class, n |x - mean|² + sum |y - mean|².

    Cosine distances are half the squared distances of unit rows; a zero row, whose cosine is 0, is half further away from every
    other row.
    """
    device, size = wanted.device, len(classes)
    center = (moments.means * moments.counts[:, None]).sum(dim=0) / moments.counts.sum()
    # The class mean is rounded: what is below the resolution of the rows does not count as a distance.
    floor = (4 * torch.finfo(torch.float64).eps * moments.largest) ** 2
    share = distributed.share(len(wanted))
    mine = wanted[share]
    own = torch.zeros(len(mine), dtype=torch.float64, device=device)
    found = RunningMinimum(len(mine), form, device)
    slices = blocks.row_slices(len(mine), 8 * (4 * size + 2 * features.shape[1]))
    for block in blocks.tracked(slices, "distances", len(slices)):
        raw = gathered(features, mine[block]).to(device, torch.float64)
        rows = (unit_rows(raw) if unit else raw) - center
        squared = squared_distances(moments.means - center, rows) + (moments.spread / moments.counts)[:, None]  # (K, B)
        squared.masked_fill_(squared <= floor, 0)
        sums = squared * moments.counts[:, None]
        index = classes.index[mine[block]]
        if cosine:
            zero = zero_rows(raw).double()
            sums = (sums + zero * moments.counts[:, None] + moments.zeros[:, None]) / 2
            sums[index, torch.arange(len(index), device=device)] -= zero  # the distance to itself
        take_in(found, own, block, slice(0, size), sums, classes.counts.double(), classes.index[mine])
    return distributed.all_gather(own), found.of_all_processes()
