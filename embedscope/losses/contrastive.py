"""The contrastive loss, in its linear form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.arguments import check_flag, check_number
from embedscope.losses import loss
from embedscope.losses._metric_learning import EmbeddingLoss, metric_learning

if TYPE_CHECKING:
    from torch import nn


@loss(reference="doi:10.1109/CVPR.2006.100")
def contrastive(
    num_classes: int, dim: int, *, margin: float = 1.0, pos_margin: float = 0.0, normalize: bool = True
) -> nn.Module:
    """Contrastive loss over positive and negative pairs, with margins.

    At least 0; pulls pairs of one class together and pushes pairs of different classes apart, up to a margin:

        mean over positive pairs of [d - pos_margin]_+   +   mean over negative pairs of [margin - d]_+

    d is the Euclidean distance; each mean is over the pairs that have not reached their margin, and is 0 if there are none.
    This is the form of pytorch-metric-learning and of comparisons made with it. It is linear in d, where Hadsell et al. 2006
    square both terms, halve them and average over all pairs. Distances of duplicates have no gradient. One class in the batch
    leaves the first part, classes with one member each the second; no pair at all gives 0 with a graph. O(B² D). In float32
    and above 25 rows distances below about 1e-3 are rounding noise, so whether a duplicate counts in the mean is chance.

    Args:
        num_classes: not used; losses take it.
        dim: not used.
        margin: distance from which a negative pair costs nothing, >= 0, in units of d.
        pos_margin: distance up to which a positive pair costs nothing, >= 0.
        normalize: divide every row by its length first: then d is in [0, 2].
    """
    margin, pos_margin = check_number("margin", margin, low=0), check_number("pos_margin", pos_margin, low=0)
    distance = metric_learning("distances").LpDistance(normalize_embeddings=check_flag("normalize", normalize))
    made = metric_learning("losses").ContrastiveLoss(pos_margin=pos_margin, neg_margin=margin, distance=distance)
    return EmbeddingLoss(made)
