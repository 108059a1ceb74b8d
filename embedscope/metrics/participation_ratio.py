"""The participation ratio: how many dimensions the variance is spread over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.gathering import gathered
from embedscope.ops.spectrum import covariance

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


@metric(
    better=None,
    bounds=(1, None),
    invariant=("translation", "rotation", "scale"),
    reference="doi:10.1101/214262",
    needs=covariance,
    interval=False,
)
def participation_ratio(features: Rows, labels: Tensor) -> Result:
    """Participation ratio of the covariance eigenvalues.

    (sum of eigenvalues)² / sum of squared eigenvalues.
    (N, D), labels unused -> a value in [1, min(N - 1, D)]. UndefinedError where all rows are equal.
    Gao et al. 2017, doi:10.1101/214262.
    """
    eigenvalues = gathered(covariance, features, labels).eigenvalues()
    if eigenvalues.sum() <= 0:
        raise UndefinedError("all rows are equal: no dimension is used")
    share = eigenvalues / eigenvalues.sum()
    return Result(float(1 / share.square().sum()))
