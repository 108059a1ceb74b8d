"""The Z-loss: how far the logit of the label stands out of its row, in standard deviations."""

from __future__ import annotations

from torch import Tensor, nn

from embedscope.arguments import check_number
from embedscope.losses import loss

# Rows whose logits lie nearer together count as equal; the authors' code adds this to the standard deviation.
_FLAT = 1e-12


@loss(reference="arXiv:1604.08859")
class z_loss(nn.Module):
    """Z-loss: softplus of the standardized logit of the label.

    Mean over the batch of ln(1 + exp(a (b - z))) / a, with z the standardized logit of the label: above 0, lower is better.

    z = (logit - mean of the row) / standard deviation of the row over the K classes, at most sqrt(K - 1): so the loss is
    bounded below by ln(1 + exp(a (b - sqrt(K - 1)))) / a, and no scale or shift of the logits changes it. A row of equal logits
    has z = 0 and no gradient. With K = 2, z is -1 or 1 whatever the logits: the loss has no gradient at all. Not the "z-loss"
    of language models, which is the square of the log-partition function.

    Args:
        num_classes: not used; losses take it.
        dim: not used.
        a: steepness, > 0.
        b: the z above which a sample counts as right, in standard deviations.
    """

    def __init__(self, num_classes: int, dim: int, *, a: float = 1.0, b: float = 0.0) -> None:
        super().__init__()
        self.a, self.b = check_number("a", a, above=0), check_number("b", b)

    def per_sample(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D) unused, (B,), (B, K) -> (B,) > 0."""
        # z does not depend on the unit of the logits: with a row's range as its unit, squares neither vanish nor overflow.
        width = (logits.amax(dim=1) - logits.amin(dim=1)).detach()[:, None]  # (B, 1)
        flat = width <= _FLAT
        centered = (logits - logits.mean(dim=1, keepdim=True)) / width.masked_fill(flat, 1)
        variance = centered.square().mean(dim=1, keepdim=True).masked_fill(flat, 1)
        z = (centered / variance.sqrt()).masked_fill(flat, 0).gather(1, labels[:, None])
        return -nn.functional.logsigmoid(self.a * (z.squeeze(1) - self.b)) / self.a
