"""Whether two sets of rows come from one distribution: MMD with a permutation null, and the area under an ROC curve.

The null is of the pooled rows: their division into two sets is drawn anew. A null from one of the sets alone lacks the
variation of the other and always alarms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# From how many divisions that reach a value their share is its probability, and how far beyond all of them a fit is trusted.
_FEW_REACHED = 10
_EXTRAPOLATED = 100


@dataclass(frozen=True)
class PermutationTest:
    """A statistic of two sets of rows, and its values for random divisions of the rows.

    Attributes:
        value: of the sets as they are.
        null95: the value that 95% of random divisions stay below.
        p_value: share of divisions, this one counted, with at least the value; at least 1 / (permutations + 1), unless the tail
            was fitted.
    """

    value: float
    null95: float
    p_value: float


def rbf_kernel(rows: Tensor) -> Tensor:
    """Return exp(-|x - y|² / (2 s²)) with s the median distance of two rows: (N, D) -> (N, N) float64.

    The median heuristic (Gretton et al. 2012, jmlr.org/papers/v13/gretton12a); all ones where all rows are equal.
    """
    rows = rows.double() - rows.double().mean(dim=0)
    squared = torch.cdist(rows, rows).square_()
    above = torch.triu_indices(len(rows), len(rows), 1)
    middle = float(squared[above[0], above[1]].median())
    if middle == 0:  # more than half of all pairs are equal rows
        middle = float(squared.mean()) or 1.0
    return squared.div_(-2 * middle).exp_()


def linear_kernel(rows: Tensor) -> Tensor:
    """Return the inner products of the centered rows, with which MMD is the distance of means: (N, D) -> (N, N) float64."""
    rows = rows.double() - rows.double().mean(dim=0)
    return rows @ rows.T


def mmd_test(
    kernel: Tensor, first: int, *, permutations: int, seed: int, unbiased: bool = True, tail: bool = False
) -> PermutationTest:
    """Test whether the first rows of a kernel come from the distribution of the others, by the squared MMD.

    Args:
        kernel: (N, N), symmetric.
        first: how many rows belong to the first set, at least 2, and at most N - 2.
        permutations: random divisions of the pooled rows.
        seed: of them.
        unbiased: leave out the diagonal (Gretton et al. 2012, eq. 3), so that the value is 0 on average without a shift; with
            it, the value of the linear kernel is the squared distance between the means.
        tail: where fewer than 10 divisions reach the value, take the p-value from the distribution that `tail_probability` fits
            to all of them, at least 1 / (100 permutations): for many tests, whose correction a share of divisions cannot pass.
    """
    total = len(kernel)
    second = total - first
    generator = torch.Generator().manual_seed(seed)
    member = torch.zeros(total, permutations + 1, dtype=kernel.dtype)
    member[:first, 0] = 1
    # All divisions at once: for the few rows of a class, a loop over thousands takes a hundred times as long.
    drawn = torch.rand(total, permutations, generator=generator).argsort(dim=0)[:first]  # (first, P)
    member[:, 1:].scatter_(0, drawn, 1.0)
    diagonal = kernel.diagonal()
    within = (member * (kernel @ member)).sum(dim=0)  # (P + 1,) sums over pairs inside the first set
    touched = kernel.sum(dim=1) @ member
    across = touched - within
    without = kernel.sum() - touched - across
    if unbiased:
        own = diagonal @ member
        within, without = within - own, without - (diagonal.sum() - own)
        values = within / (first * (first - 1)) + without / (second * (second - 1)) - 2 * across / (first * second)
    else:
        values = within / first**2 + without / second**2 - 2 * across / (first * second)
    value, null = float(values[0]), values[1:]
    # Divisions that give the same value, as swapped equal rows do, differ by rounding.
    slack = 1e-12 * float(kernel.abs().max())
    reached = int((null >= value - slack).sum())
    p_value = (1 + reached) / (permutations + 1)
    if tail and reached < _FEW_REACHED:
        p_value = min(p_value, max(tail_probability(null, value), 1 / (_EXTRAPOLATED * permutations)))
    return PermutationTest(value, float(null.quantile(0.95)), p_value)


def tail_probability(null: Tensor, value: float) -> float:
    """Estimate the probability of at least a value from (P,) draws of a sum of squares, beyond all of them too.

    That of the shifted gamma distribution (Pearson type III) with their mean, variance and skewness, which approximates
    permutation nulls of quadratic statistics (Josse et al. 2008, doi:10.1016/j.csda.2008.06.012). Against a million divisions,
    at p = 5e-6 from 9,999: 0.7 to 3.4 times the p-value for Gaussian, heavy-tailed and sparse rows, and more, never less, for
    fewer than 10 rows per side and for skewed rows.
    """
    from scipy.special import gammaincc, ndtr

    mean, spread = float(null.mean()), float(null.std())
    if spread == 0:
        return 1.0 if value <= mean else 0.0
    skewness = float(((null - mean) / spread).pow(3).mean())
    away = (value - mean) / spread
    if skewness < 1e-3:  # the limit
        return float(ndtr(-away))
    return float(gammaincc(4 / skewness**2, max(0.0, 4 / skewness**2 + 2 * away / skewness)))


def auc_with_variance(positive: Tensor, negative: Tensor) -> tuple[float, float]:
    """Return the area under the ROC curve of scores (M,) and (N,), ties counted half, and its variance by DeLong's method.

    DeLong et al. 1988, doi:10.2307/2531595. The variance is nan for a set of fewer than two.
    """
    order = torch.cat([positive, negative]).double()
    ranks = _ranks(order)
    ahead = (ranks[: len(positive)] - _ranks(positive.double())) / len(negative)  # of each positive, negatives below it
    behind = 1 - (ranks[len(positive) :] - _ranks(negative.double())) / len(positive)
    if min(len(positive), len(negative)) < 2:
        return float(ahead.mean()), math.nan
    return float(ahead.mean()), float(ahead.var() / len(positive) + behind.var() / len(negative))


def _ranks(values: Tensor) -> Tensor:
    """Mean ranks from 1, ties sharing theirs: (N,) -> (N,) float64."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    ranks: Tensor = (ends - (counts - 1).double() / 2)[inverse]
    return ranks
