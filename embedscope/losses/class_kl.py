"""The divergence between the class histograms of the labels and of the features of a batch, as a loss."""

from __future__ import annotations

from torch import Tensor, nn

from embedscope.arguments import check_choice
from embedscope.losses import loss
from embedscope.ops.channel_classes import (
    ACTIVATIONS,
    DIRECTIONS,
    batch_channel_shares,
    class_histograms,
    histogram_divergence,
)
from embedscope.ops.class_moments import present_classes


@loss(reference="arXiv:2202.07073", reads="magnitudes")
class class_kl(nn.Module):
    """KL divergence between class frequencies and channel usage per class, in nats.

    At least 0.

    Lower is better. The metric `class_kl` is this loss on the same rows, up to the batch's dtype. The target is the histogram
    of the batch, so that classes missing from it do not count. One class gives 0. If all features are 0 the value is 0 with a
    graph. A class that activates no channel has a mass of 1e-10 instead of 0: with target_to_feature that adds about 22 times
    its share, and with "relu" no gradient that would bring it back. As with `gini`, gradients grow as 1 / scale of a channel.

    Args:
        num_classes: not used; losses take it.
        dim: not used.
        activation: what makes features non-negative: "abs" (the authors' code), "relu", or "none" for features that are
            already; a negative one is then an UndefinedError.
        direction: "target_to_feature" is KL(labels || features), the authors' code; "feature_to_target" is KL(features ||
            labels), the paper's notation.
    """

    def __init__(self, num_classes: int, dim: int, *, activation: str = "abs", direction: str = "target_to_feature") -> None:
        super().__init__()
        self.activation = check_choice("activation", activation, ACTIVATIONS)
        self.direction = check_choice("direction", direction, DIRECTIONS)

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D), (B,), logits unused -> scalar."""
        classes = present_classes(labels)
        shares = batch_channel_shares(features, classes, activation=self.activation)  # (D, K)
        feature, label = class_histograms(shares, classes)
        # Without any activation there is no histogram of the features.
        return histogram_divergence(feature, label, direction=self.direction) * shares.detach().any()
