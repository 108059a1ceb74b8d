"""Samples and intervals; comparisons of trainings are in `paired`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from embedscope.errors import UndefinedError, UsageError
from embedscope.ops.class_moments import class_sums, present_classes
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable

# Two-sided 95% of the normal distribution.
Z95 = 1.959963984540054


def stratified_sample(labels: Tensor, size: int, seed: int) -> Tensor:
    """Draw positions so that every class has its share, and at least one: (N,) -> (size,) ascending; all of them if size >= N.

    UsageError if there are more classes than positions to draw.
    """
    classes = present_classes(labels.cpu())
    if size < len(classes):
        raise UsageError(
            f"a sample of {counted(size, 'row')} is too small for {counted(len(classes), 'class')}; it needs one row per class"
        )
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
    """Estimate the mean over all samples from a stratified sample, with its 95% interval by the normal approximation.

    `values` (M,) belong to samples of the classes `whose` (M,), drawn without replacement from `labels` (N,). Unbiased. A class
    with one drawn sample has no spread of its own; it is given that of the other classes, pooled; the interval is None where
    all have one. Cochran 1977, chapter 5.
    """
    classes, drawn = present_classes(labels), present_classes(whose)
    weight = classes.counts.double() / classes.counts.sum()  # the quotient of whole numbers would be float32
    size = drawn.counts.double()
    means = class_sums(values, drawn.index, len(drawn)) / size
    squares = class_sums((values - means[drawn.index]).square(), drawn.index, len(drawn))
    pooled = squares.sum() / (size - 1).sum().clamp(min=1)
    variance = torch.where(size > 1, squares / (size - 1).clamp(min=1), pooled)
    left = 1 - size / classes.counts
    error = float((weight.square() * variance / size * left).sum().sqrt())
    mean = float((weight * means).sum())
    unknown = int(size.max()) == 1 and bool((left > 0).any())
    return mean, None if unknown or not math.isfinite(error) else (mean - Z95 * error, mean + Z95 * error)


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error and 95% t interval; both None for a single value, from which they cannot be estimated."""

    mean: float
    error: float | None
    interval: tuple[float, float] | None


def mean_with_error(values: Tensor, groups: Tensor | None = None) -> Estimate:
    """Estimate the mean of a population from (N,) values, drawn freely, or with a fixed number from each group (N,).

    With groups, only the spread within them counts; a group with one value has no spread of its own and is given that of the
    others, pooled.
    """
    from scipy import stats

    values = values.double()
    mean, count = float(values.mean()), len(values)
    if groups is None:
        free, variance = count - 1, float(values.var()) if count > 1 else math.nan
    else:
        classes = present_classes(groups)
        size = classes.counts.double()
        means = class_sums(values, classes.index, len(classes)) / size
        squares = class_sums((values - means[classes.index]).square(), classes.index, len(classes))
        free = count - len(classes)
        pooled = squares.sum() / max(free, 1)
        spread = torch.where(size > 1, squares / (size - 1).clamp(min=1), pooled)
        variance = float((size * spread).sum() / count)
    error = math.sqrt(variance / count) if free > 0 else math.nan
    if not math.isfinite(error):
        return Estimate(mean, None, None)
    reach = float(stats.t.ppf(0.975, free)) * error
    return Estimate(mean, error, (mean - reach, mean + reach))


def wilson_interval(hits: int, total: int, tests: int = 1) -> tuple[float, float]:
    """Return the 95% score interval of a share: `hits` of `total` >= 1 -> (low, high) in [0, 1].

    With several `tests`, the intervals of all of them hold together with at least 95% (Bonferroni).

    Reference: Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    z = Z95 if tests == 1 else NormalDist().inv_cdf(1 - 0.025 / max(tests, 1))
    share, square = hits / total, z**2
    middle = (share + square / (2 * total)) / (1 + square / total)
    reach = z / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    return (0.0 if hits == 0 else middle - reach), (1.0 if hits == total else middle + reach)


# A bias that falls as 1 / N is what half of the samples differ by; that of a minimum over estimated means falls a little
# slower, as N ** -0.85 in simulations (`benchmarks/coverage.py`), and 1 / (2 ** 0.85 - 1) is about 1.25.
_HALVES_TO_WHOLE = 1.25

# Rows up to which halves are drawn several times: where a metric costs little, the estimate can have less noise.
_FEW = 2000


def half_sample_bias(value: float, measure: Callable[[Tensor], float], labels: Tensor) -> float:
    """Estimate the bias of a statistic of N samples from its values on complementary halves, drawn class by class.

    What is linear in the samples cancels between the halves, so the estimate has little noise. 0 where a half is undefined.

    Args:
        value: of all samples.
        measure: the statistic of the samples at positions (n,).
        labels: (N,).
    """
    gaps = []
    for seed in range(2 if len(labels) <= _FEW else 1):
        groups = random_groups(labels, 2, seed, stratified=True)
        try:
            halves = [measure((groups == half).nonzero().squeeze(1)) for half in (0, 1)]
        except UndefinedError:
            return 0.0
        gaps.append(sum(halves) / 2 - value)
    return _HALVES_TO_WHOLE * sum(gaps) / len(gaps)


def random_groups(labels: Tensor, count: int, seed: int, *, stratified: bool) -> Tensor:
    """Divide N samples into at most `count` groups of about one size, at random, or class by class: (N,) -> (N,) int64."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    if stratified:
        shuffled = shuffled[labels[shuffled].argsort(stable=True)]
    groups = torch.empty(len(labels), dtype=torch.int64, device=labels.device)
    groups[shuffled] = torch.arange(len(labels), device=labels.device) % min(count, len(labels))
    return groups
