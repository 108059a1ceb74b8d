"""From mean distances to silhouette values: the hard form and the soft one.

Hard, Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7:   s = (b - a) / max(a, b)
Soft, arXiv:2604.08573:   b a soft minimum (see `ops.minima`),   s = (b - a) / (tau_m ln(exp(a / tau_m) + exp(b / tau_m)))
"""

from __future__ import annotations

import torch
from torch import Tensor

from embedscope.arguments import check_choice, check_number
from embedscope.ops.minima import SOFT_MINIMA, MinimumForm


def soft_form(tau_s: float, tau_m: float, softmin: str) -> MinimumForm:
    """Check the options of a soft silhouette; UsageError for a temperature that is not positive or an unknown minimum."""
    check_number("tau_m", tau_m, above=0)
    return MinimumForm(check_choice("softmin", softmin, SOFT_MINIMA), check_number("tau_s", tau_s, above=0))


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
