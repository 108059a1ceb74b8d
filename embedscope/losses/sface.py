"""SFace: pulls to the own class vector and pushes from the others, each with a force that fades at an angle."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedscope.arguments import check_number
from embedscope.losses import loss
from embedscope.ops.cosines import angles, cosines


@loss(reference="doi:10.1109/TIP.2020.3048632")
class sface(nn.Module):
    """SFace: pull to the own class vector and push from others, fading with the angle.

    Mean over the batch of -w s cos(angle to the own class) + sum over the others of v s cos(angle); lower is better.

    The forces w = sigmoid(k (angle - a)) and v = sigmoid(-k (angle - b)) are constants to the gradient: a sample is pulled
    until it is nearer than a to its class vector, and pushed from another while that is nearer than b. The value itself says
    little: it can be negative, and rises as well as falls when all goes well; watch a metric. A row of zeros has cosine 0 to
    all and no gradient.

    Owns the class vectors `weight` (K, D), drawn from torch's global generator; the logits are not used.

    Args:
        num_classes: K.
        dim: D.
        scale: s, what cosines are multiplied by, > 0.
        k: steepness of both sigmoids, > 0, per radian.
        a: angle below which the own class does not pull any more, in radians.
        b: angle above which another class does not push any more, in radians. The authors have a = 0.87, b = 1.2 on CASIA.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        scale: float = 64.0,
        k: float = 80.0,
        a: float = 0.8,
        b: float = 1.23,
    ) -> None:
        super().__init__()
        self.scale, self.k = check_number("scale", scale, above=0), check_number("k", k, above=0)
        self.a, self.b = check_number("a", a), check_number("b", b)
        self.weight = nn.Parameter(torch.randn(num_classes, dim) / dim**0.5)

    def per_sample(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D), (B,), logits unused -> (B,)."""
        cosine = cosines(features, self.weight.to(features.dtype))  # (B, K)
        angle = angles(cosine.detach())
        own = nn.functional.one_hot(labels, cosine.shape[1]).bool()
        pull, push = torch.sigmoid(self.k * (angle - self.a)), torch.sigmoid(-self.k * (angle - self.b))
        return self.scale * (torch.where(own, -pull, push) * cosine).sum(dim=1)
