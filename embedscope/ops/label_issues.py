"""Which labels are probably wrong, from class probabilities that were predicted without the row itself.

A row of the true class i is labeled y with probability (1 - e) [i = y] + e C(i, y): e is the share of wrong labels, and C,
with a zero diagonal, says which classes are taken for one another. The true class has probabilities
t = softmax(sum_s w_s log p_s) over sources s of evidence, such as a probe and the neighbors. The weights w_s >= 0 and e are
those under which the given labels are most likely; C is counted from the result, and both steps are repeated. So the estimate
tells an ambiguous row (low t for every class) from a wrong label (high t for another class).

Where classes overlap, a high e with certain classes and a low e with uncertain ones explain the labels about as well. Then the
lowest e is taken that the labels do not reject and that leaves the evidence strong. In classes that hardly separate, with many
wrong labels, the probabilities may still be too high.

The noise model is that of confident learning (arXiv:1911.00068) with one rate, fitted by likelihood instead of counted at
thresholds; pooling logarithms of calibrated predictions is standard (Genest and Zidek 1986, doi:10.1214/ss/1177013825).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import softplus

from embedscope.errors import UndefinedError
from embedscope.ops import blocks
from embedscope.ops.class_moments import class_sums
from embedscope.ops.probes import minimized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# Rows times classes that the weights and the rate are fitted on, and the fewest and the most rows: enough for four numbers.
_FITTED_ELEMENTS, _FEWEST_ROWS, _MOST_ROWS = 2_000_000, 2_000, 20_000
_ROUNDS = 4
_STEPS = 60
_FLOOR = 1e-6  # least probability: one source alone cannot rule a class out

# Log-odds at which no label is wrong, and by how much the log-likelihood falls where a rate is rejected (95%, one-sided: 1.35).
_NO_ERRORS = -14.0
_REJECTED = 2.0
_SHARP = 2.0  # sum of weights from which evidence counts as strong
_INFORMED = 5.0  # by how much evidence has to explain the labels better than their frequencies do
_HALVINGS = 8
_LEADS = 0.75  # share of a part from which a class leads it, and of a class that must be at home

# Labels that are flagged and right, on average, for other reasons than the noise model knows; and how many labels the estimate
# of the precision is trusted like.
_RIGHT = 2
_TRUSTED = 20

# What of the confusions is used to tell wrong labels, as a power of C: 1 is best where labels are wrong for one class only, and
# up to 0.013 of AUROC worse where difficult rows are mislabeled more often; 0 the other way round (benchmarks/issues.py).
_CONFUSION_POWER = 0.5


@dataclass(frozen=True)
class LabelCheck:
    """What the evidence says of N labels in K classes.

    Attributes:
        wrong: (N,) float64, probability that the given label is wrong, in [0, 1].
        suggested: (N,) int64, the most probable of the other classes.
        sure: (N,) float64, its probability.
        rate: estimated share of wrong labels among all.
        weights: (S,) float64, how much each source of evidence counts.
    """

    wrong: Tensor
    suggested: Tensor
    sure: Tensor
    rate: float
    weights: Tensor


@dataclass(frozen=True)
class _NoiseModel:
    weights: Tensor  # (S,)
    rate: float
    confusion: Tensor  # (K, K), rows sum to 1, zero diagonal

    def posterior(self, logs: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probabilities of the true class given row and label, and those given the row alone: (B, K) each."""
        plain = torch.softmax((self.weights[:, None, None] * logs).sum(dim=0), dim=1)
        noise = self.rate * self.confusion + (1 - self.rate) * torch.eye(len(self.confusion), dtype=plain.dtype)
        joint = plain * noise[:, given].T
        return joint / joint.sum(dim=1, keepdim=True), plain


def expected_precision(wrong: Tensor) -> tuple[float, float]:
    """Return which share of the flagged labels is expected to be wrong, and a lower bound of it: (n,) probabilities, n > 0.

    Two more labels are counted that are flagged and right: of difficult rows, which the noise model takes for errors. The bound
    is the 2.5% quantile of the beta distribution with this mean, of at most 20 labels: where the model is off, it is so for all
    of them. On 11 data sets with 3 to 340 wrong labels, 84% of 83 estimates for up to 60 of these were at most 0.1 too high
    (of the plain mean, 64%), 98% of the others, and the bound held in 92% and 100% (benchmarks/RESULTS.md). Where no label is
    wrong, both are too high.
    """
    from scipy.special import betaincinv

    share = float(wrong.sum()) / (len(wrong) + _RIGHT)
    trust = min(len(wrong) + _RIGHT, _TRUSTED)
    return share, float(betaincinv(share * trust, (1 - share) * trust, 0.025))


def neighbor_shares(indices: Tensor, given: Tensor, classes: int) -> Tensor:
    """Return the shares of the classes among the neighbors of each row, smoothed: (N, k), (N,) -> (N, K) float64.

    One neighbor is added that has the classes as often as the data have them, so that no share is 0.
    """
    count, k = indices.shape
    prior = torch.bincount(given, minlength=classes) / len(given)
    shares = prior.double().repeat(count, 1)
    shares.scatter_add_(1, given[indices], torch.ones(count, k, dtype=torch.float64))
    return shares / (k + 1)


def strangers(indices: Tensor, given: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return for rows among those of another class, how sure it is that they belong to it, and the class: (N,), (N,).

    In data that fall into parts that are not connected by neighbors, a class that is at home in one part, and of which a few
    rows are spread through another, is not ambiguous there: these rows are wrong labels, or the features fail.
    The noise model has one rate for all classes, and takes errors in one direction for ambiguity.

    Args:
        indices: (N, k) neighbors, whose union connects the rows.
        given: (N,) int64, the labels, from 0 to K - 1.
        classes: K.

    Returns:
        (N,) float64, the share of the leading class in the part for the rows of other classes that have their home elsewhere,
        0 for the others; and (N,) int64, the leading class. A class leads a part with 3 quarters of the rows. Home is where a
        class leads, and must contain 3 quarters of it. At most a quarter of a class is called wrong.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count, k = indices.shape
    links = coo_array((np.ones(count * k, bool), (np.repeat(np.arange(count), k), indices.numpy().ravel())), (count, count))
    parts = connected_components(links, directed=False)[1]
    held = np.zeros((parts.max() + 1, classes), np.int64)
    np.add.at(held, (parts, given.numpy()), 1)
    lead = held.argmax(axis=1)
    share = held.max(axis=1) / held.sum(axis=1)
    leads = np.zeros_like(held, bool)
    leads[np.arange(len(held)), lead] = share >= _LEADS
    settled = (held * leads).sum(axis=0) >= _LEADS * held.sum(axis=0)
    foreign = (share >= _LEADS)[parts] & (lead[parts] != given.numpy()) & settled[given.numpy()]
    return torch.from_numpy(np.where(foreign, share[parts], 0.0)), torch.from_numpy(lead[parts])


def check_labels(evidence: Sequence[Tensor], given: Tensor, *, seed: int = 0) -> LabelCheck:
    """Estimate for every row how probable it is that its label is wrong.

    Args:
        evidence: (N, K) probabilities of the classes by each source, predicted without the row's own label.
        given: (N,) int64, the labels, from 0 to K - 1; every class has rows.
        seed: of the rows that the model is fitted on, where there are too many.

    Returns:
        A LabelCheck.

    Raises:
        UndefinedError: the evidence says no more of the labels than how frequent they are.
    """
    classes = evidence[0].shape[1]
    most = min(_MOST_ROWS, max(_FEWEST_ROWS, _FITTED_ELEMENTS // classes))
    drawn = torch.arange(len(given))
    if len(drawn) > most:
        drawn = torch.randperm(len(given), generator=torch.Generator().manual_seed(seed))[:most].sort().values
    model = _fitted(_logs(evidence, drawn), given[drawn])
    softened = model.confusion**_CONFUSION_POWER
    model = _NoiseModel(model.weights, model.rate, softened / softened.sum(dim=1, keepdim=True))
    wrong, suggested, sure = [], [], []
    for block in blocks.row_slices(len(given), classes * 8 * (len(evidence) + 4)):
        here = given[block]
        posterior, _ = model.posterior(_logs(evidence, block), here)
        other = posterior.scatter(1, here[:, None], 0.0)
        best = other.max(dim=1)
        wrong.append(other.sum(dim=1).clamp(max=1))  # of the other classes: 1 - p would lose the small ones
        suggested.append(best.indices)
        sure.append(best.values)
    return LabelCheck(torch.cat(wrong), torch.cat(suggested), torch.cat(sure), model.rate, model.weights)


def _logs(evidence: Sequence[Tensor], rows: Tensor | slice) -> Tensor:
    return torch.stack([(each[rows].double() + _FLOOR).log() for each in evidence])  # (S, B, K)


def _fitted(logs: Tensor, given: Tensor) -> _NoiseModel:
    # Together the weights begin at 2: out-of-sample evidence about noisy labels says less than it could about the true classes.
    begin = torch.full((len(logs),), 2.0 / len(logs), dtype=torch.float64).expm1().log()
    weights, odds = begin, torch.tensor([-3.0], dtype=torch.float64)
    confusion = _confusions(torch.softmax(2 * logs.mean(dim=0), dim=1), given)
    for _ in range(_ROUNDS):
        found, likelihood = _most_likely(torch.cat([weights, odds]), _Labeled(logs, given, confusion))
        weights, odds = found[:-1], found[-1:]
        model = _NoiseModel(softplus(weights), float(torch.sigmoid(odds)), confusion)
        confusion = _confusions(model.posterior(logs, given)[0], given)
    weights, odds = _lowest_rate(begin, weights, odds, likelihood, _Labeled(logs, given, model.confusion))
    return _NoiseModel(softplus(weights), float(torch.sigmoid(odds)), confusion)


@dataclass(frozen=True)
class _Labeled:
    """Evidence (S, B, K), labels (B,) and which classes are labeled as others (K, K)."""

    logs: Tensor
    given: Tensor
    confusion: Tensor

    def log_likelihood(self, weights: Tensor, odds: Tensor) -> Tensor:
        """Sum the log-likelihood of the labels and of weights; these before softplus, and the log-odds of a wrong label."""
        plain = torch.softmax((softplus(weights)[:, None, None] * self.logs).sum(dim=0), dim=1)
        rate = torch.sigmoid(odds)
        right = plain[torch.arange(len(self.given)), self.given]
        likelihood = (1 - rate) * right + rate * (plain * self.confusion.T[self.given]).sum(dim=1)
        # One unit per weight keeps them finite where the evidence is perfect. Where all rows are equally certain, weak evidence
        # explains wrong labels as well as a rate does: the second penalty decides for the rate.
        total = softplus(weights).sum()
        prior = -total - (_SHARP - total).clamp(min=0).square()
        return likelihood.clamp(min=torch.finfo(torch.float64).tiny).log().sum() + prior


def _most_likely(start: Tensor, labeled: _Labeled, odds: Tensor | None = None) -> tuple[Tensor, float]:
    """Maximize the likelihood over weights and odds, the last parameter, or over weights at given odds: parameters, maximum."""
    count = len(labeled.given)

    def loss(point: Tensor) -> tuple[float, Tensor]:
        with torch.enable_grad():  # a caller may have switched gradients off
            free = point.clone().requires_grad_(True)
            found = labeled.log_likelihood(free[:-1], free[-1:]) if odds is None else labeled.log_likelihood(free, odds)
            (slope,) = torch.autograd.grad(-found / count, free)
        return -float(found.detach()) / count, slope

    found = minimized(loss, start, slope=1e-6, gain=1e-8, steps=_STEPS)
    return found, -count * loss(found)[0]


def _lowest_rate(begin: Tensor, weights: Tensor, odds: Tensor, likelihood: float, labeled: _Labeled) -> tuple[Tensor, Tensor]:
    """Lower the odds as far as the labels do not reject it, with the best weights for them: weights, odds."""
    low, high = torch.full_like(odds, _NO_ERRORS), odds
    others, reached = _most_likely(begin, labeled, low)
    counts = torch.bincount(labeled.given).double()
    if reached <= float(torch.xlogy(counts, counts / counts.sum()).sum()) + _INFORMED:
        raise UndefinedError("the features do not tell the classes apart")
    if _kept(others, reached, likelihood):
        return others, low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        others, reached = _most_likely(begin, labeled, middle)
        if _kept(others, reached, likelihood):
            weights, high = others, middle
        else:
            low = middle
    return weights, high


def _kept(weights: Tensor, reached: float, likelihood: float) -> bool:
    """Say whether the labels do not reject a rate, and it does not take weak evidence to explain them."""
    return reached >= likelihood - _REJECTED and float(softplus(weights).sum()) >= _SHARP


def _confusions(posterior: Tensor, given: Tensor) -> Tensor:
    """Count how often a class is labeled as another, from the probabilities of the true classes: (B, K) -> (K, K)."""
    classes = posterior.shape[1]
    counts = class_sums(posterior, given, classes).T + 1 / classes  # (true, given)
    counts.fill_diagonal_(0)
    return counts / counts.sum(dim=1, keepdim=True)
