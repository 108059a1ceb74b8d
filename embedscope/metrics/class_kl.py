"""The divergence between how often a class occurs and how much of the channels it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.channel_classes import DIRECTIONS, channel_sums, class_histograms, histogram_divergence
from embedscope.ops.channel_jackknife import divergence_without_each, pseudo_values
from embedscope.ops.gathering import gathered
from embedscope.text import counted

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


def class_kl_pseudo_values(
    features: Tensor, labels: Tensor, result: Result, *, fixed: bool, activation: str, direction: str
) -> Tensor:
    """Return the jackknife pseudo-values of the divergence: (N, C), (N,) -> (N,) float64.

    Near its minimum a divergence is quadratic in the shares, and its error is not linear in the samples: of the K - 1 squares
    the bias is the sum of the expectations, and 2 / (K - 1) of its square their variance, which is added to the spread.
    """
    values = pseudo_values(result.value, divergence_without_each(result.state, features, direction=direction, fixed=fixed))
    center, count, classes = values.mean(), len(values), len(result.state.classes)
    linear = values.var() / count if count > 1 else values.new_tensor(float("nan"))
    quadratic = 2 * (result.value - center).square() / max(classes - 1, 1)
    return center + (values - center) * ((linear + quadratic) / linear.clamp(min=1e-300)).sqrt()


@metric(
    better="lower",
    bounds=(0, None),
    invariant=("scale", "channel_scale"),
    reference="arXiv:2202.07073",
    needs=channel_sums,
    reads="magnitudes",
    pseudo_values=class_kl_pseudo_values,
)
def class_kl(features: Rows, labels: Tensor, *, activation: str = "abs", direction: str = "target_to_feature") -> Result:
    """KL divergence between the class histograms of labels and features, in nats.

    The class histogram of the features is the share that each class has of the channels' mass, S-bar summed over channels.

    Args:
        features: (N, C) activations, any float dtype.
        labels: (N,) integers; gaps allowed.
        activation: "abs" (the authors' code), "relu" or "none".
        direction: "target_to_feature" is KL(labels || features), the authors' code; "feature_to_target" the paper's notation.

    Returns:
        A value >= 0, lower is better. A class that activates no channel has a mass of 1e-10 instead of 0, which makes the first
        direction large and keeps it finite. `arrays`: "directions", the value in both. `by_class`: "feature_histogram" and
        "label_histogram".

    Raises:
        UndefinedError: all channels are dead.

    Reference: arXiv:2202.07073 eqs. 6-7.
    """
    sums = gathered(channel_sums, features, labels, activation=activation)
    shares = sums.shares()
    if not bool(shares.any()):
        raise UndefinedError(f"all {len(shares)} channels are dead")
    feature, label = class_histograms(shares, sums.classes)
    names = sums.classes.labels.tolist()
    silent = int((feature < 1e-9).sum())
    return Result(
        float(histogram_divergence(feature, label, direction=direction)),
        arrays={"directions": {way: float(histogram_divergence(feature, label, direction=way)) for way in DIRECTIONS}},
        by_class={
            "feature_histogram": dict(zip(names, feature.tolist(), strict=True)),
            "label_histogram": dict(zip(names, label.tolist(), strict=True)),
        },
        note=f"{counted(silent, 'activates', 'activate', of=counted(len(names), 'class'))} no channel" if silent else None,
        state=sums,
    )
