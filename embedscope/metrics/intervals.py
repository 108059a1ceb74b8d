"""How sure a measurement is: 95 % intervals by bootstrap, and estimates from a sample of anchors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from embedscope import plugins
from embedscope.metrics import Measured, declaration
from embedscope.ops import statistics

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows
    from embedscope.records import Measurement

# How often a metric without a value per sample is measured again for its interval; each time costs as much as the metric.
RESAMPLES = 200


def with_interval(found: Measured, features: Rows, magnitudes: Rows | None, labels: Tensor, seed: int) -> Measurement:
    """Add a bootstrap interval: from the values per sample, or by measuring samples drawn again, class by class.

    (N, D) features, (N, C) magnitudes and (N,) labels are those that were measured; a metric that would have to read them
    from disk again and again has a note instead.
    """
    if found.per_sample is not None:
        return replace(found.measurement, ci95=statistics.bootstrap_mean_interval(found.per_sample, labels, seed))
    function = plugins.load("metrics", found.measurement.name)
    rows = magnitudes if magnitudes is not None and declaration(function).reads == "magnitudes" else features
    if not isinstance(rows, torch.Tensor):
        note = "no interval: the features do not fit in memory, and this metric would have to read them again and again"
        return replace(found.measurement, note=note)
    interval = statistics.bootstrap_interval(
        lambda drawn: float(function(rows[drawn], labels[drawn], **found.measurement.options)), labels, seed, RESAMPLES
    )
    value = found.measurement.value
    if value is not None and interval is not None and not interval[0] <= value <= interval[1]:
        # Drawn with replacement, a class of few rows has fewer distinct ones, which moves impurity and rank themselves.
        note = "no interval: samples drawn again give other values than the samples themselves, as where classes are small"
        return replace(found.measurement, note=note)
    return replace(found.measurement, ci95=interval)


def estimated(found: Measured, labels: Tensor, anchors: Tensor) -> Measurement:
    """Replace the plain mean over (M,) anchors by the stratified one over the classes of (N,) labels, with its interval."""
    assert found.per_sample is not None
    mean, interval = statistics.stratified_mean(found.per_sample, labels[anchors], labels)
    note = f"estimated from {len(anchors):,} of {len(labels):,} samples, drawn class by class, against all rows"
    previous = found.measurement.note
    return replace(found.measurement, value=mean, ci95=interval, note=f"{note}; {previous}" if previous else note)
