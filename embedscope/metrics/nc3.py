"""Neural collapse 3: how well the rows of the classifier are aligned with the class means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.class_moments import raw_moments
from embedscope.ops.gathering import gathered
from embedscope.ops.heads import check_logits, linear_head

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows

# What a linear map may leave of the logits: products in TF32, or features stored as float16, are off by less.
_EXACT = {torch.float16: 1e-2, torch.bfloat16: 1e-1}
_SINGLE = 2e-3


@metric(
    better="lower",
    bounds=(0, 2),
    invariant=("translation", "rotation", "scale"),
    reference="doi:10.1073/pnas.2015509117",
    needs=raw_moments,
    interval=False,
)
def nc3(features: Rows, labels: Tensor, *, logits: Rows | None = None) -> Result:
    """Distance between the classifier and the class means (NC3).

    |W / |W| - M / |M|| in Frobenius norms. M has the class means about their mean, in which every class counts the same. W, the
    weights of the classifier, are recovered from the logits by least squares, in the dimensions that the features span.

    Args:
        features: (N, D), any float dtype: what the classifier reads.
        labels: (N,) integers; gaps allowed.
        logits: (N, K), a column for each class that occurs, in ascending order of the labels.

    Returns:
        A value in [0, 2], lower is more collapsed; sqrt 2 if the two are unrelated. `arrays`: "rank", the number of dimensions
        that the features span; "residual", what a linear map leaves of the logits.

    Raises:
        UndefinedError: no logits, or not one per class; fewer than two classes; all class means are equal; or logits that are
            not linear in the features: those of another layer.

    Reference: Papyan, Han and Donoho 2020, doi:10.1073/pnas.2015509117.
    """
    gatherer = gathered(raw_moments, features, labels)
    moments = gatherer.moments
    logits = check_logits(logits, len(moments.counts))
    if len(moments.counts) < 2:
        raise UndefinedError("there is only one class, so no spread between classes")
    means = moments.means - moments.means.mean(dim=0)
    if float(means.abs().max()) <= 4 * torch.finfo(means.dtype).eps * moments.largest:
        raise UndefinedError("all class means are equal")
    overall = (moments.counts[:, None] * moments.means).sum(dim=0) / moments.counts.sum()
    head = linear_head(features, logits, overall)
    if head.residual > _EXACT.get(features.dtype, _SINGLE):
        raise UndefinedError(
            f"the logits are not linear in these features (a linear map leaves {head.residual:.2g} of them); "
            "measure the layer that feeds the classifier"
        )
    gap = head.weight / torch.linalg.matrix_norm(head.weight) - means / torch.linalg.matrix_norm(means)
    unused = features.shape[1] - head.rank
    note = f"in the {head.rank:,} of {features.shape[1]:,} dimensions that the features span" if unused else None
    return Result(float(torch.linalg.matrix_norm(gap)), arrays={"rank": head.rank, "residual": head.residual}, note=note)
