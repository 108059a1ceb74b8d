"""The supervised contrastive loss."""

from __future__ import annotations

from torch import Tensor, nn

from embedscope.arguments import check_number
from embedscope.losses import loss
from embedscope.losses._metric_learning import EmbeddingLoss, metric_learning
from embedscope.ops.class_moments import present_classes


@loss(reference="arXiv:2004.11362")
class supcon(nn.Module):
    """Supervised contrastive loss (SupCon), in nats.

    Khosla et al. 2020, L_out; at least 0:

        mean over anchors i of   -1 / |P(i)| sum over p in P(i) of ln [ exp(s_ip / t) / sum over a != i of exp(s_ia / t) ]

    s are cosine similarities, P(i) the other rows of the class of i. The mean is over the anchors that have a positive;
    others are still negatives. (The authors' code averages over all anchors and multiplies by t / 0.07; pytorch-metric-learning
    averages over those whose loss is not 0, which changes the scale of the gradient where anchors reach 0.) No positives, or no
    negatives as in a batch of one class, give 0 with a graph. Several views of a sample are rows of the same label.

    Args:
        num_classes: not used; losses take it.
        dim: not used.
        temperature: t, > 0. 0.1 as in the paper; the authors' code has 0.07.
    """

    def __init__(self, num_classes: int, dim: int, *, temperature: float = 0.1) -> None:
        super().__init__()
        temperature = check_number("temperature", temperature, above=0)
        mean = metric_learning("reducers").MeanReducer()
        self.loss = EmbeddingLoss(metric_learning("losses").SupConLoss(temperature=temperature, reducer=mean))

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D), (B,), logits unused -> scalar."""
        classes = present_classes(labels)
        anchors = (classes.counts[classes.index] > 1).sum()
        # The library's mean is over all anchors; those without a positive add 0 to its sum.
        value: Tensor = self.loss(features, labels, logits)
        return value * len(labels) / anchors.clamp(min=1)
