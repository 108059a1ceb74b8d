"""Precision among the R nearest rows."""

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
def r_precision(features: Rows, labels: Tensor, *, distance: str = "cosine", anchors: Tensor | None = None) -> Result:
    """R-precision: share of the own class among the R nearest rows.

    R is the number of other rows of the class. Unlike neighbor purity, every class can reach 1, whatever its size.

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

    Reference: Musgrave et al. 2020, arXiv:2003.08505.
    """
    share = shared_ranks(features, labels, distance=distance, anchors=anchors).r_precision
    return Result(mean_over_retrievable(share), share)
