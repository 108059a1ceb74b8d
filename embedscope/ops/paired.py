"""Paired differences between trainings: t tests and intervals, also over resampled splits, and the number of pairs needed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    Array = np.ndarray[Any, Any]

LEVEL = 0.05

# More pairs than this are not worth asking anybody for.
_MOST_PAIRS = 10_000

# Rows of draws by patterns that are held at a time.
_CELLS = 2**22


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of paired values with its 95% intervals and two-sided p-values.

    Everything but the difference is None if a single pair, or differences without any spread, leave nothing to estimate it
    from.

    Attributes:
        difference: the mean.
        ci95: t interval of this difference by itself.
        simultaneous: t interval that holds together with those of the other comparisons (Bonferroni).
        p_value: of the paired t test.
        p_corrected: the same times the number of comparisons, at most 1: below 0.05 exactly if `simultaneous` excludes 0.
        std: of the differences, divisor n - 1; None for a single pair alone.
    """

    difference: float
    ci95: tuple[float, float] | None = None
    simultaneous: tuple[float, float] | None = None
    p_value: float | None = None
    p_corrected: float | None = None
    std: float | None = None


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Compute the mean and the standard deviation (divisor n - 1); the latter is None for a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def split_means(values: Sequence[float], splits: int) -> list[float]:
    """Average the trials within each split, (splits * trials,) split by split -> (splits,); one split keeps its trials."""
    if splits == 1:
        return [float(value) for value in values]
    means: list[float] = np.reshape(values, (splits, -1)).mean(axis=1).tolist()
    return means


def mean_interval(values: Sequence[float], ratio: float = 0.0) -> tuple[float, float] | None:
    """Compute the 95% t interval of the mean of (n,) values; None for a single one. `ratio` as in `paired_difference`."""
    if len(values) < 2:
        return None
    mean, std = mean_and_std(values)
    assert std is not None
    reach = _quantile(len(values)) * std * math.sqrt(1 / len(values) + ratio)
    return mean - reach, mean + reach


def paired_difference(
    values: Sequence[float], reference: Sequence[float], *, comparisons: int = 1, ratio: float = 0.0
) -> PairedDifference:
    """Compare values with reference values of the same trials or splits, (n,) and (n,): mean of values - reference.

    Splits drawn from the same rows share most of them, so that the spread between splits understates the variance of their
    mean. The corrected resampled t test (Nadeau and Bengio 2003, doi:10.1023/A:1024068626366) takes (1/n + ratio) s^2 for it
    in place of s^2 / n.

    Args:
        values: (n,).
        reference: (n,).
        comparisons: number of values that are compared with the reference; the simultaneous intervals of all hold with 95%.
            One step and not Holm's, which calls somewhat more but has no two-sided intervals that agree with its calls.
        ratio: number of test rows by number of other rows, of resampled splits; 0 for independent trials.
    """
    gaps = np.subtract(values, reference)
    mean, std = mean_and_std(gaps.tolist())
    count = len(gaps)
    if std is None:
        return PairedDifference(mean)
    # Equal differences leave no spread to test against, also where their last digits are those of rounding.
    if np.ptp(gaps) <= 1e-12 * np.abs([values, reference]).max():
        return PairedDifference(mean, std=0.0)
    from scipy import special

    error = std * math.sqrt(1 / count + ratio)
    p_value = 2 * float(special.stdtr(count - 1, -abs(mean) / error))
    own, joint = (_quantile(count, each) * error for each in (1, comparisons))
    return PairedDifference(
        mean,
        ci95=(mean - own, mean + own),
        simultaneous=(mean - joint, mean + joint),
        p_value=p_value,
        p_corrected=min(1.0, p_value * comparisons),
        std=std,
    )


def signed_rank_p(values: Sequence[float], reference: Sequence[float]) -> float | None:
    """Compute the two-sided p-value of Wilcoxon's signed-rank test of independent pairs, (n,) and (n,).

    None for a single pair, and if all differences are 0. With n pairs it cannot be below 2 / 2^n: 0.0625 for 5.
    """
    gaps = np.subtract(values, reference)
    if len(gaps) < 2 or not gaps.any():
        return None
    from scipy import stats

    return float(stats.wilcoxon(gaps, method="auto").pvalue)


def power(effect: float, pairs: int, *, comparisons: int = 1, ratio: float = 0.0) -> float:
    """Compute the chance that n >= 2 pairs show a true difference of `effect` standard deviations; the rest as above."""
    from scipy import stats

    center = abs(effect) / math.sqrt(1 / pairs + ratio)
    reach = _quantile(pairs, comparisons)
    if center > 30 + 3 * reach:  # where the noncentral t is not computed well, and the power is 1 in all digits that count
        return 1.0
    return float(stats.nct.sf(reach, pairs - 1, center) + stats.nct.cdf(-reach, pairs - 1, center))


def pairs_needed(effect: float, *, least: int, wanted: float = 0.8, comparisons: int = 1, ratio: float = 0.0) -> int | None:
    """Find the smallest number of pairs, at least `least`, with that power; None if 10,000 are too few, as over splits."""

    def enough(pairs: int) -> bool:
        return power(effect, pairs, comparisons=comparisons, ratio=ratio) >= wanted

    high = least
    while not enough(high):
        if high >= _MOST_PAIRS:
            return None
        high = min(2 * high, _MOST_PAIRS)
    low = least - 1 if high == least else max(least, high // 2) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, (n,) -> (n,) in [0, 1]: the chance of any false alarm stays below the level.

    Holm 1979, https://www.jstor.org/stable/4615733: the k-th smallest is multiplied by n - k + 1, and kept above those before.
    """
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    raised = np.maximum.accumulate(np.minimum(np.asarray(p_values, dtype=float)[order] * factors, 1.0))
    corrected = np.empty(len(p_values))
    corrected[order] = raised
    return [float(value) for value in corrected]


def bootstrap_of_rows(
    labels: Array, predicted: Array, reference: Array, *, draws: int = 2000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Compute 95% intervals over test rows of the differences in accuracy and macro-F1, by the bootstrap, paired by row.

    Every draw takes the same rows for all trials of both; the trials are averaged. Percentiles of the draws.

    Args:
        labels: (N,) int in 0..K-1.
        predicted: (T, N), per trial.
        reference: (T, N), of the same trials.
        draws: number of resamples.
        seed: of the resamples.

    Returns:
        "accuracy" and "macro_f1" -> interval of predicted - reference.
    """
    from scipy import sparse

    # Rows with the same label and the same predictions throughout are drawn as one, with a multinomial count.
    patterns, counts = np.unique(np.vstack([labels, predicted, reference]).T, axis=0, return_counts=True)
    classes = int(patterns.max()) + 1
    each = np.arange(len(patterns))

    def indicator(codes: Array, among: Array) -> Any:
        return sparse.csr_matrix((among.astype(float), (each, codes)), shape=(len(patterns), classes))

    true, everywhere = patterns[:, 0], np.ones(len(patterns))
    actual = indicator(true, everywhere)
    trials = [(indicator(column, column == true), indicator(column, everywhere)) for column in patterns[:, 1:].T]
    signs = np.repeat([1.0, -1.0], len(predicted)) / len(predicted)
    generator = np.random.default_rng(seed)
    found: dict[str, list[Array]] = {"accuracy": [], "macro_f1": []}
    block = max(1, _CELLS // len(patterns))
    for start in range(0, draws, block):
        taken = generator.multinomial(len(labels), counts / len(labels), size=min(block, draws - start)).astype(float)  # (B, U)
        support = taken @ actual  # (B, K)
        gaps = {name: np.zeros(len(taken)) for name in found}
        for sign, (right, called) in zip(signs, trials, strict=True):
            hits, both = taken @ right, support + taken @ called
            gaps["accuracy"] += sign * hits.sum(axis=1) / len(labels)
            # A class that neither has is left out of the mean, as in `macro_f1`.
            gaps["macro_f1"] += sign * (2 * hits / np.maximum(both, 1)).sum(axis=1) / (both > 0).sum(axis=1)
        for name, values in gaps.items():
            found[name].append(values)
    return {
        name: (float(low), float(high))
        for name, values in found.items()
        for low, high in [np.quantile(np.concatenate(values), [0.025, 0.975])]
    }


def _quantile(count: int, comparisons: int = 1) -> float:
    """The quantile of t that an interval of one of several comparisons reaches to."""
    from scipy import special

    return float(special.stdtrit(count - 1, 1 - LEVEL / 2 / comparisons))
