"""The Gini impurity of the channels of a batch, as a loss."""

from __future__ import annotations

from torch import Tensor, nn

from embedscope.arguments import check_choice
from embedscope.losses import loss
from embedscope.ops.channel_classes import ACTIVATIONS, DEAD, batch_channel_shares, channel_gini
from embedscope.ops.class_moments import present_classes


@loss(reference="arXiv:2202.07073", reads="magnitudes")
class gini(nn.Module):
    """Mean Gini impurity of the channels.

    In [0, 1], lower is better; 0 if each channel responds to a single class.

    The metric `gini` is this loss on the same rows, up to the batch's dtype. At most 1 - 1/K for K classes in the batch, but
    exactly 1 for a channel that is zero throughout, which has no gradient. One class in the batch gives 0; classes that are
    missing do not count. The value does not depend on the scale of a channel, so that the gradient of a channel grows as
    1 / scale: clip gradients, or put a norm before it. A channel whose class means sum to less than 1e-10 has none.

    The authors add it with weight 0.5 together with `class_kl`, after ReLU, from epoch 10 on: `ce + 0.5*gini@10 +
    0.5*class_kl@10`. Their code averages |activation| over the positions of the last convolution: `loss_layer=` of a
    network. Other rows are pooled already, and |mean| is at most mean |activation|.

    Args:
        num_classes: not used; losses take it.
        dim: not used.
        activation: what makes features non-negative: "abs" (the authors' code), "relu", or "none" for features that are
            already; a negative one is then an UndefinedError.
        dead: "keep" counts a channel that is zero throughout as 1 (the authors' code), "ignore" leaves it out, and gives 0 with
            a graph if all are.
    """

    def __init__(self, num_classes: int, dim: int, *, activation: str = "abs", dead: str = "keep") -> None:
        super().__init__()
        self.activation = check_choice("activation", activation, ACTIVATIONS)
        self.dead = check_choice("dead", dead, DEAD)

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D), (B,), logits unused -> scalar."""
        shares = batch_channel_shares(features, present_classes(labels), activation=self.activation)  # (D, K)
        impurity = channel_gini(shares, dead=self.dead)
        return impurity.sum() / max(len(impurity), 1)
