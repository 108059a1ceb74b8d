"""What the page says of an embedding in numbers: the standard metrics with intervals, and the silhouettes of its samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from embedscope import plugins
from embedscope.metrics import STANDARD, Measured, measure
from embedscope.metrics.intervals import estimated, with_interval
from embedscope.ops.class_moments import present_classes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from embedscope.ops.rows import Rows
    from embedscope.records import Measurement
    from embedscope.store.features import FeatureSet

    Array = np.ndarray[Any, Any]

# Values up to which features are read into memory (1 GB of float32), and up to which a metric is measured again and again for
# its interval: a page should not take minutes for what `score --ci` gives to those who want it.
_IN_MEMORY = 2**28
_RESAMPLED = 2**20
_WIDEST_RESAMPLED = 1024


@dataclass(frozen=True)
class Measurements:
    """The metrics of one embedding, and what is known of the n samples that are shown.

    Attributes:
        metrics: name -> measurement, in the order of `score`.
        silhouette: (n,) float64, or None where it is undefined.
        nearest: (n,) int64, the label of the nearest other class, or None likewise.
    """

    metrics: Mapping[str, Measurement]
    silhouette: Array | None
    nearest: Array | None


def measured(features: FeatureSet, drawn: Array, seed: int) -> Measurements:
    """Measure (N, D) labelled features; values per sample are those of the drawn ones (n,), against all N rows."""
    labels = torch.from_numpy(features.labels)
    anchors = torch.from_numpy(drawn) if len(drawn) < len(labels) else None
    rows = _at_hand(features.features)
    magnitudes = None if features.magnitudes is None else _at_hand(features.magnitudes)
    metrics: dict[str, Measurement] = {}
    silhouette = nearest = None
    for found in measure(
        rows,
        labels,
        [plugins.Spec(name) for name in STANDARD],
        features.class_names,
        magnitudes=magnitudes,
        ids=features.ids,
        source=features.source,
        anchors=anchors,
    ):
        name = found.measurement.name
        metrics[name] = _with_interval(found, rows, magnitudes, labels, anchors, seed)
        if name == "silhouette" and found.per_sample is not None and found.nearest is not None:
            silhouette, nearest = found.per_sample.numpy(), found.nearest.numpy()
    return Measurements(metrics, silhouette, nearest)


def _at_hand(rows: Rows) -> Rows:
    return rows[:] if rows.shape[0] * rows.shape[1] <= _IN_MEMORY else rows


def _with_interval(
    found: Measured, rows: Rows, magnitudes: Rows | None, labels: torch.Tensor, anchors: torch.Tensor | None, seed: int
) -> Measurement:
    measurement = found.measurement
    if measurement.value is None:
        return measurement
    if found.per_sample is not None and anchors is not None:
        if missing := len(present_classes(labels)) - len(present_classes(labels[anchors])):
            note = f"no estimate: {missing} classes have no row among the {len(anchors):,} shown; raise --max-points"
            return replace(measurement, value=None, note=note)
        return estimated(found, labels, anchors)
    if found.per_sample is None and (rows.shape[0] * rows.shape[1] > _RESAMPLED or rows.shape[1] > _WIDEST_RESAMPLED):
        note = "no interval on this page for features of this size; embedscope score --ci gives it"
        return replace(measurement, note=f"{measurement.note}; {note}" if measurement.note else note)
    return with_interval(found, rows, magnitudes, labels, seed)
