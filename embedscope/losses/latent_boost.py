"""Latent Boost: Magnet loss in principal components, with a variance for each class and margins that follow the epoch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from embedscope.arguments import check_choice, check_flag, check_number
from embedscope.losses import loss
from embedscope.losses.magnet import magnet_margins
from embedscope.ops.class_moments import class_sums, present_classes, smallest_spread, squared_to_means
from embedscope.ops.spectrum import principal_axes

SCHEDULES = ("rising", "paper", "constant")


@loss(reference="arXiv:2412.08515", classes=2, reads="layer")
class latent_boost(nn.Module):
    """Latent Boost: Magnet loss in principal components, with per-class variances.

    How much nearer a sample is to its own class mean than to the others, in units of each class's spread: lower is better.

    With d' the distance in the principal components of the batch and v(c) = sum d'(r, mean of c)² / (n(c) - 1),
        L(n) = [ d'(n, own)² / (2 v(own)) + alpha + ln sum_{c != own} exp(-beta d'(n, c)² / (2 v(c))) ]_+
        alpha = 1 + alpha0 exp(-E / (1.05 E_tot)),        beta by its schedule, in epoch E of E_tot
    and the mean of L(n), >= 0, in nats. The authors add it to cross-entropy: `0.75*latent_boost + 0.25*ce`. There is no public
    code: this is one reading of eqs. 5-11, in logarithms and without the epsilon that they print; name the schedule of beta
    with every result. Before `start_epoch` is called it is epoch 1 of 10.

    The authors take the latent rows of the layer that is flattened (Fashion-MNIST) or averaged (CIFAR-100) before the fully
    connected ones: `loss_layer=` of a network, with `:flatten` or without.

    There is no gradient through the components, and one through the variances: the sum of d'(n, own)² / (2 v) over a class is
    then constant, and all the gradient there is comes from the other classes, by beta. At beta = 0 the loss does not train.
    Variances of all dimensions beside distances in the components, as eq. 8 could also be read, would reward what moves spread
    into the directions that are left out.

    A sample that is alone in its class has no variance: it is never an anchor, and to others a competitor with the variance
    pooled over the batch, sum |r - own mean|² / (B - 1) [ours]. Fewer than two classes, or no class with two members, give 0
    with a graph. A variance is at least eps (of the features' dtype) times that of the batch [ours], which keeps collapsed
    classes finite.

    Args:
        num_classes: not used; losses take it.
        dim: not used.
        explained_variance: share T in (0, 1] of the variance of the batch that the components hold; 1 leaves them out.
        alpha0: >= 0, in nats, the part of the margin that decays, to 0.386 of it in the last epoch. Not given in the paper;
            1 is [ours].
        beta0: >= 0, the largest beta.
        beta_schedule: "rising" is beta0 min(1, E / (0.2 E_tot)), what the text describes and what trains; "paper" is the
            printed formula, beta0 (1 - E / (0.2 E_tot)), cut at 0, below which it would attract other classes: it is 0, and
            the loss inert, after a fifth of the epochs; "constant" is beta0.
        beta_min: in [0, beta0], what beta does not fall below.
        hinge: cut L(n) at 0; without it alpha is a constant and the loss has no lower bound.
        detach_variance: no gradient through v(c). That makes the loss a pull of strength 1 / v(c) to the class means, under
            which training collapsed in our measurements.
    """

    given_dtype: torch.dtype

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        explained_variance: float = 0.95,
        alpha0: float = 1.0,
        beta0: float = 1.0,
        beta_schedule: str = "rising",
        beta_min: float = 0.0,
        hinge: bool = True,
        detach_variance: bool = False,
    ) -> None:
        super().__init__()
        self.explained_variance = check_number("explained_variance", explained_variance, above=0, high=1)
        self.alpha0 = check_number("alpha0", alpha0, low=0)
        self.beta0 = check_number("beta0", beta0, low=0)
        self.beta_schedule = check_choice("beta_schedule", beta_schedule, SCHEDULES)
        self.beta_min = check_number("beta_min", beta_min, low=0, high=self.beta0)
        self.hinge = check_flag("hinge", hinge)
        self.detach_variance = check_flag("detach_variance", detach_variance)
        self.start_epoch(1, 10)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Set alpha and beta for an epoch, counted from 1, of a planned number."""
        done = epoch / epochs
        self.alpha = 1 + self.alpha0 * math.exp(-done / 1.05)
        share = {"rising": min(1.0, done / 0.2), "paper": max(0.0, 1 - done / 0.2), "constant": 1.0}[self.beta_schedule]
        self.beta = max(self.beta_min, self.beta0 * share)

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D), (B,), logits unused -> scalar."""
        classes, rows = present_classes(labels), features
        if self.explained_variance < 1:
            rows = (features - features.mean(dim=0).detach()) @ principal_axes(features, self.explained_variance)
        squared = squared_to_means(rows, classes)
        own = squared.gather(1, classes.index[:, None]).squeeze(1)
        alone = classes.counts == 1
        variances = class_sums(own, classes.index, len(classes)) / (classes.counts - 1).clamp(min=1)  # (K,)
        variances = torch.where(alone, own.sum() / (len(rows) - 1), variances)
        variances = torch.maximum(variances, smallest_spread(rows, self.given_dtype))
        if self.detach_variance:
            variances = variances.detach()
        margins = magnet_margins(squared, classes, variances, alpha=self.alpha, beta=self.beta)
        anchor = ~alone[classes.index]
        return ((margins.relu() if self.hinge else margins) * anchor).sum() / anchor.sum().clamp(min=1)
