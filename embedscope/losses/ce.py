"""Cross-entropy of the logits."""

from __future__ import annotations

from torch import Tensor, nn

from embedscope.arguments import check_number
from embedscope.losses import loss


@loss(reference="doi:10.1109/CVPR.2016.308")
class ce(nn.Module):
    """Cross-entropy of the logits, averaged over the batch, in nats.

    Args:
        num_classes: K.
        dim: not used; losses take it.
        label_smoothing: share in [0, 1] of the target that is spread evenly over all classes (Szegedy et al. 2016).
    """

    def __init__(self, num_classes: int, dim: int, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = check_number("label_smoothing", label_smoothing, low=0, high=1)

    def per_sample(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D) unused, (B,), (B, K) -> (B,) >= 0."""
        return nn.functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing, reduction="none")
