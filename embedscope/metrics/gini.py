"""The Gini impurity of the channels: does a channel respond to one class, or to all of them alike?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.channel_classes import channel_gini, channel_sums
from embedscope.ops.channel_jackknife import gini_without_each, pseudo_values
from embedscope.ops.gathering import gathered
from embedscope.text import counted

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


def gini_pseudo_values(features: Tensor, labels: Tensor, result: Result, *, fixed: bool, activation: str, dead: str) -> Tensor:
    """Return the jackknife pseudo-values of the mean impurity: (N, C), (N,) -> (N,) float64."""
    return pseudo_values(result.value, gini_without_each(result.state, features, dead=dead))


@metric(
    better="lower",
    bounds=(0, 1),
    invariant=("scale", "channel_scale"),
    reference="arXiv:2202.07073",
    needs=channel_sums,
    reads="magnitudes",
    pseudo_values=gini_pseudo_values,
    aliases=("gini_impurity",),
)
def gini(features: Rows, labels: Tensor, *, activation: str = "abs", dead: str = "keep") -> Result:
    """Gini impurity of a channel's activation over the classes: mean over channels.

    The impurity of channel i is 1 - sum_j S-bar(i, j)², S-bar being its class means, normalized to sum 1.

    Args:
        features: (N, C) activations, any float dtype; best the mean of |activation| over positions, if any.
        labels: (N,) integers; gaps allowed.
        activation: "abs" (the authors' code), "relu", or "none" for what is non-negative already.
        dead: "keep" counts a channel that is zero everywhere as 1 (the authors' code), "ignore" leaves it out.

    Returns:
        A value in [0, 1], lower is better. `arrays`: "per_channel" (C,) float64 in [0, 1 - 1/K], 0 for a channel that answers
        to one class only and 1 for a dead one; "dead_channels", their number. `by_class`: "owned_channels", how many channels
        answer most to a class; a dead channel has no owner.

    Raises:
        UndefinedError: dead="ignore" leaves no channel.

    Reference: arXiv:2202.07073 eq. 5.
    """
    sums = gathered(channel_sums, features, labels, activation=activation)
    shares = sums.shares()  # (C, K)
    impurity = channel_gini(shares, dead=dead)
    if not len(impurity):
        raise UndefinedError(f"all {len(shares)} channels are dead")
    alive = shares.sum(dim=1) > 0
    silent = int((~alive).sum())
    owned = torch.bincount(shares[alive].argmax(dim=1), minlength=shares.shape[1])
    treated = "counted as impurity 1" if dead == "keep" else "left out"
    return Result(
        float(impurity.mean()),
        arrays={"per_channel": impurity, "dead_channels": silent},
        by_class={"owned_channels": dict(zip(sums.classes.labels.tolist(), owned.tolist(), strict=True))},
        note=f"{counted(silent, 'is', 'are', of=counted(len(shares), 'channel'))} dead, {treated}" if silent else None,
        state=sums,
    )


def gini_channels(features: Rows, labels: Tensor, **options: Any) -> Tensor:
    """Return the impurity of every channel: (N, C), (N,) -> (C,) float64 in [0, 1]; options as of `gini`."""
    channels: Tensor = gini(features, labels, **options).arrays["per_channel"]
    return channels
