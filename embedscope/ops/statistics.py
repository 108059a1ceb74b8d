"""Spread and paired comparison of a few trials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of paired values, its 95 % t interval and the two-sided p-value of the paired t test.

    Interval and p-value are None where one pair, or no spread at all, leaves nothing to estimate them from.
    """

    difference: float
    ci95: tuple[float, float] | None
    p_value: float | None


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Compute the mean and the standard deviation (divisor n - 1); the latter is None for a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> PairedDifference:
    """Compare values with reference values of the same trials, (n,) and (n,): mean of values - reference."""
    gaps = np.subtract(values, reference)
    mean = float(gaps.mean())
    if len(gaps) < 2 or np.ptp(gaps) == 0:
        return PairedDifference(mean, None, None)
    from scipy import stats

    test = stats.ttest_1samp(gaps, 0.0)
    low, high = test.confidence_interval(0.95)
    return PairedDifference(mean, (float(low), float(high)), float(test.pvalue))
