"""The participation ratio: how many dimensions hold the variance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.errors import UndefinedError
from embedscope.metrics import metric
from embedscope.ops.spectrum import Covariance, covariance, gathered_covariance

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


@metric(
    better=None,
    bounds=(1, None),
    invariant=("translation", "rotation", "scale"),
    reference="doi:10.1101/214262",
    gathers=covariance,
)
def participation_ratio(features: Rows, labels: Tensor, *, gathered: Covariance | None = None) -> Tensor:
    """Participation ratio: (sum of eigenvalues)² / sum of squared eigenvalues of the covariance.

    (N, D), labels unused -> 0-d float64 tensor in [1, min(N - 1, D)]. UndefinedError where all rows are equal.
    Gao et al. 2017, doi:10.1101/214262.
    """
    eigenvalues = (gathered or gathered_covariance(features, labels.device)).eigenvalues()
    if eigenvalues.sum() <= 0:
        raise UndefinedError("all rows are equal: no dimension is used")
    share = eigenvalues / eigenvalues.sum()
    return 1 / share.square().sum()
