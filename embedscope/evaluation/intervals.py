"""How sure a measurement is: 95% intervals by bootstrap, and estimates from a sample of anchors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from embedscope.ops import statistics

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.evaluation.evaluating import Metric
    from embedscope.evaluation.scores import Measurement
    from embedscope.metrics import Result
    from embedscope.ops.rows import Rows

# How often a metric without a value per sample is measured again for its interval; each time costs as much as the metric.
RESAMPLES = 200


def with_interval(
    measurement: Measurement, metric: Metric, result: Result, rows: Rows, labels: Tensor, seed: int
) -> Measurement:
    """Add a bootstrap interval: from the values per sample, or by measuring samples drawn again, class by class.

    (N, D) rows and (N,) labels are those that were measured; a metric that would have to read them from disk again and again
    has a note instead.
    """
    if result.per_sample is not None:
        return replace(measurement, ci95=statistics.bootstrap_mean_interval(result.per_sample, labels, seed))
    if not isinstance(rows, torch.Tensor):
        note = "no interval: the features do not fit in memory, and this metric would have to read them again and again"
        return replace(measurement, note=note)
    interval = statistics.bootstrap_interval(lambda drawn: metric(rows[drawn], labels[drawn]).value, labels, seed, RESAMPLES)
    value = measurement.value
    if value is not None and interval is not None and not interval[0] <= value <= interval[1]:
        # Drawn with replacement, a class of few rows has fewer distinct ones, which moves impurity and rank themselves.
        note = "no interval: samples drawn again give other values than the samples themselves, as where classes are small"
        return replace(measurement, note=note)
    return replace(measurement, ci95=interval)


def estimated(measurement: Measurement, per_sample: Tensor, labels: Tensor, anchors: Tensor) -> Measurement:
    """Replace the plain mean over (M,) anchors by the stratified one over the classes of (N,) labels, with its interval.

    The value is None, with a note, where a class has no anchor.
    """
    missing = len(set(labels.tolist())) - len(set(labels[anchors].tolist()))
    if missing:
        note = f"no estimate: {missing} classes have no row among the {len(anchors):,} that were drawn"
        return replace(measurement, value=None, note=note)
    mean, interval = statistics.stratified_mean(per_sample, labels[anchors], labels)
    note = f"estimated from {len(anchors):,} of {len(labels):,} samples, drawn class by class, against all rows"
    previous = measurement.note
    return replace(measurement, value=mean, ci95=interval, note=f"{note}; {previous}" if previous else note)
