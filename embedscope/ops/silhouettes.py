"""From mean distances to silhouette values: the hard form and the soft one.

Hard, Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7:   s = (b - a) / max(a, b)
Soft, arXiv:2604.08573:   b = -tau_s ln sum_c exp(-d(i, c) / tau_s),   s = (b - a) / (tau_m ln(exp(a / tau_m) + exp(b / tau_m)))
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from embedscope.errors import UsageError, check_choice

SOFT_MINIMA = ("lse", "lme", "weighted", "hard")


def soft_minimum(means: Tensor, *, tau: float, form: str) -> Tensor:
    """Reduce mean distances over the other classes: (B, K) with inf at the own class -> (B,).

    With K' other classes:
        lse       the paper's log-sum-exp: between min - tau ln K' and min, so it can be negative
        lme       log-mean-exp: between min and mean, never negative
        weighted  mean weighted by softmax(-d / tau): between min and mean
        hard      the minimum
    """
    if form == "hard":
        return means.amin(dim=1)
    if form == "weighted":
        weight = torch.softmax(-means / tau, dim=1)
        return (weight * means.masked_fill(means.isinf(), 0)).sum(dim=1)
    result = -tau * torch.logsumexp(-means / tau, dim=1)
    return result + tau * math.log(means.shape[1] - 1) if form == "lme" else result


def check_soft_options(tau_s: float, tau_m: float, softmin: str) -> None:
    """Raise UsageError for a temperature that is not positive or an unknown soft minimum."""
    check_choice("softmin", softmin, SOFT_MINIMA)
    for name, tau in (("tau_s", tau_s), ("tau_m", tau_m)):
        if not isinstance(tau, int | float) or not 0 < tau < math.inf:
            raise UsageError(f"{name} has to be a positive number, got {tau!r}")


def hard_silhouette(own: Tensor, other: Tensor, alone: Tensor) -> Tensor:
    """Compute (b - a) / max(a, b), in [-1, 1]: (N,) each -> (N,); 0 for an only member and where both distances are 0."""
    larger = torch.maximum(own, other)
    silhouette = (other - own) / larger.masked_fill(larger == 0, 1)
    return silhouette.masked_fill(alone, 0)


def soft_silhouette(own: Tensor, other: Tensor, alone: Tensor, *, tau: float) -> Tensor:
    """Compute (b - a) / softmax_tau(a, b): (N,) each -> (N,), below 1; unbounded below where b < 0. 0 for an only member.

    The denominator is at least max(a, b) and, since a >= 0, positive; far below zero, b leaves it too small for the dtype, so
    it is kept at the smallest normal number.
    """
    larger = tau * torch.logaddexp(own / tau, other / tau)
    silhouette = (other - own) / larger.clamp(min=torch.finfo(own.dtype).tiny)
    return silhouette.masked_fill(alone, 0)
