"""UNPG: a normalized softmax with a margin whose negatives are class vectors and, as well, pairs of the batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedscope.arguments import check_choice, check_number
from embedscope.losses import loss
from embedscope.ops.cosines import KINDS, cosines, with_margin

MARGINS = {"arc": 0.5, "cos": 0.35}
WHISKERS = {"arc": 1.0, "cos": 1.5}


@loss(reference="arXiv:2203.11593")
class unpg(nn.Module):
    """UNPG: margin softmax with pairs of the batch as additional negatives.

    Cross-entropy over scaled cosines to class vectors and those of all pairs of two classes: at least 0, lower is better.

    The cosines between rows of different classes, each pair once, join the negatives of every row, those of pairs that the
    row is not part of too; all of them get a gradient. Before that, Tukey's filter drops the cosines outside of [Q1 - w
    IQR, Q3 + w IQR]: below are pairs that are too easy, above pairs that are likely mislabeled. The quartiles are the
    values at int(l / 4) and int(3 l / 4) of the l sorted cosines. A batch of one class has no such pair, and the loss is
    ArcFace or CosFace. A row of zeros has cosine 0 to all and no gradient. Evaluation mode changes nothing.

    Owns the class vectors `weight` (K, D), drawn from torch's global generator; the logits are not used.

    Args:
        num_classes: K.
        dim: D.
        kind: "cos", cos(angle) - margin at the label, or "arc", cos(angle + margin), which is not held back at pi.
        margin: >= 0, in radians for "arc"; None for 0.35 (cos) or 0.5 (arc), those of the CosFace and ArcFace papers. The
            authors' code has 0.5 with either kind.
        whisker: w >= 0; None for 1.5 (cos) or 1.0 (arc), after the paper's experiments. The authors' code has 1.5 with either
            kind. A large one keeps all pairs.
        scale: s, what cosines are multiplied by, > 0.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        kind: str = "cos",
        margin: float | None = None,
        whisker: float | None = None,
        scale: float = 64.0,
    ) -> None:
        super().__init__()
        self.kind = check_choice("kind", kind, KINDS)
        self.margin = check_number("margin", MARGINS[self.kind] if margin is None else margin, low=0)
        self.whisker = check_number("whisker", WHISKERS[self.kind] if whisker is None else whisker, low=0)
        self.scale = check_number("scale", scale, above=0)
        self.weight = nn.Parameter(torch.randn(num_classes, dim) / dim**0.5)

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D), (B,), logits unused -> scalar >= 0."""
        head = with_margin(cosines(features, self.weight.to(features.dtype)), labels, self.margin, kind=self.kind)  # (B, K)
        total = torch.logsumexp(self.scale * head, dim=1)  # (B,)
        i, j = torch.triu_indices(len(features), len(features), offset=1, device=features.device)
        pairs = cosines(features, features)[i, j][labels[i] != labels[j]]
        if len(pairs):
            # The list is the same in every row: its sum is taken once, not the B^2 / 2 columns appended.
            total = torch.logaddexp(total, torch.logsumexp(self.scale * self._kept(pairs), dim=0))
        return (total - self.scale * head.gather(1, labels[:, None]).squeeze(1)).mean()

    def _kept(self, pairs: Tensor) -> Tensor:
        ordered = pairs.detach().sort().values
        first, third = ordered[int(0.25 * len(pairs))], ordered[int(0.75 * len(pairs))]
        reach = self.whisker * (third - first)
        return pairs[(pairs >= first - reach) & (pairs <= third + reach)]
