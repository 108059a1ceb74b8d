"""ElasticFace: a normalized softmax with an angular margin that is drawn anew for every sample; ArcFace and CosFace."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedscope.arguments import check_choice, check_flag, check_number
from embedscope.losses import loss
from embedscope.ops.cosines import KINDS, cosines, with_margin

MARGINS = {"arc": 0.5, "cos": 0.35}
SPREADS = {"arc": 0.05, "cos": 0.05}
SPREADS_PLUS = {"arc": 0.0175, "cos": 0.02}


@loss(reference="arXiv:2109.09416")
class elastic_face(nn.Module):
    """Angular-margin softmax with random margins (ElasticFace); also ArcFace and CosFace.

    Cross-entropy of scaled cosines to class vectors: at least 0, lower is better.

    The margin of sample i is drawn from N(margin, sd²) at every step, from torch's global generator. kind "arc" has
    cos(angle + margin) at the label, "cos" has cos(angle) - margin; with sd=0 these are ArcFace (arXiv:1801.07698) and CosFace
    (arXiv:1801.09414). Past pi - margin the arc turns back: it is not held there, so a sample opposite to its class is drawn
    away from it; implementations that continue the curve on a line differ there. In evaluation mode there is no margin and
    nothing is drawn. A row of zeros has cosine 0 to all and no gradient; nor has the arc where features and class vector point
    the same way exactly.

    Owns the class vectors `weight` (K, D), drawn from torch's global generator; the logits are not used.

    Args:
        num_classes: K.
        dim: D.
        kind: "arc" or "cos".
        margin: mean of the margins, in radians for "arc"; None for the paper's 0.5 (arc) or 0.35 (cos).
        sd: standard deviation of the margins, >= 0; None for the paper's 0.05, and 0.0175 (arc) or 0.02 (cos) with `plus`.
        plus: give the smallest of the margins drawn to the sample nearest to its class, and so on by rank. The authors' code
            indexes by position in the order instead of by rank, and so gives them out at random.
        scale: s, what cosines are multiplied by, > 0.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        kind: str = "arc",
        margin: float | None = None,
        sd: float | None = None,
        plus: bool = False,
        scale: float = 64.0,
    ) -> None:
        super().__init__()
        self.kind, self.plus = check_choice("kind", kind, KINDS), check_flag("plus", plus)
        self.margin = check_number("margin", MARGINS[self.kind] if margin is None else margin, low=0)
        spread = (SPREADS_PLUS if self.plus else SPREADS)[self.kind]
        self.sd = check_number("sd", spread if sd is None else sd, low=0)
        self.scale = check_number("scale", scale, above=0)
        self.weight = nn.Parameter(torch.randn(num_classes, dim) / dim**0.5)

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D), (B,), logits unused -> scalar >= 0."""
        cosine = cosines(features, self.weight.to(features.dtype))  # (B, K)
        if self.training:
            cosine = with_margin(cosine, labels, self._margins(cosine, labels), kind=self.kind)
        return nn.functional.cross_entropy(self.scale * cosine, labels)

    def _margins(self, cosine: Tensor, labels: Tensor) -> Tensor | float:
        if not self.sd:
            return self.margin
        margins = self.margin + self.sd * torch.randn(len(labels), dtype=cosine.dtype, device=cosine.device)
        if not self.plus:
            return margins
        nearest_first = cosine.detach().gather(1, labels[:, None]).squeeze(1).argsort(descending=True)
        return torch.empty_like(margins).index_copy(0, nearest_first, margins.sort().values)
