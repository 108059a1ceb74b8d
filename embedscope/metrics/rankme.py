"""RankMe: the effective rank of the features about the origin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.gathering import gathered
from embedscope.ops.spectrum import covariance, entropy_rank

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows

# The paper's, added to every normalized singular value.
_EPS = 1e-7


@metric(
    better=None,
    bounds=(1, None),
    invariant=("rotation", "scale"),
    reference="arXiv:2210.02885",
    needs=covariance,
    interval=False,
)
def rankme(features: Rows, labels: Tensor) -> Result:
    """RankMe: exp of the entropy of the uncentered singular values.

    The singular values are normalized to sum 1, plus 1e-7.
    (N, D), labels unused -> a value, about 1 to min(N, D). The paper finds that higher values go with better linear probes of
    joint-embedding methods; noise ranks highest of all, so no direction is claimed here.
    UndefinedError where all features are zero. arXiv:2210.02885 eq. 1.
    """
    singular = gathered(covariance, features, labels).second_moment_eigenvalues().sqrt()
    if singular.sum() <= 0:
        raise UndefinedError("all features are zero: no dimension is used")
    return Result(float(entropy_rank(singular / singular.sum() + _EPS)))
