"""How many dimensions the embedding uses: the explained-variance curve of its principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope.arguments import check_number
from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.gathering import gathered
from embedscope.ops.spectrum import covariance

if TYPE_CHECKING:
    from embedscope.ops.rows import Rows

_THRESHOLDS = (0.9, 0.95, 0.99)


@metric(
    better=None,
    bounds=(1, None),
    invariant=("translation", "rotation", "scale"),
    reference="doi:10.1007/b98835",
    needs=covariance,
    interval=False,
    aliases=("n_components_95",),
)
def explained_variance(features: Rows, labels: Tensor | None = None, *, threshold: float = 0.95) -> Result:
    """Number of principal components that explain a share `threshold` of the variance.

    Args:
        features: (N, D), any float dtype; centered inside.
        labels: not read, only their device is.
        threshold: in (0, 1].

    Returns:
        A whole number in [1, min(N, D)]; neither direction is better. `arrays`: "curve" (min(N, D),) float64, the share of the
        variance in the first 1, 2, … components, ascending to 1; "components", how many hold 90, 95 and 99%; "threshold".

    Raises:
        UndefinedError: all rows are equal.

    Reference: Jolliffe 2002, doi:10.1007/b98835, section 6.1.1.
    """
    check_number("threshold", threshold, above=0, high=1)
    eigenvalues = gathered(covariance, features, labels).eigenvalues()
    total = eigenvalues.sum()
    if total <= 0:
        raise UndefinedError("all rows are equal: there is no variance to explain")
    curve = (eigenvalues / total).cumsum(dim=0).clamp(max=1)
    return Result(
        _components(curve, threshold),
        arrays={
            "threshold": threshold,
            "components": {str(share): _components(curve, share) for share in _THRESHOLDS},
            "curve": curve,
        },
    )


def _components(curve: Tensor, threshold: float) -> int:
    # A curve that meets the threshold exactly may miss it by rounding.
    return int(torch.argmax((curve >= threshold - 1e-12).int())) + 1


def explained_variance_curve(features: Rows, labels: Tensor | None = None) -> Tensor:
    """Return the share of the variance in the first 1, 2, … principal components: (N, D) -> (min(N, D),) float64."""
    curve: Tensor = explained_variance(features, labels).arrays["curve"]
    return curve
