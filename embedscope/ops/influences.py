"""How much each row moves the mean silhouette: the infinitesimal jackknife.

The mean silhouette is theta = mean s(i) with s(i) = f(a(i), d(i, c) for c != y(i)), and the distances are means over rows too.
So a row k of class y, of n_y rows, moves theta by its own value and by its part in the means of the others. To first order,
its influence is

    I(k) = s(k) - theta
         + sum over i in y, i != k of  df(i)/da     (|x_i - x_k| - a(i)) / (n_y - 1)
         + sum over i not in y     of  df(i)/dd_iy  (|x_i - x_k| - d(i, y)) / n_y

and theta of other rows of the same population has the variance var(I) / N (Efron 1982, doi:10.1137/1.9781611970319, chapter 6).
Leaving out the last two lines, as a bootstrap of the values s(i) does, takes the rows that a sample is measured against for
constants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope.ops.blocks import memory, row_slices, tracked
from embedscope.ops.class_moments import Classes, class_sums, moments_of, present_classes, unit_rows, zero_rows
from embedscope.ops.pairwise import working_dtype

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedscope.ops.class_distances import ClassDistances

    # From a (B,), d (K, B) with inf at the own class, and alone (B,) bool to s (B,), with gradients.
    Silhouette = Callable[[Tensor, Tensor, Tensor], Tensor]

# Rows and columns of a tile of distances, which two cores keep in their caches.
_TILE = 1024


def silhouette_influences(
    features: Tensor,
    labels: Tensor,
    silhouette: Silhouette,
    *,
    distance: str = "euclidean",
    normalize: bool = False,
    hard: ClassDistances | None = None,
) -> Tensor:
    """Compute the influence of each row on the mean silhouette: (N, D), (N,) -> (N,) float64, which sum to 0.

    Args:
        features: in memory, any float dtype.
        labels: integers.
        silhouette: from mean distances to the values of the samples.
        distance: "euclidean", "sqeuclidean" or "cosine".
        normalize: divide every row by its length first.
        hard: for a silhouette that depends on the nearest class only, the mean distances that were found; then a row is
            compared with its own class and with those whose nearest class is its own, instead of with all rows.
    """
    classes = present_classes(labels)
    rows = features.to(labels.device)
    if distance == "euclidean":
        rows = _framed(rows, unit=normalize)
        if hard is not None:
            return _of_nearest_class(rows, classes, silhouette, hard)
        return _of_all_classes(rows, classes, silhouette)
    return _in_closed_form(
        rows.double(), classes, silhouette, unit=normalize or distance == "cosine", cosine=distance == "cosine"
    )


def _framed(rows: Tensor, *, unit: bool) -> Tensor:
    """Move the origin to the mean, in the dtype that products are computed in; an interval needs no more digits."""
    wide = rows.double()
    if unit:
        wide = unit_rows(wide)
    return (wide - wide.mean(dim=0)).to(working_dtype(rows.dtype))


def _sides(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Lay rows (N, D) out so that one product of the two sides gives squared distances: (N, D + 2) each."""
    norms, ones = rows.square().sum(dim=1, keepdim=True), torch.ones_like(rows[:, :1])
    return torch.cat([rows, norms, ones], dim=1), torch.cat([-2 * rows, ones, norms], dim=1)


def _distances(left: Tensor, right: Tensor, buffer: Tensor) -> Tensor:
    """Euclidean distances, sides (B, D + 2), (M, D + 2) -> (B, M) in the buffer; near ones are as exact as a product is."""
    size = len(left) * len(right)
    squared = torch.mm(left, right.T, out=buffer[:size].view(len(left), len(right)))
    return squared.clamp_(min=0).sqrt_()


def slopes(silhouette: Silhouette, a: Tensor, d: Tensor, alone: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values and slopes: a (B,), d (K, B), alone (B,) -> s (B,), ds/da (B,), ds/dd (K, B), 0 at the own class."""
    with torch.enable_grad():
        a, d = a.detach().requires_grad_(), d.detach().requires_grad_()
        values = silhouette(a, d, alone)
        by_a, by_d = torch.autograd.grad(values.sum(), (a, d), materialize_grads=True)
    return values.detach(), by_a.nan_to_num_(0, 0, 0), by_d.nan_to_num_(0, 0, 0)


def _of_nearest_class(rows: Tensor, classes: Classes, silhouette: Silhouette, found: ClassDistances) -> Tensor:
    """Compare each class with its own rows and with those it is nearest to."""
    nearest = torch.searchsorted(classes.labels, found.nearest)
    values, by_own, by_other = slopes(silhouette, found.own, found.other[None], found.alone)
    result = values - values.mean()
    sides = _sides(rows)
    buffer = rows.new_empty(_TILE * _TILE)
    order = classes.index.argsort(stable=True)
    by_nearest = nearest.argsort(stable=True)
    starts = torch.cat([classes.counts.new_zeros(1), classes.counts.cumsum(0)]).tolist()
    near_starts = torch.searchsorted(nearest[by_nearest], torch.arange(len(classes) + 1, device=rows.device)).tolist()
    for label in tracked(range(len(classes)), "intervals", len(classes)):
        members = order[starts[label] : starts[label + 1]]
        others = by_nearest[near_starts[label] : near_starts[label + 1]]
        own_weight = by_own[members] / max(len(members) - 1, 1)
        other_weight = by_other[0, others] / len(members)
        result[members] += _weighted(sides, members, members, own_weight, buffer)
        result[members] += _weighted(sides, members, others, other_weight, buffer)
        # The distance of a row to itself is 0 and no part of its mean: neither is its a(i) taken off.
        result[members] -= (own_weight * found.own[members]).sum() - own_weight * found.own[members]
        result[members] -= (other_weight * found.other[others]).sum()
    return result


def _weighted(sides: tuple[Tensor, Tensor], members: Tensor, others: Tensor, weight: Tensor, buffer: Tensor) -> Tensor:
    """Sum weighted distances of members (M,) to others (O,) with weights (O,): (M,) float64."""
    result = torch.zeros(len(members), dtype=torch.float64, device=weight.device)
    left, weight = sides[0][members], weight.to(buffer.dtype)
    for block in row_slices(len(others), 1, _TILE):
        right = sides[1][others[block]]
        for part in row_slices(len(members), 1, _TILE):
            result[part] += _distances(left[part], right, buffer) @ weight[block]
    return result


def _of_all_classes(rows: Tensor, classes: Classes, silhouette: Silhouette) -> Tensor:
    """Compare each row with all: a slab of samples against all rows, whose distances are held from mean to weight.

    Rows are sorted, so that a class is a run of columns: its sums and its weighted sums are one call each.
    """
    total = len(rows)
    order = classes.index.argsort(stable=True)
    rows, index = rows[order], classes.index[order]
    counts = classes.counts.double()
    runs = torch.split(torch.arange(total), classes.counts.tolist())
    values = torch.zeros(total, dtype=torch.float64, device=rows.device)
    pulled = torch.zeros_like(values)
    left, right = _sides(rows)
    slabs = row_slices(total, total * rows.element_size(), min(memory() // 4, 2**25))
    buffer = rows.new_empty(max(slab.stop - slab.start for slab in slabs) * total)
    for slab in tracked(slabs, "intervals", len(slabs)):
        here = index[slab]
        places = torch.arange(len(here), device=rows.device)
        tile = _distances(left[slab], right, buffer)  # (B, N)
        tile[places, torch.arange(slab.start, slab.stop, device=rows.device)] = 0
        columns = [tile[:, int(run[0]) : int(run[-1]) + 1] for run in runs]
        sums = torch.stack([each.sum(dim=1) for each in columns]).double()  # (K, B)
        peers = counts[here] - 1
        own = sums[here, places] / peers.clamp(min=1)
        means = sums / counts[:, None]
        values[slab], by_own, by_other = slopes(
            silhouette, own, means.index_put((here, places), means.new_tensor(torch.inf)), peers == 0
        )
        weight = by_other / counts[:, None]  # (K, B)
        weight[here, places] = by_own / peers.clamp(min=1)
        means[here, places] = own
        narrow = weight.to(tile.dtype)
        pulled += torch.cat([each.T @ narrow[label] for label, each in enumerate(columns)])
        pulled -= (weight * means).sum(dim=1)[index]
        pulled[slab] += weight[here, places] * own  # a row does not count in its own mean
    result = torch.empty_like(values)
    result[order] = values - values.mean() + pulled
    return result


def _in_closed_form(rows: Tensor, classes: Classes, silhouette: Silhouette, *, unit: bool, cosine: bool) -> Tensor:
    """Squared distances sum to weighted moments, O(N K D); cosine distances are half those of unit rows."""
    zero = zero_rows(rows)
    if unit:
        rows = unit_rows(rows)
    rows = rows - rows.mean(dim=0)
    norms = rows.square().sum(dim=1)
    index, counts, size = classes.index, classes.counts.double(), len(classes)
    moments = moments_of(rows, index, size, zero)
    half = 0.5 if cosine else 1.0
    extra = 0.5 * zero.double() if cosine else torch.zeros_like(norms)  # a zero row is half further away from all others
    spread = (moments.spread / counts)[:, None]
    zeros = (class_sums(extra, index, size) / counts)[:, None]
    values = torch.zeros_like(norms)
    mass, squares, offsets = (rows.new_zeros(size) for _ in range(3))
    pull, taken_off = torch.zeros_like(norms), rows.new_zeros(size)
    sums = rows.new_zeros(size, rows.shape[1])
    for block in row_slices(len(rows), 8 * (6 * size + 2 * rows.shape[1])):
        here, places = index[block], torch.arange(block.stop - block.start, device=rows.device)
        cross = moments.means @ rows[block].T
        between = norms[block] - 2 * cross + moments.means.square().sum(dim=1)[:, None] + spread  # (K, B)
        means = half * between.clamp(min=0) + extra[block] + zeros
        peers = counts[here] - 1
        own = (means[here, places] * counts[here] - 2 * extra[block]) / peers.clamp(min=1)
        values[block], by_own, by_other = slopes(
            silhouette, own, means.index_put((here, places), means.new_tensor(torch.inf)), peers == 0
        )
        weight = by_other / counts[:, None]
        weight[here, places] = by_own / peers.clamp(min=1)
        means[here, places] = own
        taken_off += (weight * means).sum(dim=1)
        # A row does not count in its own mean; a zero row's distance to itself is 0, not twice a half.
        pull[block] += weight[here, places] * (own - 2 * extra[block])
        mass += weight.sum(dim=1)
        squares += weight @ norms[block]
        offsets += weight @ extra[block]
        sums += weight @ rows[block]
    between = squares[index] + norms * mass[index] - 2 * (sums[index] * rows).sum(dim=1)
    pull += half * between + offsets[index] + extra * mass[index] - taken_off[index]
    return values - values.mean() + pull
