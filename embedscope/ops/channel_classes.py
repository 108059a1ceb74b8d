"""How the activation of each channel is shared among the classes: behind the Gini impurity and the class-histogram KL.

arXiv:2202.07073 eqs. 1-4. With the class mean s(i, j) of channel i over the samples of class j,
    S-bar(i, j) = s(i, j) / sum_k s(i, k)        (C, K), rows sum to 1; 0 for a dead channel
    H_S(j)      = sum_i S-bar(i, j) / total      (K,), the class histogram of the features
    H_Y(j)      = n_j / N                        (K,), that of the labels
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope import distributed
from embedscope.arguments import check_choice
from embedscope.errors import UndefinedError
from embedscope.ops.class_moments import class_sums

if TYPE_CHECKING:
    from embedscope.ops.class_moments import Classes

ACTIVATIONS = ("abs", "relu", "none")
DEAD = ("keep", "ignore")
DIRECTIONS = ("target_to_feature", "feature_to_target")

# What the authors' code adds to the mass of a class, so that a silent class has a finite logarithm.
HISTOGRAM_EPS = 1e-10


def activate(values: Tensor, activation: str) -> Tensor:
    """Make activations non-negative, without which S-bar is not a distribution: "abs" (the authors' code), "relu" or "none"."""
    check_choice("activation", activation, ACTIVATIONS)
    if activation == "none" and bool((values < 0).any()):
        raise UndefinedError("activation='none' needs nonnegative features; use 'abs' or 'relu'")
    if activation == "none":
        return values
    return values.abs() if activation == "abs" else values.relu()


def batch_channel_shares(features: Tensor, classes: Classes, *, activation: str) -> Tensor:
    """Compute S-bar of one batch, with gradients: (B, C) of any sign -> (C, K), in float32 at least.

    The gradient of a channel grows as 1 / its total over the class means; a channel whose total is below 1e-10, or below the
    smallest normal number of the features' type, where activations have lost their digits, has none, like a dead one.
    """
    rows = features if features.dtype == torch.float64 else features.float()
    means = class_sums(activate(rows, activation), classes.index, len(classes)) / classes.counts[:, None]  # (K, C)
    faint = means.sum(dim=0) < max(1e-10, torch.finfo(features.dtype).tiny)
    return _normalized(torch.where(faint, means.detach(), means))


class ChannelSums:
    """Gathers the sum of the activations of each channel over each class, in float64."""

    def __init__(self, classes: Classes, width: int, device: torch.device, activation: str) -> None:
        self.classes, self.activation = classes, check_choice("activation", activation, ACTIVATIONS)
        self.sums = torch.zeros(len(classes), width, dtype=torch.float64, device=device)

    def take(self, rows: slice, block: Tensor) -> None:
        """Take in (B, C) activations."""
        self.sums += class_sums(activate(block, self.activation), self.classes.index[rows], len(self.classes))

    def fold(self) -> None:
        """Merge with the other processes."""
        self.sums = distributed.all_reduce_object(self.sums, torch.add)

    def shares(self) -> Tensor:
        """Return S-bar: (C, K)."""
        return _normalized(self.sums / self.classes.counts[:, None])


def channel_sums(classes: Classes, width: int, device: torch.device, *, activation: str) -> ChannelSums:
    """Make a gatherer for the rows of these classes."""
    return ChannelSums(classes, width, device, activation)


def _normalized(means: Tensor) -> Tensor:
    # (K, C) class means -> (C, K) shares; a dead channel, whose total is 0, has none.
    total = means.sum(dim=0)
    return torch.where(total == 0, 0, means / torch.where(total == 0, 1, total)).T


def channel_gini(shares: Tensor, *, dead: str) -> Tensor:
    """Compute the impurity 1 - sum_j S-bar(i, j)² of each channel: (C, K) -> (C,), or fewer with dead="ignore".

    In [0, 1 - 1/K] for a channel that is active; exactly 1 for a dead one, which "ignore" leaves out.
    """
    check_choice("dead", dead, DEAD)
    impurity = 1 - shares.square().sum(dim=1)
    return impurity[shares.sum(dim=1) != 0] if dead == "ignore" else impurity


def class_histograms(shares: Tensor, classes: Classes) -> tuple[Tensor, Tensor]:
    """Compute H_S and H_Y over the classes present: (C, K) -> (K,), (K,)."""
    mass = shares.sum(dim=0)  # (K,)
    counts = classes.counts.to(mass.dtype)
    return (mass + HISTOGRAM_EPS) / mass.sum().clamp(min=HISTOGRAM_EPS), counts / counts.sum()


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Compute the Kullback-Leibler divergence KL(p || q) in nats: (K,), (K,) -> scalar >= 0; 0 ln 0 is 0."""
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum().clamp(min=0)


def histogram_divergence(feature: Tensor, label: Tensor, *, direction: str) -> Tensor:
    """Compute KL(H_Y || H_S), the direction of the authors' code, or KL(H_S || H_Y), that of the paper's notation."""
    check_choice("direction", direction, DIRECTIONS)
    return divergence(label, feature) if direction == "target_to_feature" else divergence(feature, label)
