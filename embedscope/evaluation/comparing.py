"""Differences between embeddings, metric by metric, with intervals: paired if they contain the same rows."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope.evaluation.pairing import paired
from embedscope.ops import statistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedscope.evaluation.scores import Measurement, Scores

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Difference:
    """How a metric differs between two embeddings.

    Attributes:
        metric: its key in `Scores.metrics`.
        first: name of the embedding that the other is compared with.
        second: name of the other.
        value: second - first, of the values as they are reported.
        ci95: 95% interval of the difference in the population.
        paired: whether the rows are the same, by their ids, so that what the samples share cancels.
        note: why the two may not be comparable, or None.
    """

    metric: str
    first: str
    second: str
    value: float
    ci95: tuple[float, float]
    paired: bool
    note: str | None = None

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.ci95[0] <= 0 <= self.ci95[1]

    def as_json(self) -> dict[str, Any]:
        """Lay the difference out for `score --json`."""
        return {**asdict(self), "ci95": list(self.ci95)}


def differences(scores: Sequence[Scores]) -> list[Difference]:
    """Compare every embedding with the first one in all metrics that have intervals, by the question those answer."""
    return [each for second in scores[1:] for each in pair_differences(scores[0], second)]


def pair_differences(first: Scores, second: Scores) -> list[Difference]:
    """Compare two embeddings in all metrics that have intervals, paired if they contain the same labeled rows."""
    found = []
    order = _matching(first, second)
    for key, before in first.metrics.items():
        after = second.metrics.get(key)
        if after is None or before.value is None or after.value is None:
            continue
        interval = _interval(before, after, order, first.labels, second.labels)
        if interval is not None:
            note = None
            if first.samples != second.samples and before.pseudo_values is not None:
                note = f"measured on {first.samples:,} and {second.samples:,} samples; the intervals account for this"
            gap = after.value - before.value
            found.append(Difference(key, first.name, second.name, gap, interval, order is not None, note))
    return found


def difference_interval(first: Scores, second: Scores, key: str) -> tuple[float, float] | None:
    """Return the 95% interval of second - first in a metric, or None if either has no interval."""
    before, after = first.metrics[key], second.metrics[key]
    return _interval(before, after, _matching(first, second), first.labels, second.labels)


def best(scores: Sequence[Scores], key: str) -> int | None:
    """Return the position of the embedding that is best in a metric, or None if none is.

    Where the values have intervals, the best one must differ from the next best by an interval that excludes 0; that of the
    difference answers the same question as those of the values ("drawn" or "fixed").
    """
    found = {place: entry.metrics[key] for place, entry in enumerate(scores) if key in entry.metrics}
    values = {place: each.value for place, each in found.items() if each.value is not None}
    better = next((each.better for each in found.values()), None)
    if better is None or len(set(values.values())) < 2:
        return None
    first, second, *_ = sorted(values, key=lambda place: values[place], reverse=better == "higher")
    interval = difference_interval(scores[first], scores[second], key)
    return None if interval is not None and interval[0] <= 0 <= interval[1] else first


def _matching(first: Scores, second: Scores) -> Array | None:
    """Find where each row of the first embedding is in the second, (N,), or None unless both contain the same labeled rows."""
    if first.ids is None or second.ids is None or first.labels is None or second.labels is None:
        return None
    if len(first.ids) != len(second.ids):
        return None
    pairing = paired(first.ids, first.labels, second.ids, second.labels)
    return pairing.second if pairing.whole else None


def _interval(
    before: Measurement, after: Measurement, order: Array | None, labels: Array | None, others: Array | None
) -> tuple[float, float] | None:
    first, second = before.pseudo_values, after.pseudo_values
    if first is None or second is None:
        first, second = before.group_values, after.group_values
        labels = others = None
        if order is not None:
            if not bool((np.diff(order) > 0).all()):  # groups of rows are drawn by position
                return None
            order = None if first is None else np.arange(len(first))
    if first is None or second is None:
        return None
    if before.ci != "fixed":
        labels = others = None
    if order is not None:
        gaps = torch.from_numpy(second[order] - first)
        return statistics.mean_with_error(gaps, _codes(labels)).interval
    one = statistics.mean_with_error(torch.from_numpy(first), _codes(labels))
    other = statistics.mean_with_error(torch.from_numpy(second), _codes(others))
    if one.error is None or other.error is None:
        return None
    reach = statistics.Z95 * math.hypot(one.error, other.error)
    gap = other.mean - one.mean
    return gap - reach, gap + reach


def _codes(labels: Array | None) -> torch.Tensor | None:
    return None if labels is None else torch.from_numpy(np.unique(labels.astype(str), return_inverse=True)[1])
