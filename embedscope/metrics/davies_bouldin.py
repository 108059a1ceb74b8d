"""The Davies-Bouldin index: how much the most similar classes overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedscope import distributed
from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.blocks import over_rows
from embedscope.ops.class_moments import class_sums, raw_moments
from embedscope.ops.gathering import gathered
from embedscope.ops.pairwise import squared_distances

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


@metric(
    better="lower",
    bounds=(0, None),
    invariant=("translation", "rotation", "scale"),
    reference="doi:10.1109/TPAMI.1979.4766909",
    needs=raw_moments,
)
def davies_bouldin(features: Rows, labels: Tensor) -> Result:
    """Overlap of each class with its most similar class: mean over classes.

    The mean over classes of max (s_i + s_j) / |mu_i - mu_j|. s is the mean distance of the rows of a class to its mean.

    Args:
        features: (N, D), any float dtype; read twice.
        labels: (N,) integers; gaps allowed.

    Returns:
        A value of at least 0, lower is better; it equals scikit-learn's `davies_bouldin_score`. `by_class`: "similarity", the
        maximum for each class.

    Raises:
        UndefinedError: fewer than two classes, every class has one row (scikit-learn raises ValueError too), or two classes
            have the same mean (scikit-learn leaves such a pair out).

    Reference: Davies and Bouldin 1979, doi:10.1109/TPAMI.1979.4766909.
    """
    gatherer = gathered(raw_moments, features, labels)
    moments, classes = gatherer.moments, gatherer.classes
    if len(classes) < 2:
        raise UndefinedError("there is only one class, with none to compare it with")
    if float(moments.counts.max()) == 1:
        raise UndefinedError("every class has one row: there is no spread within classes")
    means = moments.means
    total = torch.zeros(len(classes), dtype=torch.float64, device=means.device)
    for block, rows in over_rows(features, torch.float64, means.device):
        index = classes.index[block]
        total += class_sums(torch.linalg.vector_norm(rows - means[index], dim=1), index, len(classes))
    distributed.all_reduce([total])
    spread = total / moments.counts
    gaps = squared_distances(means - means.mean(dim=0), means - means.mean(dim=0)).clamp(min=0).sqrt().fill_diagonal_(torch.inf)
    if not bool(gaps.all()):
        raise UndefinedError("two classes have the same mean: no distance to divide by")
    worst = ((spread[:, None] + spread) / gaps).amax(dim=1)
    return Result(float(worst.mean()), by_class={"similarity": dict(zip(classes.labels.tolist(), worst.tolist(), strict=True))})
