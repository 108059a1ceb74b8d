"""The soft silhouette: what the silhouette loss optimizes, as a measurement over all pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedscope.arguments import check_flag
from embedscope.metrics import Result, metric
from embedscope.ops.class_distances import class_distances, class_moments
from embedscope.ops.gathering import gathered
from embedscope.ops.influences import silhouette_influences
from embedscope.ops.minima import minimum
from embedscope.ops.silhouettes import soft_form
from embedscope.ops.silhouettes import soft_silhouette as softened
from embedscope.ops.statistics import half_sample_bias

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


def soft_silhouette_pseudo_values(
    features: Tensor,
    labels: Tensor,
    result: Result,
    *,
    fixed: bool,
    tau_s: float,
    tau_m: float,
    softmin: str,
    distance: str,
    normalize: bool,
) -> Tensor:
    """Return the value, corrected for its bias, plus the influence of each row: (N, D), (N,) -> (N,) float64."""
    form = soft_form(tau_s, tau_m, softmin)

    def of_means(own: Tensor, others: Tensor, alone: Tensor) -> Tensor:
        return softened(own, minimum(others, form), alone, tau=tau_m)

    influences = silhouette_influences(features, labels, of_means, distance=distance, normalize=normalize)
    options: dict[str, Any] = {"tau_s": tau_s, "tau_m": tau_m, "softmin": softmin, "distance": distance, "normalize": normalize}
    bias = half_sample_bias(result.value, lambda kept: soft_silhouette(features[kept], labels[kept], **options).value, labels)
    return result.value - bias + influences


@metric(
    better="higher",
    bounds=(None, 1),
    invariant=("rotation", "scale", "row_scale"),
    reference="arXiv:2604.08573",
    needs=class_moments,
    pseudo_values=soft_silhouette_pseudo_values,
)
def soft_silhouette(
    features: Rows,
    labels: Tensor,
    *,
    tau_s: float = 0.1,
    tau_m: float = 0.1,
    softmin: str = "lse",
    distance: str = "euclidean",
    normalize: bool = True,
    anchors: Tensor | None = None,
) -> Result:
    """Silhouette of the unit rows with a soft minimum over classes.

    The mean over samples of s(i) = (b - a) / softmax(a, b). b is a soft minimum of the mean distances to the other classes, and
    the maximum of a and b is a log-sum-exp. Minus the value is the silhouette loss of the same rows.

    Args:
        features: (N, D), any float dtype, any device.
        labels: (N,) integers; gaps allowed.
        tau_s: temperature of the soft minimum, in units of the distance, > 0.
        tau_m: temperature of the soft maximum, > 0.
        softmin: "lse" (the paper's), "lme", "weighted" or "hard"; see `ops.minima`.
        distance: "euclidean", "sqeuclidean" or "cosine".
        normalize: divide every row by its length first, so that distances lie in [0, 2] and a temperature has a meaning.
        anchors: (M,) ascending positions of the samples to measure, against all rows; all samples if None.

    Returns:
        A value below 1, higher is better; `per_sample` (N,) or (M,) float64, 0 for the only member of its class; `nearest`, the
        labels of the nearest other classes. With "lse", b < 0 is possible where the nearest class is closer than
        tau_s ln(K - 1), and s is then unbounded below: values with different numbers of classes are not comparable. The other
        soft minima keep s in (-1, 1).

    Raises:
        UndefinedError: fewer than two classes.
        UsageError: a temperature that is not positive.

    Reference: arXiv:2604.08573. The paper gives neither distance nor temperatures: Euclidean on unit rows and 0.1 are ours.
    """
    form = soft_form(tau_s, tau_m, softmin)
    normalize = check_flag("normalize", normalize)
    moments = gathered(class_moments, features, labels, distance=distance, normalize=normalize)
    found = class_distances(
        features,
        labels,
        distance=distance,
        normalize=normalize,
        minimum=form,
        anchors=anchors,
        moments=None if moments is None else moments.moments,
    )
    samples = softened(found.own, found.other, found.alone, tau=tau_m)
    below = float((found.other < 0).double().mean())
    note = (
        f"b(i) < 0 for {below:.1%} of the samples, where the value has no lower bound; softmin='lme' avoids this"
        if below
        else None
    )
    return Result(float(samples.mean()), samples, found.nearest, note=note)


def soft_silhouette_samples(features: Rows, labels: Tensor, **options: Any) -> Tensor:
    """Return the soft silhouette of every sample: (N, D), (N,) -> (N,) float64 below 1; options as of `soft_silhouette`."""
    samples = soft_silhouette(features, labels, **options).per_sample
    assert samples is not None
    return samples
