"""The ProxyNCA loss."""

from __future__ import annotations

from torch import Tensor, nn

from embedscope.arguments import check_number
from embedscope.losses import loss
from embedscope.losses._metric_learning import embedding_rows, metric_learning


@loss(reference="arXiv:1703.07464")
class proxy_nca(nn.Module):
    """ProxyNCA++: neighborhood components analysis on learned class proxies, in nats.

    At least 0:

        mean of   -ln [ exp(-s d²(x, p_y)) / sum over all classes k of exp(-s d²(x, p_k)) ]

    d is the Euclidean distance of the row and the proxy, both at unit length, so d² is in [0, 4]. The sum is over all proxies,
    as in ProxyNCA++ (arXiv:2004.01113) and pytorch-metric-learning; the paper's own leaves out that of y, which can make it
    negative. scale=9 is the loss of ProxyNCA++; since d² = 2 - 2 cos, it is also `normalized_softmax` at temperature 1 / (2 s).
    It needs no pairs: a batch of one class, or of one row, is as good as any. (Where the probability of a sample is 0 in the
    dtype the library leaves the sample out; here it counts.)

    The proxies are parameters, (K, D), and want a larger learning rate than the head.

    Args:
        num_classes: K.
        dim: D.
        scale: s, > 0: one over the temperature.
    """

    def __init__(self, num_classes: int, dim: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = check_number("scale", scale, above=0)
        self.loss = metric_learning("losses").ProxyNCALoss(num_classes, dim, softmax_scale=self.scale)

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D), (B,), logits unused -> scalar."""
        rows = embedding_rows(features, unit=True)
        self.loss.cast_types(rows.dtype, rows.device)
        return nn.functional.cross_entropy(-self.scale * self.loss.get_logits(rows), labels)
