"""Gini impurity and class-histogram KL with each row left out in turn, for the jackknife: exact and without N passes.

Leaving out a row changes the mean of one class in each channel, and so one term of that channel's total: O(N C) for the
impurity and one product, O(N C K), for the histograms. A class whose only row is left out activates no channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope.ops.blocks import over_all_rows
from embedscope.ops.channel_classes import HISTOGRAM_EPS, activate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedscope.ops.channel_classes import ChannelSums
    from embedscope.ops.rows import Rows


def pseudo_values(value: float, without: Tensor) -> Tensor:
    """Turn a value and its leave-one-out values, (N,), into jackknife pseudo-values (N,): N value - (N - 1) without.

    Their mean is the value corrected for its bias, and their standard error is that of the value
    (Efron 1982, doi:10.1137/1.9781611970319, chapters 2 and 3).
    """
    return len(without) * value - (len(without) - 1) * without


def gini_without_each(sums: ChannelSums, features: Rows, *, dead: str) -> Tensor:
    """Compute the mean impurity of the channels without each row: sums of (N, C) features -> (N,) float64."""
    means = sums.sums / sums.classes.counts[:, None]  # (K, C)
    squares = means.square().sum(dim=0)  # (C,)
    result = torch.empty(len(sums.classes.index), dtype=torch.float64, device=means.device)
    for block, mean, left, total in _without_each(sums, features, means):
        impurity = 1 - (squares - mean.square() + left.square()) / total.square()  # (B, C), 1 - nan where a channel is dead
        alive = total > 0
        kept = torch.where(alive, impurity, 1.0).mean(dim=1)
        if dead == "ignore":
            kept = torch.where(alive, impurity, 0.0).sum(dim=1) / alive.sum(dim=1).clamp(min=1)
        result[block] = kept
    return result


def divergence_without_each(sums: ChannelSums, features: Rows, *, direction: str, fixed: bool) -> Tensor:
    """Compute the divergence of the class histograms without each row: sums of (N, C) features -> (N,) float64.

    With `fixed`, the histogram of the labels is given, and stays as it is.
    """
    classes = sums.classes
    means = sums.sums / classes.counts[:, None]  # (K, C)
    result = torch.empty(len(classes.index), dtype=torch.float64, device=means.device)
    for block, _, left, total in _without_each(sums, features, means):
        here, places = classes.index[block], torch.arange(block.stop - block.start, device=means.device)
        shares = torch.where(total > 0, 1 / total, 0.0)  # (B, C)
        mass = shares @ means.T  # (B, K)
        mass[places, here] = (shares * left).sum(dim=1)
        feature = (mass + HISTOGRAM_EPS) / mass.sum(dim=1, keepdim=True).clamp(min=HISTOGRAM_EPS)
        counts = classes.counts.double().repeat(len(here), 1)
        if not fixed:
            counts[places, here] -= 1
        label = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
        p, q = (label, feature) if direction == "target_to_feature" else (feature, label)
        # A class without rows has no part of either sum.
        terms = torch.where(counts > 0, torch.xlogy(p, p) - torch.xlogy(p, q), 0.0)
        result[block] = terms.sum(dim=1).clamp(min=0)
    return result


def _without_each(sums: ChannelSums, features: Rows, means: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Give blocks with the mean of each row's class, that mean without the row, and the total of means then: (B, C) each."""
    total = means.sum(dim=0)
    for block, rows in over_all_rows(features, torch.float64, means.device, copies=6, description="intervals"):
        here = sums.classes.index[block]
        counts = sums.classes.counts[here, None]
        mean = means[here]
        left = (sums.sums[here] - activate(rows, sums.activation)).clamp(min=0) / (counts - 1).clamp(min=1)
        left = torch.where(counts > 1, left, 0.0)
        # Rounding leaves a channel that only this row activates at about eps of what it was.
        others = (total - mean + left).clamp(min=0)
        yield block, mean, left, torch.where(others <= 1e-14 * total, 0.0, others)
