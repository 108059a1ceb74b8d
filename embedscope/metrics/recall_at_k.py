"""Whether the nearest neighbors include one of the sample's own class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedscope.metrics import Result, metric
from embedscope.ops.class_moments import present_classes
from embedscope.ops.retrieval import check_retrievable, mean_over_retrievable
from embedscope.ops.shared_neighbors import by_options, shared_neighbors

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


@metric(
    better="higher",
    bounds=(0, 1),
    invariant=("rotation", "scale", "row_scale"),
    reference="arXiv:2003.08505",
    neighbors=by_options,
    extrapolates=False,
)
def recall_at_k(
    features: Rows, labels: Tensor, *, k: int = 1, distance: str = "cosine", anchors: Tensor | None = None
) -> Result:
    """Share of samples with at least one of their class among the k nearest neighbors.

    With k = 1, this is also precision at 1.

    Args:
        features: (N, D), any float dtype, any device.
        labels: (N,) integers; gaps allowed.
        k: how many neighbors; N - 1 if there are fewer.
        distance: "cosine" or "euclidean".
        anchors: (M,) ascending positions of the samples to measure, against all rows; all samples if None.

    Returns:
        A value in [0, 1], higher is better: the mean over samples, not over classes. `per_sample` (N,) or (M,) float64, 1 or 0;
        NaN for the only member of its class, which is left out.

    Raises:
        UndefinedError: no class has two rows.
        UsageError: k is not a whole number from 1; an unknown distance.

    Reference: Musgrave et al. 2020, arXiv:2003.08505.
    """
    k, distance = by_options(k=k, distance=distance)
    classes = present_classes(labels)
    check_retrievable(classes)
    found = shared_neighbors(features, k, distance=distance, device=labels.device, anchors=anchors)
    own = classes.index if anchors is None else classes.index[anchors]
    hit = (classes.index[found.indices] == own[:, None]).any(dim=1).double()
    hit[classes.counts[own] == 1] = torch.nan
    return Result(mean_over_retrievable(hit), hit)
