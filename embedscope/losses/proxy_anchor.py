"""The Proxy-Anchor loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.arguments import check_number
from embedscope.losses import loss
from embedscope.losses._metric_learning import EmbeddingLoss, metric_learning

if TYPE_CHECKING:
    from torch import nn


@loss(reference="arXiv:2003.13911")
def proxy_anchor(num_classes: int, dim: int, *, margin: float = 0.1, alpha: float = 32.0) -> nn.Module:
    """Proxy-Anchor loss: learned class proxies attract their class and repel the others.

    At least 0:

        mean over proxies of classes in the batch of   ln(1 + sum over rows x of the class of exp(-alpha (s(x, p) - margin)))
      + mean over all K proxies of                     ln(1 + sum over all other rows of exp(alpha (s(x, p) + margin)))

    s is the cosine similarity. A batch of one class, or of one row, is as good as any. Values are of order alpha: at random
    embeddings several times a cross-entropy, so weigh it accordingly.

    The proxies are parameters, (K, D), normal with variance 2 / K at the start; they want a larger learning rate than the head
    (100 times in the paper).

    Args:
        num_classes: K.
        dim: D.
        margin: of the cosine similarity, in [0, 1].
        alpha: scale of the exponents, > 0.
    """
    margin, alpha = check_number("margin", margin, low=0, high=1), check_number("alpha", alpha, above=0)
    return EmbeddingLoss(metric_learning("losses").ProxyAnchorLoss(num_classes, dim, margin=margin, alpha=alpha))
