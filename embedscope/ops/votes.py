"""Votes among nearest neighbors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedscope.ops import blocks

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.neighbors import Neighbors

VOTES = ("dino", "uniform", "distance")


def winners(found: Neighbors, index: Tensor, classes: int, *, vote: str = "uniform", temperature: float = 0.07) -> Tensor:
    """Return the class with the most votes of the neighbors of each row: (M,) int64.

    Of classes with equal votes, the one with the nearest neighbor wins.

    Args:
        found: (M, k) neighbors.
        index: (N,) int64, the class of each row that votes, from 0 to K - 1.
        classes: K.
        vote: weight of a neighbor at distance d: "dino", exp(-d / temperature); "uniform", 1; "distance", 1 / d.
        temperature: of the "dino" vote, > 0.
    """
    won = torch.empty(len(found.indices), dtype=torch.int64, device=index.device)
    for block in blocks.row_slices(len(won), 8 * classes + 32 * found.indices.shape[1]):
        weights = _weights(found.distances[block], vote, temperature)
        voters = index[found.indices[block]]  # (B, k)
        votes = weights.new_zeros(len(voters), classes).scatter_add_(1, voters, weights)
        winner = voters.gather(1, votes.gather(1, voters).argmax(dim=1, keepdim=True))  # the first of those with most
        won[block] = winner.squeeze(1)
    return won


def _weights(distances: Tensor, vote: str, temperature: float) -> Tensor:
    """Weigh neighbors by (B, k) ascending distances: (B, k), up to a factor per row."""
    if vote == "uniform":
        return torch.ones_like(distances)
    if vote == "dino":
        return ((distances[:, :1] - distances) / temperature).exp()
    nearest = distances[:, :1]
    # A neighbor at distance 0 outweighs all that are not.
    return torch.where(nearest == 0, (distances == 0).double(), nearest / distances.clamp(min=torch.finfo(torch.float64).tiny))
