"""Differences between embeddings, metric by metric, with intervals: paired where they hold the same rows."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

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


def differences(scores: Sequence[Scores], *, fixed: bool = False) -> list[Difference]:
    """Compare every embedding with the first one in all metrics that have intervals; with `fixed`, as those intervals are."""
    found = []
    for second in scores[1:]:
        first = scores[0]
        order = _matching(first, second)
        for key, before in first.metrics.items():
            after = second.metrics.get(key)
            if after is None or before.value is None or after.value is None:
                continue
            interval = _interval(before, after, order, first.labels if fixed else None, second.labels if fixed else None)
            if interval is not None:
                note = None
                if first.samples != second.samples and before.pseudo_values is not None:
                    note = f"measured on {first.samples:,} and {second.samples:,} samples; intervals are corrected for that"
                gap = after.value - before.value
                found.append(Difference(key, first.name, second.name, gap, interval, order is not None, note))
    return found


def best(scores: Sequence[Scores], key: str) -> int | None:
    """Return the position of the embedding that is best in a metric, or None where none is.

    Where the values have intervals, the best one has to differ from the next best by an interval that excludes 0.
    """
    found = {place: entry.metrics[key] for place, entry in enumerate(scores) if key in entry.metrics}
    values = {place: each.value for place, each in found.items() if each.value is not None}
    better = next((each.better for each in found.values()), None)
    if better is None or len(set(values.values())) < 2:
        return None
    first, second, *_ = sorted(values, key=lambda place: values[place], reverse=better == "higher")
    interval = _interval(found[first], found[second], _matching(scores[first], scores[second]), None, None)
    return None if interval is not None and interval[0] <= 0 <= interval[1] else first


def _matching(first: Scores, second: Scores) -> Array | None:
    """Find where each row of the first embedding is in the second, (N,), or None unless both hold the same labelled rows."""
    if first.ids is None or second.ids is None or len(first.ids) != len(second.ids):
        return None
    place = {each: row for row, each in enumerate(second.ids)}
    order = np.array([place.get(each, -1) for each in first.ids], dtype=np.int64)
    if (order < 0).any() or first.labels is None or second.labels is None:
        return None
    return order if bool((second.labels[order] == first.labels).all()) else None


def _interval(
    before: Measurement, after: Measurement, order: Array | None, labels: Array | None, others: Array | None
) -> tuple[float, float] | None:
    if before.pseudo_values is None or after.pseudo_values is None:
        return None
    if order is not None:
        gaps = torch.from_numpy(after.pseudo_values[order] - before.pseudo_values)
        return statistics.mean_with_error(gaps, _codes(labels)).interval
    one = statistics.mean_with_error(torch.from_numpy(before.pseudo_values), _codes(labels))
    other = statistics.mean_with_error(torch.from_numpy(after.pseudo_values), _codes(others))
    if one.error is None or other.error is None:
        return None
    reach = statistics.Z95 * math.hypot(one.error, other.error)
    gap = other.mean - one.mean
    return gap - reach, gap + reach


def _codes(labels: Array | None) -> torch.Tensor | None:
    return None if labels is None else torch.from_numpy(np.unique(labels.astype(str), return_inverse=True)[1])
