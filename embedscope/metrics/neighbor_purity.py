"""How many of the nearest neighbors have the own class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.metrics import Result, metric
from embedscope.ops.shared_neighbors import by_options, shared_neighbors

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


@metric(
    better="higher",
    bounds=(0, 1),
    invariant=("rotation", "scale", "row_scale"),
    reference="arXiv:1805.01978",
    neighbors=by_options,
    extrapolates=False,
)
def neighbor_purity(
    features: Rows, labels: Tensor, *, k: int = 10, distance: str = "cosine", anchors: Tensor | None = None
) -> Result:
    """Share of the k nearest neighbors in the sample's own class: mean over samples.

    No vote is taken: a sample with four of ten neighbors from its class counts 0.4. Some libraries call this kNN accuracy.

    Args:
        features: (N, D), any float dtype, any device.
        labels: (N,) integers; gaps allowed.
        k: how many neighbors; N - 1 if there are fewer.
        distance: "cosine" or "euclidean".
        anchors: (M,) ascending positions of the samples to measure, against all rows; all samples if None.

    Returns:
        A value in [0, 1], higher is better; `per_sample` (N,) or (M,) float64, 0 for the only member of its class. A class of
        fewer than k + 1 rows cannot reach 1.

    Raises:
        UndefinedError: fewer than two rows.
        UsageError: k is not a whole number from 1; an unknown distance.

    Reference: of the neighbors, Wu et al. 2018, arXiv:1805.01978.
    """
    k, distance = by_options(k=k, distance=distance)
    found = shared_neighbors(features, k, distance=distance, device=labels.device, anchors=anchors)
    own = labels if anchors is None else labels[anchors]
    purity = (labels[found.indices] == own[:, None]).double().mean(dim=1)
    return Result(float(purity.mean()), purity)
