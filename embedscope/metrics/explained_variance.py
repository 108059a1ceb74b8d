"""How many dimensions the embedding uses: the explained-variance curve of its principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from embedscope.errors import UndefinedError, check_number
from embedscope.metrics import metric
from embedscope.ops.spectrum import Covariance, covariance, gathered_covariance

if TYPE_CHECKING:
    from embedscope.ops.rows import Rows

_THRESHOLDS = (0.9, 0.95, 0.99)


def explained_variance_curve(features: Rows, labels: Tensor | None = None) -> Tensor:
    """Compute the share of the variance in the first 1, 2, … principal components.

    Args:
        features: (N, D), any float dtype; centred inside.
        labels: not used; metrics take them.

    Returns:
        (min(N, D),) float64, ascending to 1.

    Raises:
        UndefinedError: all rows are equal.

    Reference: Jolliffe 2002, doi:10.1007/b98835, section 6.1.1.
    """
    return _curve(gathered_covariance(features, None if labels is None else labels.device))


def _curve(gathered: Covariance) -> Tensor:
    eigenvalues = gathered.eigenvalues()
    total = eigenvalues.sum()
    if total <= 0:
        raise UndefinedError("all rows are equal: there is no variance to explain")
    return (eigenvalues / total).cumsum(dim=0).clamp(max=1)


def _components(curve: Tensor, threshold: float) -> Tensor:
    # A curve that meets the threshold exactly may miss it by rounding.
    return torch.argmax((curve >= threshold - 1e-12).int()) + 1


def explained_variance_details(
    features: Rows, labels: Tensor | None = None, *, threshold: float = 0.95, gathered: Covariance | None = None
) -> dict[str, Any]:
    """Compute the number of components, those for 90, 95 and 99 %, and the curve that they are read from."""
    check_number("threshold", threshold, above=0, high=1)
    curve = _curve(gathered or gathered_covariance(features, None if labels is None else labels.device))
    return {
        "value": _components(curve, threshold),
        "threshold": threshold,
        "components": {str(share): int(_components(curve, share)) for share in _THRESHOLDS},
        "curve": curve,
    }


@metric(
    better=None,
    bounds=(1, None),
    invariant=("translation", "rotation", "scale"),
    reference="doi:10.1007/b98835",
    details=explained_variance_details,
    gathers=covariance,
)
def explained_variance(features: Rows, labels: Tensor | None = None, *, threshold: float = 0.95) -> Tensor:
    """Number of principal components that hold a share `threshold` of the variance.

    (N, D) -> 0-d integer tensor in [1, min(N, D)]; neither direction is better. The curve is `explained_variance_curve`.
    """
    value: Tensor = explained_variance_details(features, labels, threshold=threshold)["value"]
    return value
