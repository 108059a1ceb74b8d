"""Uncertainty of a measurement: 95% intervals from jackknife pseudo-values, and estimates from a sample of anchors.

A metric of N samples is a statistic of a sample of a population. What it would be on other samples of it follows from
pseudo-values: one number per sample (or per group of samples) whose mean is the value corrected for its bias, and whose
standard error is that of the value. A metric declares how its pseudo-values are computed; for one that declares nothing,
groups of samples are left out in turn and the metric is measured on the rest. Nothing is drawn with replacement: copies of
a row move ranks, impurities and neighbors themselves.

Two questions are answered. "drawn": other samples of the population, with other numbers of samples per class. "fixed": other
samples with the same numbers per class. Neither covers how the network was trained.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from embedscope.arguments import check_choice
from embedscope.errors import UndefinedError
from embedscope.ops import statistics
from embedscope.ops.class_moments import present_classes
from embedscope.text import counted

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from embedscope.evaluation.evaluating import Metric
    from embedscope.evaluation.scores import Measurement
    from embedscope.metrics import Result
    from embedscope.ops.rows import Rows

    Array = np.ndarray[Any, Any]

CI = ("drawn", "fixed")

# Samples per class, on average, from which intervals were seen to hold (`benchmarks/coverage.py`).
_FEW = 10

# Groups that are left out in turn; each costs as much as the metric itself.
GROUPS = 50


def check_ci(ci: str | bool | None) -> str | None:
    """Return the kind of interval that the argument `ci` asks for, or None; UsageError for another."""
    if ci is None or isinstance(ci, bool):
        return "drawn" if ci else None
    return check_choice("kind of interval", ci, CI)


def with_interval(
    measurement: Measurement,
    metric: Metric,
    result: Result,
    rows: Rows,
    labels: Tensor,
    splits: Array | None,
    seed: int,
    ci: str,
) -> Measurement:
    """Add the interval, and the pseudo-values that it is made of; a note instead where there can be none.

    Args:
        measurement: of the rows.
        metric: that was measured.
        result: of it.
        rows: (N, D), in memory or on disk.
        labels: (N,).
        splits: (N,), or None.
        seed: of the groups.
        ci: "drawn" or "fixed".
    """
    if not metric.declared.interval:
        return _noted(measurement, _why_none(measurement, metric, rows, labels, seed))
    if metric.declared.pseudo_values is None:
        if not isinstance(rows, torch.Tensor):
            return _noted(measurement, "no interval: the features do not fit in memory and would have to be read 50 times")
        values = _without_groups(metric, result, rows, labels, splits, seed, stratified=ci == "fixed")
        groups = None
    else:
        if not isinstance(rows, torch.Tensor) and result.per_sample is not None:
            return _noted(measurement, "no interval: the features do not fit in memory; measure a sample to get one")
        values = metric.declared.pseudo_values(rows, labels, result, fixed=ci == "fixed", **metric.options)
        groups = labels if ci == "fixed" else None
    if values is None or not bool(torch.isfinite(values).all()):
        return _noted(measurement, "no interval: the metric is undefined when some of the samples are left out")
    if not metric.declared.extrapolates:
        values = values + (result.value - values.mean())
    found = statistics.mean_with_error(values, groups)
    if len(labels) < _FEW * len(present_classes(labels)):
        measurement = _noted(measurement, f"with fewer than {_FEW} samples per class, the interval may be too narrow")
    ci95 = clipped(found.interval, measurement.bounds)
    if ci95 is not None and not ci95[0] <= result.value <= ci95[1]:
        measurement = _noted(measurement, "the value is biased in small samples; the interval, which is not, leaves it out")
    kept, by_row = values.cpu().numpy(), metric.declared.pseudo_values is not None
    return replace(
        measurement,
        ci95=ci95,
        ci=ci,
        pseudo_values=kept if by_row else None,
        group_values=None if by_row else kept,
    )


def clipped(interval: tuple[float, float] | None, bounds: tuple[float | None, float | None]) -> tuple[float, float] | None:
    """Cut an interval at the bounds of its metric."""
    if interval is None:
        return None
    low, high = (-math.inf if bounds[0] is None else bounds[0]), (math.inf if bounds[1] is None else bounds[1])
    return min(max(interval[0], low), high), min(max(interval[1], low), high)


def _without_groups(
    metric: Metric, result: Result, rows: Tensor, labels: Tensor, splits: Array | None, seed: int, *, stratified: bool
) -> Tensor | None:
    """Leave out groups of samples in turn: pseudo-values (G,) float64, None if the metric is undefined without one."""
    groups = statistics.random_groups(labels, GROUPS, seed, stratified=stratified)
    count = int(groups.max()) + 1
    found = []
    for group in range(count):
        kept = (groups != group).nonzero().squeeze(1)
        try:
            more = {"splits": splits[kept.cpu().numpy()]} if splits is not None and metric.declared.takes_splits else {}
            without = metric(rows[kept], labels[kept], **more).value
        except UndefinedError:
            return None
        found.append(count * result.value - (count - 1) * without)
    return torch.tensor(found, dtype=torch.float64)


def _why_none(measurement: Measurement, metric: Metric, rows: Rows, labels: Tensor, seed: int) -> str:
    """Explain that no valid interval exists, and how much the value depends on the number of samples."""
    why = "no interval: the value depends on the number of samples"
    if isinstance(rows, torch.Tensor) and len(labels) >= 4 and not metric.declared.takes_logits:
        half = statistics.random_groups(labels, 2, seed, stratified=True) == 0
        try:
            return f"{why}; half of them give {metric(rows[half], labels[half]).value:.4g}, all {measurement.value:.4g}"
        except UndefinedError:
            return f"{why}; on half of them the metric is undefined"
    return why


def _noted(measurement: Measurement, note: str) -> Measurement:
    return replace(measurement, note=f"{measurement.note}; {note}" if measurement.note else note)


def estimated(measurement: Measurement, per_sample: Tensor, labels: Tensor, anchors: Tensor) -> Measurement:
    """Replace the plain mean over (M,) anchors by the stratified one over the classes of (N,) labels, with its interval.

    The interval covers which samples were drawn as anchors. The value is None, with a note, where a class has no anchor.
    """
    # NaN where a sample is alone in its class and the metric leaves it out.
    whose, left_out = labels[anchors], per_sample.isnan()
    measured = labels[~torch.isin(labels, whose[left_out])]
    missing = len(present_classes(measured)) - len(present_classes(whose[~left_out]))
    if missing:
        note = f"no estimate: {counted(missing, 'class has', 'classes have')} no row among the {len(anchors):,} that were drawn"
        return replace(measurement, value=None, note=note)
    mean, interval = statistics.stratified_mean(per_sample[~left_out], whose[~left_out], measured)
    note = f"estimated from a stratified sample of {len(anchors):,} of {len(labels):,} rows, against all rows"
    previous = measurement.note
    return replace(
        measurement,
        value=mean,
        ci95=clipped(interval, measurement.bounds),
        note=f"{note}; {previous}" if previous else note,
    )
