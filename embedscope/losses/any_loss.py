"""AnyLoss: a score of the confusion matrix, made differentiable."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedscope.arguments import check_choice, check_number
from embedscope.losses import loss

SCORES = ("f1", "accuracy", "balanced_accuracy", "g_mean")

# What the authors' code adds to denominators.
_EPS = 1e-5


@loss(reference="arXiv:2405.14745")
class any_loss(nn.Module):
    """AnyLoss: 1 minus a differentiable F1, accuracy, balanced accuracy or G-mean.

    In [0, 1], lower is better; 0 when every sample is correct with full confidence.

    Each class is one against the rest: its probability p counts as a yes by 1 / (1 + exp(-L (p - 1/2))), and so do true
    positives, false positives and so on become sums. The loss is the mean over the classes that the batch has. The paper is for
    two classes; one-vs-rest, and the mean over the classes present, are embedscope's.

    The amplified probability is flat where p is far from 1/2: with many classes, whose probabilities start near 1/K, the
    gradient is about L exp(-L (1/2 - 1/K)) at first. Begin with another loss, or with a small L. And a probability of 0 counts
    as exp(-L / 2) of a yes.

    A batch of one class has no negatives: balanced_accuracy and g_mean are 1 there, without a gradient.

    Args:
        num_classes: not used; losses take it.
        dim: not used.
        score: "f1", "accuracy", "balanced_accuracy" or "g_mean"; the last is the product of the two rates, as in the authors'
            code, and not its square root.
        amplification: L > 0; the extension of the paper tunes it from 2 to 70.
    """

    def __init__(self, num_classes: int, dim: int, *, score: str = "f1", amplification: float = 73.0) -> None:
        super().__init__()
        self.score = check_choice("score", score, SCORES)
        self.amplification = check_number("amplification", amplification, above=0)

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D) unused, (B,), (B, K) -> scalar in [0, 1]."""
        member = nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)  # (B, K)
        size = member.sum(dim=0)  # (K,)
        far = self.amplification * (torch.softmax(logits, dim=1) - 0.5)
        yes, no = torch.sigmoid(far), torch.sigmoid(-far)  # (B, K)
        true_yes, true_no = (member * yes).sum(dim=0), ((1 - member) * no).sum(dim=0)  # (K,)
        rest = len(labels) - size
        if self.score == "f1":
            scores = 2 * true_yes / (size + yes.sum(dim=0) + _EPS)
        elif self.score == "accuracy":
            scores = (true_yes + true_no) / len(labels)
        elif self.score == "balanced_accuracy":
            scores = (rest * true_yes + size * true_no) / (2 * rest * size + _EPS)
        else:
            scores = true_yes * true_no / (rest * size + _EPS)
        return 1 - scores[size > 0].mean()
