"""The Gini impurity of the channels: does a channel answer to one class, or to all of them alike?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from embedscope.errors import UndefinedError
from embedscope.metrics import metric
from embedscope.ops.channel_classes import ChannelSums, channel_gini, channel_sums, gathered_channel_sums

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


def gini_channels(features: Rows, labels: Tensor, *, activation: str = "abs", dead: str = "keep") -> Tensor:
    """Compute the impurity 1 - sum_j S-bar(i, j)² of every channel i, S-bar being its class means, normalised to sum 1.

    Args:
        features: (N, C) activations, any float dtype; best the mean of |activation| over positions, where there are any.
        labels: (N,) integers; gaps allowed.
        activation: "abs" (the authors' code), "relu", or "none" for what is non-negative already.
        dead: "keep" counts a channel that is zero everywhere as 1 (the authors' code), "ignore" leaves it out.

    Returns:
        (C,) float64 in [0, 1 - 1/K], lower is better: 0 answers to one class only. 1 for a dead channel.

    Reference: arXiv:2202.07073 eq. 5.
    """
    return channel_gini(gathered_channel_sums(features, labels, activation=activation).shares(), dead=dead)


def gini_details(
    features: Rows,
    labels: Tensor,
    *,
    activation: str = "abs",
    dead: str = "keep",
    gathered: ChannelSums | None = None,
) -> dict[str, Any]:
    """Compute the mean, the values of the channels, and how many channels each class owns, at once.

    A class owns the channels that answer most to it; a dead channel has no owner. A note counts the dead ones.
    """
    sums = gathered or gathered_channel_sums(features, labels, activation=activation)
    shares = sums.shares()  # (C, K)
    impurity = channel_gini(shares, dead=dead)
    if not len(impurity):
        raise UndefinedError(f"all {len(shares)} channels are dead")
    alive = shares.sum(dim=1) > 0
    silent = int((~alive).sum())
    owned = torch.bincount(shares[alive].argmax(dim=1), minlength=shares.shape[1])
    treated = "counted as impurity 1" if dead == "keep" else "left out"
    note = f"{silent} of {len(shares)} channels are dead, {treated}" if silent else None
    return {
        "value": impurity.mean(),
        "per_channel": impurity,
        "dead_channels": silent,
        "owned_channels": dict(zip(sums.classes.labels.tolist(), owned.tolist(), strict=True)),
        "note": note,
    }


@metric(
    better="lower",
    bounds=(0, 1),
    invariant=("scale", "channel_scale"),
    reference="arXiv:2202.07073",
    details=gini_details,
    gathers=channel_sums,
    reads="magnitudes",
)
def gini(features: Rows, labels: Tensor, *, activation: str = "abs", dead: str = "keep") -> Tensor:
    """How evenly a channel's activation is spread over the classes: mean of `gini_channels`.

    (N, C), (N,) -> 0-d float64 tensor in [0, 1], lower is better. UndefinedError if dead="ignore" leaves no channel.
    """
    value: Tensor = gini_details(features, labels, activation=activation, dead=dead)["value"]
    return value
