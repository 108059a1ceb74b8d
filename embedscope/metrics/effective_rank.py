"""The effective rank: how many dimensions the embedding uses, by entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.gathering import gathered
from embedscope.ops.spectrum import covariance, entropy_rank

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


@metric(
    better=None,
    bounds=(1, None),
    invariant=("translation", "rotation", "scale"),
    reference="arXiv:2210.02885",
    needs=covariance,
    interval=False,
)
def effective_rank(features: Rows, labels: Tensor) -> Result:
    """Effective rank: exp of the entropy of the centered singular values.

    The singular values are normalized to sum 1.
    (N, D), labels unused -> a value in [1, min(N - 1, D)]; min(N - 1, D) where all directions are used alike.
    UndefinedError where all rows are equal. Roy and Vetterli, EUSIPCO 2007; as
    in arXiv:2210.02885 section 3, of centered features.
    """
    singular = gathered(covariance, features, labels).eigenvalues().sqrt()
    if singular.sum() <= 0:
        raise UndefinedError("all rows are equal: no dimension is used")
    return Result(float(entropy_rank(singular / singular.sum())))
