"""Which labels are probably wrong, from class probabilities that were predicted without the row itself.

A row of the true class i is labelled y with probability (1 - e) [i = y] + e C(i, y): e is the share of wrong labels, and C(i, y),
zero for i = y, says which classes are taken for one another. The true class has probabilities t = softmax(sum_s w_s log p_s) over
sources s of evidence, such as a probe and the neighbours. The weights w_s >= 0 and e are those under which the given labels are
most likely; C is counted from the result and both are repeated. So the estimate tells an ambiguous row (low t for every class)
from a wrong label (high t for another class), and clean data get an e of about 0.

The noise model is that of confident learning (arXiv:1911.00068) with one rate, fitted by likelihood instead of counted at
thresholds; pooling logarithms of calibrated predictions is standard (Genest and Zidek 1986, doi:10.1214/ss/1177013825).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import softplus

from embedscope.ops import blocks
from embedscope.ops.class_moments import class_sums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# Rows times classes that the weights and the rate are fitted on, and the fewest and the most rows: only three or four numbers are
# estimated.
_FITTED_ELEMENTS, _FEWEST_ROWS, _MOST_ROWS = 2_000_000, 2_000, 20_000
_ROUNDS = 4
_STEPS = 60
_FLOOR = 1e-6  # least probability: one source alone cannot rule a class out

# What of the confusions is used to tell wrong labels, as a power of C: 1 is best where labels are wrong for one class only, and
# up to 0.013 of AUROC worse where difficult rows are mislabelled more often; 0 the other way round (benchmarks/issues.py).
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


def neighbor_shares(indices: Tensor, given: Tensor, classes: int) -> Tensor:
    """Return the shares of the classes among the neighbours of each row, smoothed: (N, k), (N,) -> (N, K) float64.

    One neighbour is added that has the classes as often as the data have them, so that no share is 0.
    """
    count, k = indices.shape
    prior = torch.bincount(given, minlength=classes) / len(given)
    shares = prior.double().repeat(count, 1)
    shares.scatter_add_(1, given[indices], torch.ones(count, k, dtype=torch.float64))
    return shares / (k + 1)


def check_labels(evidence: Sequence[Tensor], given: Tensor, *, seed: int = 0) -> LabelCheck:
    """Estimate for every row how probable it is that its label is wrong.

    Args:
        evidence: (N, K) probabilities of the classes by each source, predicted without the row's own label.
        given: (N,) int64, the labels, from 0 to K - 1; every class has rows.
        seed: of the rows that the model is fitted on, where there are too many.

    Returns:
        A LabelCheck. Rows are exchangeable: their order changes nothing but which rows are drawn.
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
    sources = len(logs)
    rows = torch.arange(len(given))
    # Together the weights begin at 2: out-of-sample evidence about noisy labels says less than it could about the true classes.
    weights = torch.full((sources,), 2.0 / sources, dtype=torch.float64).expm1().log()
    parameters = torch.cat([weights, torch.tensor([-3.0], dtype=torch.float64)])
    posterior = torch.softmax(2 * logs.mean(dim=0), dim=1)
    confusion = _confusions(posterior, given)
    model = _NoiseModel(softplus(weights), 0.05, confusion)
    for _ in range(_ROUNDS):
        parameters = _most_likely(parameters, logs, given, rows, confusion)
        model = _NoiseModel(softplus(parameters[:-1]), float(torch.sigmoid(parameters[-1])), confusion)
        confusion = _confusions(model.posterior(logs, given)[0], given)
    return _NoiseModel(model.weights, model.rate, confusion)


def _most_likely(parameters: Tensor, logs: Tensor, given: Tensor, rows: Tensor, confusion: Tensor) -> Tensor:
    """Find the weights and the rate under which the given labels are most likely, with the confusions as they are."""
    free = parameters.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([free], max_iter=_STEPS, line_search_fn="strong_wolfe")
    by_given = confusion.T.contiguous()[given]  # (B, K): how often each class is labelled as this row is

    def loss() -> float:
        optimizer.zero_grad()
        plain = torch.softmax((softplus(free[:-1])[:, None, None] * logs).sum(dim=0), dim=1)
        rate = torch.sigmoid(free[-1])
        likelihood = (1 - rate) * plain[rows, given] + rate * (plain * by_given).sum(dim=1)
        value = -likelihood.clamp(min=torch.finfo(torch.float64).tiny).log().mean()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimizer.step(loss)
    return free.detach()


def _confusions(posterior: Tensor, given: Tensor) -> Tensor:
    """Count how often a class is labelled as another, from the probabilities of the true classes: (B, K) -> (K, K)."""
    classes = posterior.shape[1]
    counts = class_sums(posterior, given, classes).T + 1 / classes  # (true, given)
    counts.fill_diagonal_(0)
    return counts / counts.sum(dim=1, keepdim=True)
