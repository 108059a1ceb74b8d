"""Running minima over classes, hard and soft: the mean distances to a few classes at a time, never to all at once.

Soft minima of d_1 ... d_K' (arXiv:2604.08573 for the first):
    lse       -tau ln sum exp(-d / tau): between min - tau ln K' and min, so it can be negative
    lme       -tau ln mean exp(-d / tau): between min and mean, never negative
    weighted  mean weighted by softmax(-d / tau): between min and mean
    hard      the minimum
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope import distributed

if TYPE_CHECKING:
    from collections.abc import Callable

SOFT_MINIMA = ("lse", "lme", "weighted", "hard")


@dataclass(frozen=True)
class MinimumForm:
    """Which minimum: one of SOFT_MINIMA, and its temperature in units of the distance (not used by "hard")."""

    form: str = "hard"
    tau: float = 1.0


HARD = MinimumForm()


def minimum(means: Tensor, form: MinimumForm) -> Tensor:
    """Reduce all at once, with gradients: (K, B) with inf at the own class -> (B,)."""
    if form.form == "hard":
        return means.amin(dim=0)
    if form.form == "weighted":
        weight = torch.softmax(means / -form.tau, dim=0)
        return (weight * means.masked_fill(means.isinf(), 0)).sum(dim=0)
    result = -form.tau * torch.logsumexp(means / -form.tau, dim=0)
    return result + form.tau * means.isfinite().sum(dim=0, dtype=means.dtype).log() if form.form == "lme" else result


class RunningMinimum:
    """The minimum over the classes seen so far, for N samples; and the nearest of these classes, hard in any case."""

    def __init__(self, rows: int, form: MinimumForm, device: torch.device) -> None:
        self.form = form
        self.lowest = torch.full((rows,), torch.inf, dtype=torch.float64, device=device)
        self.nearest = torch.full((rows,), -1, dtype=torch.int64, device=device)
        self.log = torch.full((rows,), -torch.inf, dtype=torch.float64, device=device)
        self.mean = torch.zeros(rows, dtype=torch.float64, device=device)

    def update(self, rows: slice, classes: slice, means: Tensor) -> None:
        """Take in the mean distances of some rows to some classes: (M, B) float64, inf at a row's own class."""
        lowest, nearest = means.min(dim=0)
        closer = lowest < self.lowest[rows]
        self.lowest[rows] = torch.where(closer, lowest, self.lowest[rows])
        self.nearest[rows] = torch.where(closer, nearest + classes.start, self.nearest[rows])
        if self.form.form == "hard":
            return
        log = torch.logsumexp(-means / self.form.tau, dim=0)
        total = torch.logaddexp(self.log[rows], log)
        if self.form.form == "weighted":
            weight = torch.exp(-means / self.form.tau - torch.where(log.isinf(), 0, log))
            mean = (weight * means.masked_fill(means.isinf(), 0)).sum(dim=0)
            known = torch.where(total.isinf(), 0, total)
            self.mean[rows] = self.mean[rows] * (self.log[rows] - known).exp() + mean * (log - known).exp()
        self.log[rows] = total

    def replace(self, positions: Tensor, other: RunningMinimum) -> None:
        """Put the minima of (n,) other samples in the place of those at these positions."""
        self.lowest[positions], self.nearest[positions] = other.lowest, other.nearest
        self.log[positions], self.mean[positions] = other.log, other.mean

    def selected(self, positions: Tensor) -> RunningMinimum:
        """Return the minima of the samples at (n,) positions, in that order."""
        return self._with(lambda tensor: tensor[positions])

    def of_all_processes(self) -> RunningMinimum:
        """Put the samples of all processes together, in the order of their ranks."""
        return self._with(distributed.all_gather)

    def _with(self, change: Callable[[Tensor], Tensor]) -> RunningMinimum:
        found = RunningMinimum(0, self.form, self.lowest.device)
        found.lowest, found.nearest = change(self.lowest), change(self.nearest)
        found.log, found.mean = change(self.log), change(self.mean)
        return found

    def result(self, num_others: int) -> Tensor:
        """Return the minimum of every sample over `num_others` classes: (N,) float64."""
        if self.form.form == "hard":
            return self.lowest
        if self.form.form == "weighted":
            return self.mean
        shift = self.form.tau * math.log(num_others) if self.form.form == "lme" else 0.0
        return -self.form.tau * self.log + shift


def take_in(
    found: RunningMinimum, own: Tensor, rows: slice, classes: slice, sums: Tensor, counts: Tensor, index: Tensor
) -> None:
    """Reduce complete class sums (M, B) into the minima, and add those of a sample's own class to its own sum instead.

    `counts` (K,) and `index` (N,) are of all classes and all samples that `found` and `own` hold.
    """
    means = sums / counts[classes, None]
    mine = index[rows] - classes.start
    inside = ((mine >= 0) & (mine < len(sums))).nonzero().squeeze(1)
    own[rows.start + inside] += sums[mine[inside], inside]
    means[mine[inside], inside] = torch.inf
    found.update(rows, classes, means)
