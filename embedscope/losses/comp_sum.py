"""Comp-sum losses: cross-entropy, generalized cross-entropy and mean absolute error as one family."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from embedscope.arguments import check_number
from embedscope.losses import loss


@loss(reference="arXiv:2304.07288")
class comp_sum(nn.Module):
    """Comp-sum loss: a family with cross-entropy, generalized cross-entropy and MAE.

    Mean over the batch of (1 - p^(tau - 1)) / (tau - 1), p the probability of the label: at least 0, lower is better.

    The larger tau, the less a sample counts that the model holds to be wrong, and the less noise in the labels harms:

        tau = 0      1/p - 1          sum of exponentials; unbounded, and steep
        tau = 1      -ln p            cross-entropy
        tau = 1 + q  (1 - p^q) / q    generalized cross-entropy (GCE, arXiv:1805.07836; q = 0.7, so tau = 1.7, in that paper)
        tau = 2      1 - p            mean absolute error (MAE), half the L1 distance to the label; at most 1

    Above 1 the loss is at most 1 / (tau - 1), and its gradient vanishes where p does: a head that starts wrong stays so for
    long. Below 1 the loss grows with 1/p; where that would pass the square root of the largest number, it continues along a
    straight line.

    Args:
        num_classes: not used; losses take it.
        dim: not used.
        tau: which member of the family, >= 0.
        truncation: k in [0, 1]: a sample with p <= k counts as if p were k, and has no gradient (truncated GCE). 0 for none.
            With k above 1/K an untrained head learns nothing: switch the term on when another loss has led the way.
    """

    def __init__(self, num_classes: int, dim: int, *, tau: float = 1.7, truncation: float = 0.0) -> None:
        super().__init__()
        self.tau = check_number("tau", tau, low=0)
        self.truncation = check_number("truncation", truncation, low=0, high=1)

    def per_sample(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D) unused, (B,), (B, K) -> (B,) >= 0."""
        log_p = torch.log_softmax(logits, dim=1).gather(1, labels[:, None])  # (B, 1)
        if self.truncation > 0:
            log_p = log_p.clamp(min=math.log(self.truncation))
        if self.tau == 1:
            return -log_p.squeeze(1)
        # p^(tau - 1) - 1 without the cancellation near tau = 1.
        exponent = (self.tau - 1) * log_p
        limit = math.log(torch.finfo(logits.dtype).max) / 2
        power = torch.expm1(exponent.clamp(max=limit)) + math.exp(limit) * (exponent - limit).relu()
        return power.squeeze(1) / (1 - self.tau)
