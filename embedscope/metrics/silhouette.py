"""The silhouette, exact over all pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedscope.metrics import metric
from embedscope.ops.class_distances import ClassDistances, class_distances, class_moments
from embedscope.ops.silhouettes import hard_silhouette

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.class_moments import MomentsOfClasses
    from embedscope.ops.rows import Rows


def silhouette_samples(features: Rows, labels: Tensor, *, distance: str = "euclidean") -> Tensor:
    """Compute s(i) = (b(i) - a(i)) / max(a(i), b(i)) of every sample.

    a is the mean distance to the other samples of the own class, b the smallest mean distance to another class.

    Args:
        features: (N, D), any float dtype, any device; used as they are, not normalised.
        labels: (N,) integers; gaps allowed.
        distance: "euclidean", "sqeuclidean" or "cosine".

    Returns:
        (N,) float64 in [-1, 1], higher is better. 0 for the only member of its class (scikit-learn's convention), and where
        a sample coincides with its own class and another one. Precision: see `ops.class_distances`.

    Raises:
        UndefinedError: fewer than two classes.

    Reference: Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7.
    """
    return _samples(class_distances(features, labels, distance=distance))


def _samples(found: ClassDistances) -> Tensor:
    return hard_silhouette(found.own, found.other, found.alone)


def silhouette_details(
    features: Rows,
    labels: Tensor,
    *,
    distance: str = "euclidean",
    gathered: MomentsOfClasses | None = None,
    anchors: Tensor | None = None,
) -> dict[str, Any]:
    """Compute the mean, the values of the samples and their nearest other classes at once; a note where all rows are equal."""
    moments = gathered.moments if gathered else None
    found = class_distances(features, labels, distance=distance, moments=moments, anchors=anchors)
    samples = _samples(found)
    nothing = not bool(found.own.any()) and not bool(found.other.any())
    note = "all rows are equal: every distance is 0" if nothing else None
    return {"value": samples.mean(), "per_sample": samples, "nearest": found.nearest, "note": note}


@metric(
    better="higher",
    bounds=(-1, 1),
    invariant=("translation", "rotation", "scale"),
    reference="doi:10.1016/0377-0427(87)90125-7",
    details=silhouette_details,
    gathers=class_moments,
)
def silhouette(features: Rows, labels: Tensor, *, distance: str = "euclidean") -> Tensor:
    """How much closer samples are to their own class than to the nearest other one: mean of `silhouette_samples`.

    (N, D), (N,) -> 0-d float64 tensor in [-1, 1], higher is better. Exact: equals scikit-learn's `silhouette_score`.
    """
    return silhouette_samples(features, labels, distance=distance).mean()
