"""Mean average precision at R."""

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
def map_at_r(features: Rows, labels: Tensor, *, distance: str = "cosine", anchors: Tensor | None = None) -> Result:
    """Mean average precision at R: how high the own class ranks among R neighbors.

    R is the number of other rows of the sample's class. AP@R = (1 / R) sum over i <= R of P(i) rel(i), where P(i) is the
    precision among the i nearest rows and rel(i) is 1 if the i-th has the sample's class. 1 if every class is nearer to
    itself than to any other row.

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
    average = shared_ranks(features, labels, distance=distance, anchors=anchors).average
    return Result(mean_over_retrievable(average), average)
