"""The label-distributionally robust loss with a KL divergence (LDR-KL)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from embedscope.arguments import check_flag, check_number
from embedscope.losses import loss


@loss(reference="arXiv:2112.14869")
class ldr(nn.Module):
    """Label-distributionally robust loss (LDR-KL), a soft multiclass hinge.

    Mean over the batch of lam ln( mean over classes k of exp((f_k - f_y + c [k != y]) / lam) ); lower is better.

    At least -lam ln K, so it can be negative. lam -> 0 is the hinge of Crammer and Singer, max_k (f_k - f_y + c [k != y]); lam
    = 1 and c = 0 is cross-entropy - ln K; lam -> infinity is the mean margin violated. The adaptive form, ALDR, which keeps a
    lam for every sample, is not here: a loss is not told which samples a batch has.

    Args:
        num_classes: not used; losses take it.
        dim: not used.
        lam: temperature > 0, in units of the logits.
        margin: c, by how much the logit of the label should exceed the others; >= 0. The authors' code has 2 with `normalize`,
            and 1 in ALDR.
        normalize: as the authors' code, replace the logits by softplus(logits), each row divided by its mean.
    """

    def __init__(self, num_classes: int, dim: int, *, lam: float = 1.0, margin: float = 1.0, normalize: bool = False) -> None:
        super().__init__()
        self.lam, self.margin = check_number("lam", lam, above=0), check_number("margin", margin, low=0)
        self.normalize = check_flag("normalize", normalize)

    def per_sample(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D) unused, (B,), (B, K) -> (B,)."""
        scores = logits
        if self.normalize:
            scores = -nn.functional.logsigmoid(-logits)  # softplus, without torch's threshold of 20
            scores = scores / scores.mean(dim=1, keepdim=True).clamp(min=1e-12)
        own = labels[:, None]
        margins = torch.full_like(scores, self.margin).scatter(1, own, 0)
        gaps = (scores - scores.gather(1, own) + margins) / self.lam
        return self.lam * (torch.logsumexp(gaps, dim=1) - math.log(scores.shape[1]))
