"""Mean distances of every sample to every class: the one pass behind the silhouettes.

Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7. For a sample i of class y:
    a(i)    = mean distance to the other samples of y            (0 if there is none)
    d(i, c) = mean distance to the samples of c, for c != y
and b(i) is a minimum, or a soft one, of d(i, c) over c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope.errors import UndefinedError, check_choice
from embedscope.ops.blocks import over_rows, row_slices
from embedscope.ops.class_moments import Classes, class_sums, present_classes
from embedscope.ops.pairwise import distances, squared_distances

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embedscope.records import Rows

DISTANCES = ("euclidean", "sqeuclidean", "cosine")

# Columns of a tile of the distance matrix: 2048 x 8 bytes x a few thousand rows stay in cache and in BLOCK_BYTES.
_TILE = 2048


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


def hard_minimum(means: Tensor) -> Tensor:
    """Reduce over classes with the minimum: (B, K) with inf at the own class -> (B,)."""
    return means.amin(dim=1)


def class_distances(
    features: Rows,
    labels: Tensor,
    *,
    distance: str = "euclidean",
    normalize: bool = False,
    minimum: Callable[[Tensor], Tensor] = hard_minimum,
) -> ClassDistances:
    """Compute a(i), b(i) and the nearest other class of every sample, exactly, over all pairs.

    Euclidean distances take O(N² D) time, squared Euclidean and cosine O(N K D) from class sums. Memory is bounded by blocks
    of rows and columns: neither N x N nor N x K is ever held. All in float64 whatever the input's dtype.

    Args:
        features: (N, D), any float dtype; rows are read by blocks.
        labels: (N,) integers; any values, gaps allowed.
        distance: "euclidean", "sqeuclidean" or "cosine" (1 - cosine similarity; a zero row is at 1 from everything).
        normalize: divide every row by its length first (a zero row stays zero).
        minimum: (B, K) mean distances, inf at the own class, -> (B,). Soft minima are in `ops.silhouettes`.

    Raises:
        UndefinedError: fewer than two classes.
    """
    check_choice("distance", distance, DISTANCES)
    rows, zero = _prepared(features, unit=normalize or distance == "cosine")
    classes = present_classes(labels.to(rows.device))
    if len(classes) < 2:
        raise UndefinedError(f"needs at least 2 classes, got {len(classes)}")
    if distance == "euclidean":
        blocks = _euclidean_sums(rows, classes)
    else:
        blocks = _squared_sums(rows, classes, zero if distance == "cosine" else None)
    own, other, nearest = [], [], []
    for block, sums in blocks:  # sums: (B, K), the self-distance included, which is zero
        index = classes.index[block][:, None]  # (B, 1)
        own.append(sums.gather(1, index).squeeze(1) / (classes.counts[index.squeeze(1)] - 1).clamp(min=1))
        means = (sums / classes.counts).scatter_(1, index, torch.inf)
        other.append(minimum(means))
        nearest.append(classes.labels[means.argmin(dim=1)])
    return ClassDistances(
        own=torch.cat(own), other=torch.cat(other), nearest=torch.cat(nearest), alone=classes.counts[classes.index] == 1
    )


def batch_class_distances(features: Tensor, labels: Tensor, *, distance: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the same with gradients, for one batch: (B, D), (B,) -> a (B,), d (B, K), own class (B, K) bool, alone (B,).

    d holds the mean distance to every class present, the own one included (meaningless there: mask it).
    """
    check_choice("distance", distance, DISTANCES)
    classes = present_classes(labels)
    member = torch.nn.functional.one_hot(classes.index, len(classes)).to(features.dtype)  # (B, K)
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


def _prepared(features: Rows, *, unit: bool) -> tuple[Tensor, Tensor]:
    """Read all rows as float64, at unit length if asked, about their mean; and which rows are zero: (N, D), (N,) bool.

    Moving the origin changes no distance and keeps a common offset from cancelling the digits of the product.
    """
    rows = torch.cat([block for _, block in over_rows(features, torch.float64)])
    zero = (rows == 0).all(dim=1)
    if unit:
        rows = torch.nn.functional.normalize(rows, dim=1, eps=torch.finfo(rows.dtype).tiny)
    return rows - rows.mean(dim=0), zero


def _euclidean_sums(rows: Tensor, classes: Classes) -> Iterator[tuple[slice, Tensor]]:
    """Sum the distances of every row to the rows of every class, over all pairs: blocks of (rows, (B, K))."""
    order = classes.index.argsort(stable=True)  # a tile's columns are then runs of one class
    columns, index = rows[order], classes.index[order]
    for block in row_slices(len(rows), 8 * (2 * _TILE + 2 * len(classes))):
        sums = rows.new_zeros(block.stop - block.start, len(classes))
        for tile in (slice(start, start + _TILE) for start in range(0, len(rows), _TILE)):
            first, last = int(index[tile][0]), int(index[tile][-1])
            member = torch.nn.functional.one_hot(index[tile] - first, last - first + 1).to(rows.dtype)
            sums[:, first : last + 1] += squared_distances(rows[block], columns[tile]).sqrt_() @ member
        yield block, sums


def _squared_sums(rows: Tensor, classes: Classes, zero: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """Sum the squared distances in closed form: over a class, n (|x - mean|² + mean |y - mean|²).

    With `zero`, the rows are unit rows and the sums are of cosine distances, which are half the squared ones; a row that is
    zero (its cosine is 0) is half further away from every other row.
    """
    size = len(classes)
    means = class_sums(rows, classes.index, size) / classes.counts[:, None]  # (K, D)
    spread = class_sums((rows - means[classes.index]).square().sum(dim=1), classes.index, size) / classes.counts  # (K,)
    # The class mean is rounded: what is below the resolution of the rows is no distance.
    floor = (4 * torch.finfo(rows.dtype).eps) ** 2 * rows.square().sum(dim=1).max()
    for block in row_slices(len(rows), 8 * 3 * size):
        squared = squared_distances(rows[block], means) + spread  # (B, K)
        squared[squared <= floor] = 0
        sums = squared * classes.counts
        if zero is not None:
            extra = zero.to(rows.dtype)
            sums = (sums + extra[block, None] * classes.counts + class_sums(extra, classes.index, size)) / 2
            own = classes.index[block]
            sums[torch.arange(len(own), device=own.device), own] -= extra[block]  # the distance to itself
        yield block, sums
