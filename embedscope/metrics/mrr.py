"""The mean reciprocal rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.metrics import Result, metric
from embedscope.ops.retrieval import mean_over_retrievable
from embedscope.ops.shared_neighbors import ranked_by, shared_ranks

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


@metric(
    better="higher",
    bounds=(0, 1),
    invariant=("rotation", "scale", "row_scale"),
    reference="arXiv:2003.08505",
    neighbors=ranked_by,
    extrapolates=False,
)
def mrr(features: Rows, labels: Tensor, *, distance: str = "cosine", anchors: Tensor | None = None) -> Result:
    """Mean reciprocal rank of the nearest row of the same class.

    The mean over samples of 1 / rank, with all other rows ranked by distance.
    Higher than recall at 1 by what the samples whose nearest row has another class get for their second, third and later ones.

    Args:
        features: (N, D), any float dtype, any device.
        labels: (N,) integers; gaps allowed.
        distance: "cosine" or "euclidean".
        anchors: (M,) ascending positions of the samples to measure, against all rows; all samples if None.

    Returns:
        A value in [0, 1], higher is better: the mean over samples, not over classes. `per_sample` (N,) or (M,) float64, NaN for
        the only member of its class, which is left out. Rows at equal distances are ordered by position.

    Raises:
        UndefinedError: no class has two rows.
        UsageError: an unknown distance.

    Reference: of the protocol, Musgrave et al. 2020, arXiv:2003.08505.
    """
    reciprocal = 1 / shared_ranks(features, labels, distance=distance, anchors=anchors).first
    return Result(mean_over_retrievable(reciprocal), reciprocal)
