"""Magnet loss with one cluster per class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedscope.arguments import check_flag, check_number
from embedscope.losses import loss
from embedscope.ops.class_moments import Classes, present_classes, smallest_spread, squared_to_means


@loss(reference="arXiv:1511.05939", classes=2)
class magnet(nn.Module):
    """Magnet loss with one cluster per class: distance to own versus other class means.

    In units of the spread: at least 0, lower is better.

    With means and spread of the batch, s2 = sum |r - own mean|² / (B - 1), summed over dimensions and pooled over classes,
        L(n) = [ d(n, own)² / (2 s2) + alpha + ln sum_{c != own} exp(-d(n, c)² / (2 s2)) ]_+
    and the mean of L(n) over the batch, in nats (eq. 5 with one cluster per class instead of k-means in each; public code often
    divides by 2 s2² by mistake, which this does not). s2 is in the graph: detached, training collapses. The value does
    not depend on the scale of the features. The sum of d(n, own)² / (2 s2) is then (B - 1) / 2 whatever the features are, so
    that the hinge and the other classes do the work.

    A class with one member has its mean in that member. A batch with fewer than two classes gives 0 with a graph. s2 is at
    least eps (of the features' dtype) times the variance of the batch [ours], which keeps collapsed classes finite.

    Args:
        num_classes: not used; losses take it.
        dim: not used.
        alpha: margin >= 0, in nats. Public code has 1 and 7.18.
        hinge: cut L(n) at 0, as the paper does; without it alpha is a constant and the loss has no lower bound.
    """

    given_dtype: torch.dtype

    def __init__(self, num_classes: int, dim: int, *, alpha: float = 1.0, hinge: bool = True) -> None:
        super().__init__()
        self.alpha, self.hinge = check_number("alpha", alpha, low=0), check_flag("hinge", hinge)

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D), (B,), logits unused -> scalar."""
        classes = present_classes(labels)
        squared = squared_to_means(features, classes)
        own = squared.gather(1, classes.index[:, None])
        variance = torch.maximum(own.sum() / (len(features) - 1), smallest_spread(features, self.given_dtype))
        margins = magnet_margins(squared, classes, variance, alpha=self.alpha)
        return (margins.relu() if self.hinge else margins).mean()


def magnet_margins(squared: Tensor, classes: Classes, variance: Tensor, *, alpha: float, beta: float = 1.0) -> Tensor:
    """Compute L(n) before the hinge from squared distances to class means: (B, K), variances 0-d or (K,) -> (B,).

    beta multiplies the squared distances to the other classes.
    """
    exponents = -squared / (2 * variance)  # (B, K)
    position = classes.index[:, None]
    others = (beta * exponents).scatter(1, position, -torch.inf).logsumexp(dim=1)
    return alpha - exponents.gather(1, position).squeeze(1) + others
