"""The soft top-k loss: how surely a sample's own are among its k nearest, or its label among its k largest logits."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from embedscope.arguments import check_choice, check_number
from embedscope.errors import UsageError
from embedscope.losses import loss
from embedscope.ops.cosines import cosines

# The authors' 32 halvings leave 1e-9 of the first interval, below the resolution of float32.
_HALVINGS = {torch.float32: 32, torch.float64: 64}


class Threshold(torch.autograd.Function):
    """Solve sum_j sigmoid(alpha (s_j + t)) = k for t: scores (B, M), 0 < k < M -> (B,), with dt/ds_j = -v_j / sum v.

    v_j is the slope of the sigmoid at s_j + t: by the implicit function theorem, whatever way t was found.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: float, alpha: float) -> Tensor:
        """Halve an interval that holds t: at its ends all sigmoids are at most, or at least, k / M.

        Between scores that lie far apart the sum rounds to k on a whole plateau. So it is not the sum that is compared with k:
        what the floor(k) largest lack of 1, plus the rest of k, is compared with what the others have, in logarithms.
        """
        whole = int(k)
        ordered = scores.sort(dim=1, descending=True).values
        steepness = torch.full_like(ordered[0], alpha)
        steepness[:whole] = -alpha
        rest = torch.full_like(ordered[:, 0], math.log(k - whole) if k > whole else -math.inf)
        level = math.log(k / (scores.shape[1] - k)) / alpha
        low, high = level - ordered[:, 0], level - ordered[:, -1]
        for _ in range(_HALVINGS[scores.dtype]):
            middle = (low + high) / 2
            shares = nn.functional.logsigmoid((ordered + middle[:, None]) * steepness)
            above = shares[:, whole:].logsumexp(dim=1) > torch.logaddexp(shares[:, :whole].logsumexp(dim=1), rest)
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        found = (low + high) / 2
        ctx.save_for_backward(scores, found)
        ctx.alpha = alpha
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Share the gradient (B,) among the scores (B, M)."""
        scores, found = ctx.saved_tensors
        far = ctx.alpha * (scores + found[:, None])
        # The shares of the slopes, from their logarithms: far from the threshold all slopes are 0 in any float.
        slopes = nn.functional.logsigmoid(far) + nn.functional.logsigmoid(-far)
        return -gradients[0][:, None] * torch.softmax(slopes, dim=1), None, None


@loss(reference="arXiv:2310.10636")
class soft_top_k(nn.Module):
    """Soft top-k loss on neighbors of the same class, or on logits.

    Mean of -ln sigmoid(alpha (s_p + t)) over a sample's positives p, then over the batch: above 0, lower is better.

    t is chosen, sample by sample, so that the sigmoids over all candidates sum to k: each is the share to which its candidate
    is among the top k. The gradient goes through t too. On features, the candidates are the other rows of the batch and the
    positives those of the same class; a class with more than k other members cannot be all in. On logits, the candidates are
    the classes, and the label is the positive.

    A sample that is alone in its class counts as 0, and stays a candidate to the others. If there are no more than k
    candidates all of them are in, and the loss is 0 with a graph; so it is for a batch without positives. A row of zeros has
    cosine 0 to all others and no gradient.

    Args:
        num_classes: K; on logits, k must be smaller.
        dim: not used; losses take it.
        on: "features" (cosine / temperature) or "logits" (as they are).
        k: how many are to be in, > 0; need not be whole.
        alpha: steepness of the sigmoid, > 0.
        temperature: of the cosine, > 0; not used on logits.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        on: str = "features",
        k: float = 5.0,
        alpha: float = 2.0,
        temperature: float = 0.05,
    ) -> None:
        super().__init__()
        self.on = check_choice("on", on, ("features", "logits"))
        self.k, self.alpha = check_number("k", k, above=0), check_number("alpha", alpha, above=0)
        self.temperature = check_number("temperature", temperature, above=0)
        if self.on == "logits" and self.k >= num_classes:
            raise UsageError(f"k must be less than the number of classes ({num_classes}), got {k}")

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D), (B,), (B, K) -> scalar >= 0."""
        if self.on == "features":
            size = len(features)
            other = ~torch.eye(size, dtype=torch.bool, device=features.device)
            scores = (cosines(features, features) / self.temperature)[other].view(size, -1)  # (B, B - 1)
            positive = (labels[:, None] == labels[None, :])[other].view(size, -1)
        else:
            scores, positive = logits, nn.functional.one_hot(labels, logits.shape[1]).bool()
        if scores.shape[1] <= self.k:
            return scores.sum() * 0
        threshold: Tensor = Threshold.apply(scores, self.k, self.alpha)  # type: ignore[no-untyped-call]
        losses = -nn.functional.logsigmoid(self.alpha * (scores + threshold[:, None])) * positive
        return (losses.sum(dim=1) / positive.sum(dim=1).clamp(min=1)).mean()
