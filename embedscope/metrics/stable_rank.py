"""The stable rank: the variance in units of the largest direction's."""

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
    reference="arXiv:1501.01571",
    gathers=covariance,
)
def stable_rank(features: Rows, labels: Tensor, *, gathered: Covariance | None = None) -> Tensor:
    """Stable rank: squared Frobenius norm over squared spectral norm of the centred features.

    (N, D), labels unused -> 0-d float64 tensor in [1, min(N - 1, D)]. UndefinedError where all rows are equal.
    Tropp 2015, arXiv:1501.01571, section 2.1.15.
    """
    eigenvalues = (gathered or gathered_covariance(features, labels.device)).eigenvalues()
    if eigenvalues[0] <= 0:
        raise UndefinedError("all rows are equal: no dimension is used")
    return eigenvalues.sum() / eigenvalues[0]
