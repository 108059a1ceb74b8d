"""How much each row moves the mean silhouette of one class: the infinitesimal jackknife of `ops.influences`, class by class.

With m the mean of s(i) over the n rows of class c, a row k moves m by

    J(k) = [k in c] (s(k) - m) / n
         + sum over i in c, i != k, if k in c           ds(i)/da (|x_i - x_k| - a(i)) / (n (n - 1))
         + sum over i in c whose nearest class is k's   ds(i)/db (|x_i - x_k| - b(i)) / (n n_k)

The values of every class of k sum to 0, so that the variance of m is the sum of J(k)², whether the numbers of rows per class
are drawn or given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope.ops.blocks import row_slices
from embedscope.ops.class_moments import unit_rows
from embedscope.ops.influences import slopes
from embedscope.ops.silhouettes import hard_silhouette

if TYPE_CHECKING:
    from embedscope.ops.class_distances import ClassDistances
    from embedscope.ops.class_moments import Classes


def class_influences(
    rows: Tensor, classes: Classes, found: ClassDistances, place: int, *, distance: str = "euclidean"
) -> Tensor:
    """Return the influence of each row on the mean silhouette of one class: (N, D) -> (N,) float64, which sum to 0.

    Args:
        rows: in memory, any float dtype.
        classes: of the rows.
        found: the mean distances that the silhouettes are made of.
        place: of the class in `classes`.
        distance: "euclidean", "sqeuclidean" or "cosine": the one that was measured with.
    """
    members = (classes.index == place).nonzero().squeeze(1)
    count = len(members)
    own, other, alone = found.own[members], found.other[members], found.alone[members]
    values, by_own, by_other = slopes(_of_nearest, own, other[None], alone)
    apart = ((own > 0) | (other > 0)).double()  # where both distances are 0, there is no direction
    by_own, by_other = by_own * apart, by_other[0] * apart
    result = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    result[members] = (values - values.mean()) / count
    here = _prepared(rows[members], distance)
    if count > 1:
        weight = by_own / (count * (count - 1))
        result[members] += _weighted(here, here, weight, distance, same=True) - (weight * own).sum() + weight * own
    nearest = torch.searchsorted(classes.labels, found.nearest[members])
    for label in nearest.bincount(minlength=len(classes)).nonzero().squeeze(1).tolist():
        near = nearest == label
        theirs = (classes.index == label).nonzero().squeeze(1)
        weight = by_other[near] / (count * len(theirs))
        pulled = _weighted(_prepared(rows[theirs], distance), here[near], weight, distance)
        result[theirs] += pulled - (weight * other[near]).sum()
    return result


def _of_nearest(own: Tensor, other: Tensor, alone: Tensor) -> Tensor:
    return hard_silhouette(own, other[0], alone)


def _prepared(rows: Tensor, distance: str) -> Tensor:
    return unit_rows(rows.double()) if distance == "cosine" else rows.double()


def _weighted(targets: Tensor, rows: Tensor, weight: Tensor, distance: str, *, same: bool = False) -> Tensor:
    """Sum the distances of each target (M, D) to rows (n, D), weighted (n,): (M,); with `same`, a row is 0 from itself."""
    result = torch.empty(len(targets), dtype=torch.float64, device=rows.device)
    for block in row_slices(len(targets), 8 * 3 * len(rows)):
        if distance == "cosine":
            gaps = 1 - targets[block] @ rows.T
        else:
            gaps = torch.cdist(targets[block], rows)
            if distance == "sqeuclidean":
                gaps = gaps.square()
        if same:
            gaps[torch.arange(len(gaps)), torch.arange(block.start, block.stop)] = 0
        result[block] = gaps @ weight
    return result
