"""The accuracy of a vote among nearest neighbors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedscope.errors import check_choice, check_number
from embedscope.metrics import Result, metric
from embedscope.ops import blocks
from embedscope.ops.class_moments import present_classes
from embedscope.ops.shared_neighbors import by_options, shared_neighbors

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows

VOTES = ("dino", "uniform", "distance")


@metric(
    better="higher",
    bounds=(0, 1),
    invariant=("rotation", "scale", "row_scale"),
    reference="arXiv:2104.14294",
    neighbors=by_options,
    extrapolates=False,
)
def knn_accuracy(
    features: Rows,
    labels: Tensor,
    *,
    k: int = 20,
    vote: str = "dino",
    temperature: float = 0.07,
    distance: str = "cosine",
    anchors: Tensor | None = None,
) -> Result:
    """Leave-one-out accuracy of a vote of the k nearest neighbors.

    Args:
        features: (N, D), any float dtype, any device.
        labels: (N,) integers; gaps allowed.
        k: how many neighbors vote; N - 1 if there are fewer.
        vote: the weight of a neighbor at distance d: "dino", exp(-d / temperature), which for cosines is the vote of DINO and
            of instance discrimination; "uniform", 1; "distance", 1 / d.
        temperature: of the "dino" vote, > 0.
        distance: "cosine" or "euclidean".
        anchors: (M,) ascending positions of the samples to measure, against all rows; all samples if None.

    Returns:
        A value in [0, 1], higher is better; `per_sample` (N,) or (M,) float64, 1 for a sample whose class wins and 0 otherwise.
        Of classes with equal votes, the one with the nearest neighbor wins. The only member of its class is always wrong.

    Raises:
        UndefinedError: fewer than two rows.
        UsageError: k is not a whole number from 1; a temperature that is not positive; an unknown vote or distance.

    Reference: Wu et al. 2018, arXiv:1805.01978; Caron et al. 2021, arXiv:2104.14294.
    """
    k, distance = by_options(k=k, distance=distance)
    vote, temperature = check_choice("vote", vote, VOTES), check_number("temperature", temperature, above=0)
    found = shared_neighbors(features, k, distance=distance, device=labels.device, anchors=anchors)
    classes = present_classes(labels)
    own = classes.index if anchors is None else classes.index[anchors]
    correct = torch.empty(len(own), dtype=torch.float64, device=labels.device)
    for block in blocks.row_slices(len(own), 8 * len(classes) + 32 * found.indices.shape[1]):
        weights = _weights(found.distances[block], vote, temperature)
        voters = classes.index[found.indices[block]]  # (B, k)
        votes = weights.new_zeros(len(voters), len(classes)).scatter_add_(1, voters, weights)
        winner = voters.gather(1, votes.gather(1, voters).argmax(dim=1, keepdim=True))  # the first of those with most
        correct[block] = (winner.squeeze(1) == own[block]).double()
    alone = int((classes.counts == 1).sum())
    note = f"samples alone in their class count as wrong: {alone}" if alone else None
    return Result(float(correct.mean()), correct, note=note)


def _weights(distances: Tensor, vote: str, temperature: float) -> Tensor:
    """Weigh neighbors by (B, k) ascending distances: (B, k), up to a factor per row."""
    if vote == "uniform":
        return torch.ones_like(distances)
    if vote == "dino":
        return ((distances[:, :1] - distances) / temperature).exp()
    nearest = distances[:, :1]
    # A neighbor at distance 0 outweighs all that are not.
    return torch.where(nearest == 0, (distances == 0).double(), nearest / distances.clamp(min=torch.finfo(torch.float64).tiny))
