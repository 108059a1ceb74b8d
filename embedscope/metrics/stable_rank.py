"""The stable rank: the variance in units of the largest direction's."""

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
    reference="arXiv:1501.01571",
    needs=covariance,
    interval=False,
)
def stable_rank(features: Rows, labels: Tensor) -> Result:
    """Stable rank: squared Frobenius over squared spectral norm, features centered.

    (N, D), labels unused -> a value in [1, min(N - 1, D)]. UndefinedError where all rows are equal.
    Tropp 2015, arXiv:1501.01571, section 2.1.15.
    """
    eigenvalues = gathered(covariance, features, labels).eigenvalues()
    if eigenvalues[0] <= 0:
        raise UndefinedError("all rows are equal: no dimension is used")
    return Result(float(eigenvalues.sum() / eigenvalues[0]))
