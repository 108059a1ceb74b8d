"""Samples, intervals and paired comparisons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from embedscope.errors import UndefinedError, UsageError
from embedscope.ops import blocks
from embedscope.ops.class_moments import class_sums, present_classes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Two-sided 95 % of the normal distribution.
_Z95 = 1.959963984540054

# Draws that a bootstrap of a mean may take in all; beyond 200,000 samples it makes fewer than 1,000 resamples.
_DRAWS = 2 * 10**8


def stratified_sample(labels: Tensor, size: int, seed: int) -> Tensor:
    """Draw positions so that every class has its share, and at least one: (N,) -> (size,) ascending; all of them if size >= N.

    UsageError if there are more classes than positions to draw.
    """
    classes = present_classes(labels.cpu())
    if size < len(classes):
        raise UsageError(f"a sample of {size} rows is smaller than the {len(classes)} classes; it needs at least one of each")
    if size >= len(labels):
        return torch.arange(len(labels), device=labels.device)
    # One of each class, and the rest by largest remainder of what is left.
    counts = classes.counts.numpy()
    quota = (counts - 1) * (size - len(counts)) / (counts - 1).sum()
    taken = np.floor(quota).astype(np.int64)
    missing = size - len(counts) - taken.sum()
    taken[np.argsort(taken - quota, kind="stable")[:missing]] += 1
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = shuffled[classes.index[shuffled].argsort(stable=True)]  # by class, in random order within
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    positions = [order[start : start + 1 + extra] for start, extra in zip(starts, taken, strict=True)]
    return torch.cat(positions).sort().values.to(labels.device)


def stratified_mean(values: Tensor, whose: Tensor, labels: Tensor) -> tuple[float, tuple[float, float] | None]:
    """Estimate the mean over all samples from a stratified sample, with its 95 % interval by the normal approximation.

    `values` (M,) belong to samples of the classes `whose` (M,), drawn without replacement from `labels` (N,). Unbiased. A class
    with one drawn sample has no spread of its own; it is given that of the other classes, pooled; the interval is None where
    all have one. Cochran 1977, chapter 5.
    """
    classes, drawn = present_classes(labels), present_classes(whose)
    weight = classes.counts / classes.counts.sum()
    size = drawn.counts.double()
    means = class_sums(values, drawn.index, len(drawn)) / size
    squares = class_sums((values - means[drawn.index]).square(), drawn.index, len(drawn))
    pooled = squares.sum() / (size - 1).sum().clamp(min=1)
    variance = torch.where(size > 1, squares / (size - 1).clamp(min=1), pooled)
    left = 1 - size / classes.counts
    error = float((weight.square() * variance / size * left).sum().sqrt())
    mean = float((weight * means).sum())
    unknown = int(size.max()) == 1 and bool((left > 0).any())
    return mean, None if unknown or not math.isfinite(error) else (mean - _Z95 * error, mean + _Z95 * error)


def bootstrap_mean_interval(values: Tensor, labels: Tensor, seed: int) -> tuple[float, float]:
    """Compute the 95 % percentile bootstrap interval of the mean of (N,) values, drawn again class by class.

    1,000 resamples; fewer beyond 200,000 samples (2e8 / N, at least 100).
    """
    resamples = int(min(1000, max(100, _DRAWS // len(values))))
    generator = torch.Generator().manual_seed(seed)
    classes = present_classes(labels.cpu())
    ordered = values.cpu()[classes.index.argsort(stable=True)]
    sums = torch.zeros(resamples, dtype=torch.float64)
    for of_class in torch.split(ordered, classes.counts.tolist()):
        for block in blocks.row_slices(resamples, 16 * len(of_class)):
            drawn = torch.randint(len(of_class), (block.stop - block.start, len(of_class)), generator=generator)
            sums[block] += of_class[drawn].sum(dim=1)
    return _percentiles((sums / len(values)).numpy())


def bootstrap_interval(
    measure: Callable[[Tensor], float], labels: Tensor, seed: int, resamples: int
) -> tuple[float, float] | None:
    """Compute the 95 % percentile bootstrap interval of any measure of drawn positions (N,), drawn again class by class.

    None if the measure is undefined, or no number, on a resample.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = present_classes(labels.cpu())
    members = torch.split(classes.index.argsort(stable=True), classes.counts.tolist())
    found = []
    for _ in blocks.tracked(range(resamples), "bootstrap", resamples):
        drawn = [of_class[torch.randint(len(of_class), (len(of_class),), generator=generator)] for of_class in members]
        try:
            found.append(measure(torch.cat(drawn).to(labels.device)))
        except UndefinedError:
            return None
    return _percentiles(np.array(found)) if np.isfinite(found).all() else None


def _percentiles(found: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of paired values, its 95 % t interval, two-sided p-values of paired t and Wilcoxon's signed-rank test.

    Interval and the p-value of t are None where one pair, or no spread at all, leaves nothing to estimate them from; that of
    Wilcoxon where all differences are 0. With n pairs Wilcoxon's cannot be below 2 / 2^n: 0.0625 for 5.
    """

    difference: float
    ci95: tuple[float, float] | None
    p_value: float | None
    wilcoxon_p: float | None = None


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Compute the mean and the standard deviation (divisor n - 1); the latter is None for a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> PairedDifference:
    """Compare values with reference values of the same trials, (n,) and (n,): mean of values - reference."""
    gaps = np.subtract(values, reference)
    mean = float(gaps.mean())
    if len(gaps) < 2 or not gaps.any():
        return PairedDifference(mean, None, None)
    from scipy import stats

    wilcoxon = float(stats.wilcoxon(gaps, method="auto").pvalue)
    # Equal differences leave no spread to test against, also where their last digits are those of rounding.
    if np.ptp(gaps) <= 1e-12 * np.abs([values, reference]).max():
        return PairedDifference(mean, None, None, wilcoxon)
    test = stats.ttest_1samp(gaps, 0.0)
    low, high = test.confidence_interval(0.95)
    return PairedDifference(mean, (float(low), float(high)), float(test.pvalue), wilcoxon)


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
