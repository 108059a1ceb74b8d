"""The soft silhouette: what the silhouette loss optimises, as a measurement over all pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedscope.errors import check_flag
from embedscope.metrics import metric
from embedscope.ops.class_distances import class_distances, class_moments
from embedscope.ops.silhouettes import soft_form
from embedscope.ops.silhouettes import soft_silhouette as softened

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.class_moments import MomentsOfClasses
    from embedscope.ops.rows import Rows


def soft_silhouette_samples(
    features: Rows,
    labels: Tensor,
    *,
    tau_s: float = 0.1,
    tau_m: float = 0.1,
    softmin: str = "lse",
    distance: str = "euclidean",
    normalize: bool = True,
) -> Tensor:
    """Compute the soft silhouette s(i) = (b - a) / softmax(a, b) of every sample.

    b is a soft minimum of the mean distances to the other classes, and the maximum of a and b is a log-sum-exp.

    Args:
        features: (N, D), any float dtype, any device.
        labels: (N,) integers; gaps allowed.
        tau_s: temperature of the soft minimum, in units of the distance, > 0.
        tau_m: temperature of the soft maximum, > 0.
        softmin: "lse" (the paper's), "lme", "weighted" or "hard"; see `ops.minima`.
        distance: "euclidean", "sqeuclidean" or "cosine".
        normalize: divide every row by its length first, so that distances lie in [0, 2] and a temperature has a meaning.

    Returns:
        (N,) float64 below 1, higher is better; 0 for the only member of its class. With "lse", b < 0 is possible where the
        nearest class is closer than tau_s ln(K - 1), and s is then unbounded below: values with different numbers of
        classes are not comparable. The other soft minima keep s in (-1, 1).

    Raises:
        UndefinedError: fewer than two classes.
        UsageError: a temperature that is not positive.

    Reference: arXiv:2604.08573. The paper gives neither distance nor temperatures: Euclidean on unit rows and 0.1 are ours.
    """
    samples: Tensor = soft_silhouette_details(
        features, labels, tau_s=tau_s, tau_m=tau_m, softmin=softmin, distance=distance, normalize=normalize
    )["per_sample"]
    return samples


def soft_silhouette_details(
    features: Rows,
    labels: Tensor,
    *,
    tau_s: float = 0.1,
    tau_m: float = 0.1,
    softmin: str = "lse",
    distance: str = "euclidean",
    normalize: bool = True,
    gathered: MomentsOfClasses | None = None,
    anchors: Tensor | None = None,
) -> dict[str, Any]:
    """Compute the mean and the values of the samples at once, with a note where the soft minimum is below zero."""
    found = class_distances(
        features,
        labels,
        distance=distance,
        normalize=check_flag("normalize", normalize),
        minimum=soft_form(tau_s, tau_m, softmin),
        anchors=anchors,
        moments=gathered.moments if gathered else None,
    )
    samples = softened(found.own, found.other, found.alone, tau=tau_m)
    below = float((found.other < 0).double().mean())
    note = (
        f"b(i) < 0 for {below:.1%} of the samples, where the value has no lower bound; softmin='lme' has none of these"
        if below
        else None
    )
    return {"value": samples.mean(), "per_sample": samples, "nearest": found.nearest, "note": note}


@metric(
    better="higher",
    bounds=(None, 1),
    invariant=("rotation", "scale", "row_scale"),
    reference="arXiv:2604.08573",
    details=soft_silhouette_details,
    gathers=class_moments,
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
) -> Tensor:
    """Silhouette with a soft minimum over classes, on unit rows: mean of `soft_silhouette_samples`.

    (N, D), (N,) -> 0-d float64 tensor below 1, higher is better. Minus this is the silhouette loss of the same rows.
    """
    return soft_silhouette_samples(
        features, labels, tau_s=tau_s, tau_m=tau_m, softmin=softmin, distance=distance, normalize=normalize
    ).mean()
