"""The multi-class N-pair loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.arguments import check_flag, check_number
from embedscope.losses import loss
from embedscope.losses._metric_learning import EmbeddingLoss, metric_learning

if TYPE_CHECKING:
    from torch import nn


@loss(reference="arXiv:2008.09164")
def npair(num_classes: int, dim: int, *, normalize: bool = True, regularization: float = 0.0) -> nn.Module:
    """N-pair loss: an anchor is compared with one positive and the other classes' positives.

    Sohn 2016 (NIPS):

        mean over classes c of ln(1 + sum over classes k != c of exp(f_c · g_k - f_c · g_c)),   at least 0

    f_c and g_c are the first two rows of class c in the batch, one pair per class; further rows, and classes of one row, are
    not used. A batch without a pair, or with pairs of one class only, gives 0 with a graph.

    The default is that of pytorch-metric-learning: similarities are cosines, without a temperature. The loss is then lowest
    where the C classes are the corners of a simplex, at ln(1 + (C - 1) exp(-C / (C - 1))), which is 1.3 for 10 classes: it
    never comes near 0. The paper has inner products, normalize=False, and keeps them small by a penalty on squared lengths;
    `regularization` is the library's, on lengths.

    Args:
        num_classes: not used; losses take it.
        dim: not used.
        normalize: divide every row by its length first.
        regularization: weight, >= 0, of the mean length of all rows of the batch, which is added.
    """
    weight = check_number("regularization", regularization, low=0)
    distance = metric_learning("distances").DotProductSimilarity(normalize_embeddings=check_flag("normalize", normalize))
    penalty = metric_learning("regularizers").LpRegularizer() if weight else None
    made = metric_learning("losses").NPairsLoss(distance=distance, embedding_regularizer=penalty, embedding_reg_weight=weight)
    return EmbeddingLoss(made)
