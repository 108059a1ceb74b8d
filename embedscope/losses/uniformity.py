"""Uniformity: how evenly the directions of the features cover the sphere, whatever the labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from embedscope.arguments import check_flag, check_number
from embedscope.losses import loss
from embedscope.ops.cosines import directions
from embedscope.ops.potentials import log_potentials


@loss(reference="arXiv:2005.10242")
class uniformity(nn.Module):
    """Uniformity of the features on the unit sphere, regardless of labels.

    ln of the mean of exp(-t |x - y|²) over all pairs of different rows: at most 0, lower is more uniform.

    On the unit sphere at least -4 t. A row is not paired with itself. Labels and logits are not used: it pushes rows of one
    class apart as well, so it wants a small weight beside a loss that pulls them together. A batch of one row gives 0 with a
    graph; a collapsed one gives 0, and equal rows do not push each other. A row of zeros has distance 1 to all unit rows and no
    gradient.

    Args:
        num_classes: not used; losses take it.
        dim: not used.
        t: > 0, per squared distance.
        normalize: divide every row by its length first; without it the loss has no lower bound.
    """

    def __init__(self, num_classes: int, dim: int, *, t: float = 2.0, normalize: bool = True) -> None:
        super().__init__()
        self.t, self.normalize = check_number("t", t, above=0), check_flag("normalize", normalize)

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D), labels and logits unused -> scalar <= 0."""
        if len(features) < 2:
            return features.sum() * 0
        rows = directions(features) if self.normalize else features - features.mean(dim=0).detach()
        itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        total = torch.logsumexp(log_potentials(rows, rows, self.t).masked_fill(itself, -torch.inf).flatten(), dim=0)
        return total - math.log(len(rows) * (len(rows) - 1))
