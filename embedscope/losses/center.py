"""The center loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedscope.arguments import check_number
from embedscope.losses import loss
from embedscope.ops.class_moments import class_sums


@loss(reference="doi:10.1007/978-3-319-46478-7_31")
class center(nn.Module):
    """Center loss: half the mean squared distance of rows to their class centers.

    At least 0. Wen et al. 2016:

        L = 1 / (2 B) sum |x - c_y|²,    and then    c_j += alpha sum over rows of j of (x - c_j) / (1 + n_j)

    It is of the order of the squared length of the rows, which are not normalized, and alone it collapses them: add it to a
    cross-entropy with a small weight (0.003 in the paper). The paper's equation is a sum; the mean, the form in common use,
    does not depend on the batch size. The centers are not parameters: they follow the paper's rule in each forward pass in
    training mode, after the loss is computed, and stay as they are in evaluation mode. They start at 0 [ours]. A class that is
    not in the batch keeps its center; one class or one member need no special care.

    Args:
        num_classes: K.
        dim: D.
        alpha: rate of the centers, in [0, 1]; at 0 they stay at the origin.
    """

    centers: Tensor

    def __init__(self, num_classes: int, dim: int, *, alpha: float = 0.5) -> None:
        super().__init__()
        self.alpha = check_number("alpha", alpha, low=0, high=1)
        self.register_buffer("centers", torch.zeros(num_classes, dim))

    def per_sample(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D), (B,), logits unused -> (B,)."""
        gaps = features - self.centers.to(features.dtype)[labels]  # (B, D)
        if self.training:
            self._follow(gaps.detach(), labels)
        return gaps.square().sum(dim=1) / 2

    def _follow(self, gaps: Tensor, labels: Tensor) -> None:
        counts = torch.bincount(labels, minlength=len(self.centers))
        moves = self.alpha * class_sums(gaps, labels, len(self.centers)) / (1 + counts)[:, None]
        self.centers += moves.to(self.centers.dtype)
