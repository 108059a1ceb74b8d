"""Measure embeddings, side by side."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope import devices, distributed, plugins
from embedscope._version import __version__
from embedscope.errors import ThresholdError, UsageError, check_number
from embedscope.metrics import STANDARD, Measured, bind, measure
from embedscope.metrics.intervals import estimated, with_interval
from embedscope.ops import statistics
from embedscope.ops.blocks import allowance, limits
from embedscope.progress import Track, silent, untracked
from embedscope.records import Measurement, Samples, Scores
from embedscope.store import open_features, select_labelled, select_split

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedscope.ops.rows import Rows
    from embedscope.store.features import FeatureSet

# Bytes of features from which a run says beforehand what it plans; smaller ones are done before it is read.
_WORTH_SAYING = 2**26


def score(
    sources: Sequence[str],
    *,
    metrics: Sequence[str] = STANDARD,
    layers: Sequence[str] = (),
    split: str | None = None,
    sample: int | None = None,
    ci: bool = False,
    memory: int | None = None,
    device: str = "auto",
    seed: int = 0,
    say: Callable[[str], None] = silent,
    track: Track = untracked,
) -> list[Scores]:
    """Measure every layer of every source.

    Args:
        sources: stores, `.npz`, or `X.npy,y.npy`; `name=path` gives one a name.
        metrics: specs, such as "soft_silhouette(tau_s=0.2)".
        layers: which layers of the stores; all if none is named.
        split: measure the rows of one split only.
        sample: metrics with a value per sample measure this many samples, drawn class by class, against all rows, and give the
            stratified (unbiased) mean with its 95 % interval; the other metrics stay exact.
        ci: 95 % intervals by bootstrap over samples, class by class: of the mean of the values per sample where there are any,
            otherwise by measuring again (200 times). They cover which samples were drawn, not how the network was trained.
        memory: bytes that a run may take beside what torch itself takes; by default half of what is free. Features that fit
            in it, with the copy that is computed with, are read into memory; others by blocks, for Euclidean distances
            several times.
        device: "auto", "cpu", "cuda" or "cuda:N". Measurements are in float64, which MPS lacks: "auto" takes the CPU there.
        seed: of the sample and the bootstrap.
        say: is told beforehand what is planned, where that takes time: large features, features on disk, samples.
        track: shows progress over blocks.

    Raises:
        InputError: a source that cannot be read, holds NaN, or has no labelled row.
        UsageError: an unknown metric, option, layer or split; a sample or a memory limit too small to work with.
    """
    specs: list[plugins.Spec] = []
    asked = []
    for text in metrics:  # a typo in the last metric should not cost the time of the first
        spec = plugins.parse(text)
        function, options = bind(spec)
        if (function, options) not in asked:
            asked.append((function, options))
            specs.append(spec)
    where = devices.choose(device, float64=True)
    budget = allowance(where, memory)
    budget = distributed.all_reduce_object(budget, min)  # all processes plan alike
    if budget < 2**24:
        raise UsageError(f"a memory limit of {_bytes(budget)} is too small to work with; give at least 16 MB")
    found = [select_split(features, split) for features in open_features(sources, layers=layers)]
    with limits(memory=budget, track=track):
        return [_score(features, specs, where, budget, sample, ci, seed, say) for features in found]


def _score(
    features: FeatureSet,
    specs: Sequence[plugins.Spec],
    device: torch.device,
    budget: int,
    sample: int | None,
    ci: bool,
    seed: int,
    say: Callable[[str], None],
) -> Scores:
    features, unlabelled = select_labelled(features)
    labels = torch.from_numpy(features.labels).to(device)
    rows = _at_hand(features.features, device, budget)
    magnitudes = None if features.magnitudes is None else _at_hand(features.magnitudes, device, budget)
    counts = np.bincount(features.labels)
    anchors = None if sample is None or sample >= len(labels) else statistics.stratified_sample(labels, sample, seed)
    if not isinstance(rows, torch.Tensor) or anchors is not None or rows.nbytes >= _WORTH_SAYING:
        say(_plan(features, rows, anchors, budget))
    names = features.class_names
    measured = measure(
        rows,
        labels,
        specs,
        names,
        magnitudes=magnitudes,
        ids=features.ids,
        source=features.source,
        anchors=anchors,
    )
    results: dict[str, Measurement] = {}
    columns: dict[str, np.ndarray[Any, Any]] = {}
    warnings = []
    for found in measured:
        measurement = found.measurement
        if measurement.value is None:
            warnings.append(f"{measurement.name} is undefined: {measurement.note}")
        elif found.per_sample is not None and anchors is not None:
            measurement = estimated(found, labels, anchors)
        elif ci:
            measurement = with_interval(found, rows, magnitudes, labels, seed)
        # A metric asked for twice is told apart by the options that were used.
        name = measurement.name
        key = name if name not in results else str(plugins.Spec(name, (), measurement.options))
        results[key] = measurement
        if found.per_sample is not None:
            columns[key] = found.per_sample.cpu().numpy()
    if alone := int((counts == 1).sum()):
        whose = "class has one sample; its" if alone == 1 else "classes have one sample; their"
        warnings.append(f"{alone} {whose} silhouette is 0 by convention")
    if unlabelled:
        warnings.append(f"{unlabelled} unlabelled rows are left out")
    return Scores(
        name=features.name,
        source=features.source,
        layer=features.layer,
        samples=len(labels),
        dimensions=features.features.shape[1],
        classes=int((counts > 0).sum()),
        device=str(device),
        metrics=results,
        warnings=warnings,
        table=_samples(features, columns, measured, anchors),
    )


def _at_hand(rows: Rows, device: torch.device, budget: int) -> Rows:
    """Read rows into the memory of the device if they and the copy that is computed with fit; leave them on disk otherwise."""
    itemsize = rows.dtype.itemsize + max(rows.dtype.itemsize, 4)
    fits = rows.shape[0] * (rows.shape[1] + 2) * itemsize <= budget * 3 // 4
    return rows[:].to(device) if fits or isinstance(rows, torch.Tensor) else rows


def _plan(features: FeatureSet, rows: Rows, anchors: torch.Tensor | None, budget: int) -> str:
    count, width = rows.shape
    size = _bytes(count * width * rows.dtype.itemsize)
    place = "read into memory" if isinstance(rows, torch.Tensor) else "read from disk in blocks"
    against = "" if anchors is None else f"; {len(anchors):,} sampled rows against all"
    return f"{features.name}: {count:,} x {width:,} ({size}) {place}{against}; at most {_bytes(budget)} of memory"


def _bytes(size: int) -> str:
    for unit, factor in (("GB", 2**30), ("MB", 2**20)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 2**10:.0f} kB"


def _samples(
    features: FeatureSet,
    columns: dict[str, np.ndarray[Any, Any]],
    measured: Sequence[Measured],
    anchors: torch.Tensor | None,
) -> Samples | None:
    """Collect what is known of single samples; None if no metric has a value per sample."""
    if not columns:
        return None
    chosen = np.arange(len(features.labels)) if anchors is None else anchors.cpu().numpy()
    names = np.array(features.class_names, dtype=object)
    nearest = next((found.nearest for found in measured if found.nearest is not None), None)
    return Samples(
        ids=features.ids[chosen],
        labels=names[features.labels[chosen]],
        values=columns,
        nearest=None if nearest is None else names[nearest.cpu().numpy()],
        split=None if features.split is None else features.split[chosen],
    )


def as_json(scores: Sequence[Scores]) -> dict[str, Any]:
    """Lay scores out as `score --json` prints them, schema embedscope.score/1; details stand beside the value."""
    results = []
    for entry in scores:
        result = asdict(replace(entry, table=None))
        del result["table"]
        for measurement in result["metrics"].values():
            measurement.pop("name")
            measurement.update(measurement.pop("details"))
        results.append(result)
    return {"schema": "embedscope.score/1", "embedscope": __version__, "results": results}


def parse_threshold(text: str, metrics: Sequence[str]) -> tuple[str, float]:
    """Read `silhouette=0.3`; UsageError if it is not that, or the metric is not among those measured."""
    name, separator, number = text.rpartition("=")
    name = plugins.canonical(name)
    try:
        limit = check_number("", number if not number else float(number))
    except (ValueError, UsageError):
        separator = ""
    if not separator:
        raise UsageError(f"cannot read the threshold '{text}'; write it as in silhouette=0.3")
    measured = [plugins.canonical(plugins.parse(spec).name) for spec in metrics]
    if name not in measured:
        raise UsageError(f"the threshold '{text}' is on a metric that is not measured; measured are {', '.join(measured)}")
    if measured.count(name) > 1:
        raise UsageError(
            f"the threshold '{text}' could mean any of {measured.count(name)} measurements of {name}; measure it once"
        )
    return name, limit


def check_thresholds(scores: Sequence[Scores], thresholds: Sequence[tuple[str, float]]) -> None:
    """Raise ThresholdError if a metric is on the wrong side of its limit: below it, or above where lower is better."""
    missed = []
    for entry in scores:
        for name, limit in thresholds:
            value, better = entry.metrics[name].value, entry.metrics[name].better
            if value is None:
                missed.append(f"{entry.name}: {name} is undefined")
            elif value > limit if better == "lower" else value < limit:
                missed.append(f"{entry.name}: {name} is {value:.4f}, {'above' if better == 'lower' else 'below'} {limit:g}")
    if missed:
        raise ThresholdError("; ".join(missed))
