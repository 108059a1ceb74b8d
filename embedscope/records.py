"""The frozen records that travel between layers. N rows, D dimensions, C channels, K classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Measurement:
    """One metric on one embedding.

    Attributes:
        name: of the metric.
        value: None where the metric is undefined on the data; then `note` says why.
        better: which direction is better, or None where neither is.
        bounds: lowest and highest possible value; None is unbounded.
        options: every option of the metric with the value that was used.
        ci95: 95 % interval, or None where none was asked for or none is defined.
        per_class: class name -> value, or None where the metric has no value per sample.
        details: further arrays by name: curves, histograms, values per channel.
        note: what a reader has to know about this value.
    """

    name: str
    value: float | None
    better: Better | None
    bounds: tuple[float | None, float | None]
    options: Mapping[str, Any]
    ci95: tuple[float, float] | None = None
    per_class: Mapping[str, float] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True)
class Samples:
    """What is known of single samples.

    Attributes:
        ids: (n,) of the samples.
        labels: (n,) names of their classes.
        values: metric -> (n,) float64.
        nearest: (n,) names of the nearest other classes, by the first metric that knows, or None.
        split: (n,) or None.
    """

    ids: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    values: Mapping[str, np.ndarray[Any, Any]]
    nearest: np.ndarray[Any, Any] | None
    split: np.ndarray[Any, Any] | None


@dataclass(frozen=True)
class Scores:
    """All metrics on one embedding; the fields but the table of samples are those of `score --json`."""

    name: str
    source: str
    layer: str
    samples: int
    dimensions: int
    classes: int
    device: str
    metrics: Mapping[str, Measurement]
    warnings: Sequence[str] = ()
    table: Samples | None = None
