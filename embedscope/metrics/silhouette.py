"""The silhouette, exact over all pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.metrics import Result, metric
from embedscope.ops.class_distances import class_distances, class_moments
from embedscope.ops.gathering import gathered
from embedscope.ops.influences import silhouette_influences
from embedscope.ops.silhouettes import hard_silhouette
from embedscope.ops.statistics import half_sample_bias

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


def _of_means(own: Tensor, others: Tensor, alone: Tensor) -> Tensor:
    return hard_silhouette(own, others.amin(dim=0), alone)


def silhouette_pseudo_values(features: Tensor, labels: Tensor, result: Result, *, fixed: bool, distance: str) -> Tensor:
    """Return the value, corrected for its bias, plus the influence of each row: (N, D), (N,) -> (N,) float64.

    The minimum over means of few rows is too small, and so is the silhouette; see `ops.influences` for the rest.
    """
    influences = silhouette_influences(features, labels, _of_means, distance=distance, hard=result.state)
    bias = half_sample_bias(
        result.value, lambda kept: silhouette(features[kept], labels[kept], distance=distance).value, labels
    )
    return result.value - bias + influences


@metric(
    better="higher",
    bounds=(-1, 1),
    invariant=("translation", "rotation", "scale"),
    reference="doi:10.1016/0377-0427(87)90125-7",
    needs=class_moments,
    pseudo_values=silhouette_pseudo_values,
)
def silhouette(features: Rows, labels: Tensor, *, distance: str = "euclidean", anchors: Tensor | None = None) -> Result:
    """How much closer samples are to their own class than to the nearest other class.

    The mean over samples of s(i) = (b - a) / max(a, b). a is the mean distance to the other samples of the own class, b the
    smallest mean distance to another class. Exact over all
    pairs: the value equals scikit-learn's `silhouette_score`.

    Args:
        features: (N, D), any float dtype, any device; used as they are, not normalized.
        labels: (N,) integers; gaps allowed.
        distance: "euclidean", "sqeuclidean" or "cosine".
        anchors: (M,) ascending positions of the samples to measure, against all rows; all samples if None.

    Returns:
        A value in [-1, 1], higher is better; `per_sample` (N,) or (M,) float64, 0 for the only member of its class
        (scikit-learn's convention) and where a sample coincides with its own class and another one; `nearest`, the labels of
        the nearest other classes. Precision: see `ops.class_distances`.

    Raises:
        UndefinedError: fewer than two classes.

    Reference: Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7.
    """
    moments = gathered(class_moments, features, labels, distance=distance)
    found = class_distances(
        features, labels, distance=distance, moments=None if moments is None else moments.moments, anchors=anchors
    )
    samples = hard_silhouette(found.own, found.other, found.alone)
    nothing = not bool(found.own.any()) and not bool(found.other.any())
    note = "all rows are equal: every distance is 0" if nothing else None
    return Result(float(samples.mean()), samples, found.nearest, note=note, state=found)


def silhouette_samples(features: Rows, labels: Tensor, *, distance: str = "euclidean") -> Tensor:
    """Return the silhouette of every sample: (N, D), (N,) -> (N,) float64 in [-1, 1]; see `silhouette`."""
    samples = silhouette(features, labels, distance=distance).per_sample
    assert samples is not None
    return samples
