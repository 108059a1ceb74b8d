"""The normalized softmax loss: cross-entropy of scaled cosines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.arguments import check_number
from embedscope.losses import loss
from embedscope.losses._metric_learning import EmbeddingLoss, metric_learning

if TYPE_CHECKING:
    from torch import nn


@loss(reference="arXiv:1811.12649")
def normalized_softmax(num_classes: int, dim: int, *, temperature: float = 0.05) -> nn.Module:
    """Normalized softmax: cross-entropy over cosines to learned class vectors, in nats.

    At least 0:

        mean of   -ln [ exp(x · w_y / t) / sum over classes k of exp(x · w_k / t) ],   x and w at unit length

    It needs no pairs: a batch of one class, or of one row, is as good as any. It does not read the logits: its class vectors
    are parameters of its own, (D, K), standard normal at the start.

    Args:
        num_classes: K.
        dim: D.
        temperature: t, > 0.
    """
    temperature = check_number("temperature", temperature, above=0)
    return EmbeddingLoss(metric_learning("losses").NormalizedSoftmaxLoss(num_classes, dim, temperature=temperature))
