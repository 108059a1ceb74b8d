"""The nearest rows of each row: exact, in blocks, never all pairs at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedscope.errors import UndefinedError
from embedscope.ops import blocks
from embedscope.ops.class_moments import unit_rows
from embedscope.ops.pairwise import squared_distances

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


@dataclass(frozen=True)
class Neighbors:
    """The k nearest rows of each of M rows.

    Attributes:
        indices: (M, k) int64, positions of the nearest rows, by (distance, position).
        distances: (M, k) float64, ascending: Euclidean, or 1 - cosine.
    """

    indices: Tensor
    distances: Tensor

    def first(self, k: int) -> Neighbors:
        """Return the k nearest of them: (M, k)."""
        return Neighbors(self.indices[:, :k], self.distances[:, :k])


def nearest_neighbors(
    features: Rows,
    k: int,
    *,
    distance: str = "euclidean",
    queries: Rows | None = None,
    device: torch.device | None = None,
) -> Neighbors:
    """Find the k nearest rows of each row, itself left out, or of each query.

    Args:
        features: (N, D), any float dtype; searched.
        k: at most N - 1 are found (N with queries).
        distance: "euclidean" or "cosine".
        queries: (M, D) rows to search for, which are not among the features; the features themselves, each without itself,
            if None.
        device: where to compute; where the features are if None.

    Returns:
        Neighbors of (M, min(k, N - 1)) or (M, min(k, N)); ties are ordered by position.

    Raises:
        UndefinedError: fewer than two rows.
    """
    searched, alone = features.shape[0], queries is None
    k = min(k, searched - 1 if alone else searched)
    if k < 1:
        raise UndefinedError("neighbours need at least two rows")
    asked = features if queries is None else queries
    where = device or (features.device if isinstance(features, torch.Tensor) else torch.device("cpu"))
    rows = _prepared(features[:], distance, where)
    centre = rows.mean(dim=0)
    rows = rows - centre
    indices, found = [], []
    for block in blocks.row_slices(asked.shape[0], 3 * searched * 8):
        here = _prepared(asked[block], distance, where) - centre
        squared = squared_distances(here, rows)
        if alone:
            squared[torch.arange(len(here)), torch.arange(block.start, block.stop)] = torch.inf
        nearest, positions = squared.sort(dim=1, stable=True)
        nearest = nearest[:, :k].clamp(min=0)
        indices.append(positions[:, :k])
        found.append(nearest / 2 if distance == "cosine" else nearest.sqrt())  # |x - y|² = 2 - 2 cos for unit rows
    return Neighbors(torch.cat(indices), torch.cat(found))


def _prepared(rows: Tensor, distance: str, device: torch.device) -> Tensor:
    rows = rows.to(device=device, dtype=torch.float64)
    return unit_rows(rows) if distance == "cosine" else rows
