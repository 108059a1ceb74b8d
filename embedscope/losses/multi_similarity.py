"""The Multi-Similarity loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.arguments import check_flag, check_number
from embedscope.losses import loss
from embedscope.losses._metric_learning import EmbeddingLoss, metric_learning

if TYPE_CHECKING:
    from torch import nn


@loss(reference="arXiv:1904.06627")
def multi_similarity(
    num_classes: int,
    dim: int,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    miner: bool = False,
    epsilon: float = 0.1,
) -> nn.Module:
    """Multi-Similarity loss: soft hinges on cosines of positive and negative pairs.

    At least 0.

        mean over rows i of   (1 / alpha) ln(1 + sum over positives of exp(-alpha (s - base)))
                            + (1 / beta)  ln(1 + sum over negatives of exp(beta (s - base)))

    The paper mines pairs first: with miner=True an anchor keeps its positives less similar than its nearest negative plus
    epsilon, and its negatives more similar than its furthest positive less epsilon; it is opt-in, as in
    pytorch-metric-learning. A row without positives, or without negatives, has only the other part. A batch of one row, or in
    which at most one pair is mined of either kind, gives 0 with a graph.

    Args:
        num_classes: not used; losses take it.
        dim: not used.
        alpha: sharpness of the positive part, > 0.
        beta: sharpness of the negative part, > 0.
        base: cosine similarity at which the hinges bend, in [-1, 1] (lambda in the paper).
        miner: mine pairs first.
        epsilon: margin of the miner, >= 0; not used without it.
    """
    alpha, beta = check_number("alpha", alpha, above=0), check_number("beta", beta, above=0)
    base, epsilon = check_number("base", base, low=-1, high=1), check_number("epsilon", epsilon, low=0)
    made = metric_learning("losses").MultiSimilarityLoss(alpha=alpha, beta=beta, base=base)
    if check_flag("miner", miner):
        return EmbeddingLoss(made, metric_learning("miners").MultiSimilarityMiner(epsilon=epsilon))
    return EmbeddingLoss(made)
