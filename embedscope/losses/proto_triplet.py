"""Proto-Triplet: a sample should be nearer to the mean of its class than to any other, by a margin."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedscope.arguments import check_flag, check_number
from embedscope.losses import loss
from embedscope.ops.class_moments import class_sums, present_classes
from embedscope.ops.cosines import directions

# What the authors add to squared distances before the root: distances are 0.001 at least, and their slopes finite.
_EPS = 1e-6


@loss(reference="arXiv:2305.09062", classes=2)
class proto_triplet(nn.Module):
    """Triplet loss on class means: own prototype versus the nearest other one.

    Mean of [d(x, mean of its class) - min over the other classes d(x, mean) + margin]_+ : at least 0, lower is better.

    d is the Euclidean distance, sqrt(|.|² + 1e-6). The paper has queries apart from the support whose means are the prototypes;
    in a batch, a sample takes no part in the mean that it is measured against (embedscope's choice). A sample that is alone in
    its class then has no prototype and is left out of the mean, and is still a competitor to the others; a batch with fewer
    than two classes, or none with two members, gives 0 with a graph.

    Args:
        num_classes: not used; losses take it.
        dim: not used.
        margin: >= 0, in units of the distance.
        normalize: divide every row by its length first; a row of zeros then has no gradient. The paper does not.
    """

    def __init__(self, num_classes: int, dim: int, *, margin: float = 0.5, normalize: bool = False) -> None:
        super().__init__()
        self.margin, self.normalize = check_number("margin", margin, low=0), check_flag("normalize", normalize)

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D), (B,), logits unused -> scalar >= 0."""
        rows = directions(features) if self.normalize else features
        classes = present_classes(labels)
        size = classes.counts[classes.index]  # (B,)
        asked = size > 1
        rows = rows - rows.mean(dim=0).detach()  # changes no distance and no gradient, and cancels no digits
        means = class_sums(rows, classes.index, len(classes)) / classes.counts[:, None].to(rows.dtype)  # (K, D)
        squared = rows.square().sum(dim=1, keepdim=True) + means.square().sum(dim=1) - 2 * rows @ means.T  # (B, K)
        member = nn.functional.one_hot(classes.index, len(classes)).bool()
        other = (squared.clamp(min=0) + _EPS).sqrt().masked_fill(member, torch.inf).amin(dim=1)
        # Without itself, a sample is n / (n - 1) times as far from the mean of its class.
        factor = size.to(rows.dtype) / (size - 1).clamp(min=1)
        gap = (rows - means[classes.index]) * factor[:, None]
        own = (gap.square().sum(dim=1) + _EPS).sqrt()
        return ((own - other + self.margin).relu() * asked).sum() / asked.sum().clamp(min=1)
