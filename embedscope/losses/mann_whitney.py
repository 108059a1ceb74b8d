"""The Mann-Whitney loss: every pair of one class should be more similar than every pair of two."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedscope.arguments import check_number, check_whole
from embedscope.losses import loss
from embedscope.ops.cosines import cosines


@loss(reference="arXiv:2510.00137", classes=2)
class mann_whitney(nn.Module):
    """Ranks pairs of the same class above pairs of different classes (Mann-Whitney).

    Mean of ln(1 + exp(-(s_p - s_n) / temperature)) over pairs p of one class and pairs n of two: above 0, lower is better.

    s is the cosine. Divided by ln 2 it is no less than 1 - AUC, the share of comparisons between a pair of either kind that
    come out wrong, whichever rows the pairs are of. A batch without a pair of either kind gives 0 with a graph. A row of zeros
    has cosine 0 to all others and no gradient.

    Args:
        num_classes: not used; losses take it.
        dim: not used.
        temperature: in units of the cosine, > 0; what the paper has is unknown, 1 is embedscope's choice. At 1 the loss cannot
            fall below ln(1 + exp(-2)) = 0.127.
        max_pairs: the most pairs of either kind that are compared, so that at most its square is in memory; where there are
            more, that many are drawn at random at every call, from torch's global generator, which leaves the mean unbiased.
    """

    def __init__(self, num_classes: int, dim: int, *, temperature: float = 1.0, max_pairs: int = 1024) -> None:
        super().__init__()
        self.temperature = check_number("temperature", temperature, above=0)
        self.max_pairs = check_whole("max_pairs", max_pairs, low=1)

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D), (B,), logits unused -> scalar > 0."""
        i, j = torch.triu_indices(len(features), len(features), offset=1, device=features.device)
        same = labels[i] == labels[j]
        similarity = cosines(features, features)[i, j]
        positive, negative = self._drawn(similarity[same]), self._drawn(similarity[~same])
        if not len(positive):
            return similarity.sum() * 0
        return -nn.functional.logsigmoid((positive[:, None] - negative[None, :]) / self.temperature).mean()

    def _drawn(self, values: Tensor) -> Tensor:
        if len(values) <= self.max_pairs:
            return values
        return values[torch.randperm(len(values), device=values.device)[: self.max_pairs]]
