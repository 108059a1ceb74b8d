"""Weights that make rare samples count more, by the likelihood of a sample's neighborhood."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.arguments import check_number
from embedscope.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def weights(likelihood: Tensor, eta: float = 1.0, gamma: float = 5.0) -> Tensor:
    """Compute (eta + (1 - p)^gamma) / (eta + 1), DatasetEquity's weight of a sample, arXiv:2308.09878: (N,) -> (N,).

    In [eta / (eta + 1), 1]: 1 for a sample that is next to unheard of, least for one that is certain. It multiplies a loss per
    sample, `(weights(p) * loss).mean()`; the authors do not divide by the sum of the weights.

    Args:
        likelihood: (N,) p in [0, 1], the share of the samples that lie in the sample's cluster, of the features or of
            another embedding; InputError for anything outside. A likelihood is given beforehand: it gets no gradient.
        eta: >= 0, how much every sample counts whatever its likelihood; with 0 the weight is (1 - p)^gamma.
        gamma: >= 0, how steeply the weight falls with the likelihood; 0 makes all weights 1.
    """
    eta, gamma = check_number("eta", eta, low=0), check_number("gamma", gamma, low=0)
    if not bool(((likelihood >= 0) & (likelihood <= 1)).all()):
        raise InputError("likelihoods must be numbers from 0 to 1")
    return (eta + (1 - likelihood.detach()) ** gamma) / (eta + 1)
