"""The triplet margin loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.arguments import check_choice, check_flag, check_number
from embedscope.losses import loss
from embedscope.losses._metric_learning import EmbeddingLoss, metric_learning

if TYPE_CHECKING:
    from torch import nn


@loss(reference="arXiv:1503.03832")
def triplet(
    num_classes: int,
    dim: int,
    *,
    margin: float = 0.05,
    triplets: str = "all",
    swap: bool = False,
    smooth: bool = False,
    normalize: bool = True,
) -> nn.Module:
    """Triplet margin loss over all, semihard or hard triplets of the batch.

    At least 0:

        mean of [d(anchor, positive) - d(anchor, negative) + margin]_+   over the triplets of the batch that violate the margin

    The mean over violating triplets alone, and the defaults, are those of pytorch-metric-learning; Schroff et al. 2015 use a
    margin of 0.2 on squared distances, and semi-hard triplets. No triplet, or none that violates the margin, gives 0 with a
    graph. Distances of duplicates have no gradient. All triplets of a batch are listed, B³/11 of them with 10
    classes: 1.5e6 at B = 256, but 1e8 and some GB at B = 1024.

    Args:
        num_classes: not used; losses take it.
        dim: not used.
        margin: in units of d, >= 0.
        triplets: "all", "semihard" (the negative is further than the positive, but within the margin) or "hard" (the negative
            is nearer than the positive).
        swap: use the distance of the negative to the positive if it is smaller than that to the anchor.
        smooth: ln(1 + exp(x)) in place of [x]_+; then every triplet counts.
        normalize: divide every row by its length first: then d is in [0, 2].
    """
    margin, normalize = check_number("margin", margin, low=0), check_flag("normalize", normalize)
    check_choice("triplets", triplets, ("all", "semihard", "hard"))
    distance = metric_learning("distances").LpDistance(normalize_embeddings=normalize)
    miner = None
    if triplets != "all":
        miner = metric_learning("miners").TripletMarginMiner(margin=margin, type_of_triplets=triplets, distance=distance)
    made = metric_learning("losses").TripletMarginLoss(
        margin=margin, swap=check_flag("swap", swap), smooth_loss=check_flag("smooth", smooth), distance=distance
    )
    return EmbeddingLoss(made, miner)
