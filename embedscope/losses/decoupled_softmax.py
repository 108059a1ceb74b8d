"""The decoupled softmax: each positive against the negatives, not against the other positives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedscope.arguments import check_number
from embedscope.losses import loss
from embedscope.ops.cosines import cosines


@loss(reference="arXiv:2310.10636", classes=2)
class decoupled_softmax(nn.Module):
    """Contrastive loss whose positives do not compete with each other.

    At least 0, lower is better.

    For a sample i and each other sample p of its class, -ln( e^s(i,p) / (e^s(i,p) + sum of e^s(i,n) over other classes) ), with
    s = cosine / temperature; the mean over p, then over the batch. A sample that is alone in its class counts as 0, and is
    still a negative to the others; a batch of one class, or without any positive, gives 0 with a graph. A row of zeros has
    cosine 0 to all others and no gradient. It is NT-Xent with labels, averaged per anchor. On logits with one label a sample it
    would be cross-entropy.

    Args:
        num_classes: not used; losses take it.
        dim: not used.
        temperature: in units of the cosine, > 0.
    """

    def __init__(self, num_classes: int, dim: int, *, temperature: float = 0.05) -> None:
        super().__init__()
        self.temperature = check_number("temperature", temperature, above=0)

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D), (B,), logits unused -> scalar >= 0."""
        same = labels[:, None] == labels[None, :]  # (B, B)
        positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        similarity = cosines(features, features) / self.temperature
        # Of two classes or more, every row has a negative.
        negatives = torch.logsumexp(similarity.masked_fill(same, -torch.inf), dim=1, keepdim=True)  # (B, 1)
        losses = -nn.functional.logsigmoid(similarity - negatives) * positive
        return (losses.sum(dim=1) / positive.sum(dim=1).clamp(min=1)).mean()
