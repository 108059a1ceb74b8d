"""The soft silhouette of a batch, as a loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedscope.arguments import check_choice, check_flag
from embedscope.losses import loss
from embedscope.ops.class_distances import DISTANCES, batch_class_distances
from embedscope.ops.minima import minimum
from embedscope.ops.silhouettes import soft_form, soft_silhouette


@loss(reference="arXiv:2604.08573", classes=2)
class silhouette(nn.Module):
    """Negative mean soft silhouette of the batch.

    Above -1, lower is better.

    The options are those of the metric `soft_silhouette`, which is minus this loss on the same rows, up to the batch's dtype. A
    sample that is alone in its class counts as 0, and is still a competitor to the others; a batch with fewer than two classes
    gives 0 with a graph. Gradients at duplicates are finite. Where b(i) < -0.7 tau_m the gradient pushes a sample away from its
    own class: keep tau_s ln(K - 1) below the distance between classes, or `negative_share` at 0.

    `torch.compile` takes it, and objectives with it, without a graph break: distances are then summed for all classes, those
    without a row in the batch too.

    Args:
        num_classes: K, read only by what torch.compile makes.
        dim: not used.
        tau_s: temperature of the soft minimum over classes, > 0.
        tau_m: temperature of the soft maximum of a and b, > 0.
        softmin: "lse" (the paper's), "lme", "weighted" or "hard".
        distance: "euclidean", "sqeuclidean" or "cosine".
        normalize: divide every row by its length first.

    Attributes:
        negative_share: 0-d tensor in [0, 1] on the device of the features, without a graph: the share of the samples of the
            last batch of two classes or more with b(i) < 0, which only softmin="lse" allows. Above 0 the value may fall below
            -1 for a sample, and tau_s is too high for the distances and the number of classes. 0 before the first such batch.
    """

    one_graph = True

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        tau_s: float = 0.1,
        tau_m: float = 0.1,
        softmin: str = "lse",
        distance: str = "euclidean",
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.form = soft_form(tau_s, tau_m, softmin)
        self.distance = check_choice("distance", distance, DISTANCES)
        self.tau_m, self.normalize = float(tau_m), check_flag("normalize", normalize)
        self.negative_share = torch.zeros(())

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(B, D), (B,), logits unused -> scalar."""
        rows = nn.functional.normalize(features, dim=1) if self.normalize else features
        compiling = torch.compiler.is_compiling()
        own, means, alone = batch_class_distances(
            rows, labels, distance=self.distance, num_classes=self.num_classes if compiling else None
        )
        if compiling:  # a batch of one class, for which the wrapper would have given 0
            single = means.isinf().all(dim=0)
            means, alone = means.masked_fill(single, 0), alone | single
        other = minimum(means, self.form)
        self.negative_share = (other.detach() < 0).to(rows.dtype).mean()
        return -soft_silhouette(own, other, alone, tau=self.tau_m).mean()
