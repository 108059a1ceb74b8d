"""Measure embeddings, side by side."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope import __version__, devices, plugins
from embedscope.metrics import STANDARD, measure
from embedscope.records import FeatureSet, Measurement, Scores, Track, untracked
from embedscope.store import check_finite, open_features, select_labelled, select_split

if TYPE_CHECKING:
    from collections.abc import Sequence


def score(
    sources: Sequence[str],
    *,
    metrics: Sequence[str] = STANDARD,
    layers: Sequence[str] = (),
    split: str | None = None,
    device: str = "auto",
    track: Track = untracked,
) -> list[Scores]:
    """Measure every layer of every source.

    Args:
        sources: stores, `.npz`, or `X.npy,y.npy`; `name=path` gives one a name.
        metrics: specs, such as "soft_silhouette(tau_s=0.2)".
        layers: which layers of the stores; all if none is named.
        split: measure the rows of one split only.
        device: "auto", "cpu", "cuda" or "cuda:N". Measurements are in float64, which MPS lacks: "auto" takes the CPU there.
        track: shows progress over metrics.

    Raises:
        InputError: a source that cannot be read, holds NaN, or has no labelled row.
        UsageError: an unknown metric, option, layer or split.
    """
    specs = [plugins.parse(text) for text in metrics]
    for spec in specs:  # a typo in the last metric should not cost the time of the first
        plugins.bind(plugins.load("metrics", spec.name), spec)
    where = devices.choose(device, float64=True)
    found = [select_split(features, split) for features in open_features(sources, layers=layers)]
    return [_score(features, specs, where) for features in track(found, "measuring", len(found))]


def _score(features: FeatureSet, specs: Sequence[plugins.Spec], device: torch.device) -> Scores:
    features, unlabelled = select_labelled(features)
    check_finite(features)
    labels = torch.from_numpy(features.labels).to(device)
    rows = features.features[:].to(device)
    magnitudes = None if features.magnitudes is None else features.magnitudes[:].to(device)
    results: dict[str, Measurement] = {}
    for spec in specs:
        found = measure(rows, labels, spec, features.class_names, magnitudes)
        # A metric asked for twice is told apart by the options that were used.
        key = found.name if found.name not in results else str(plugins.Spec(found.name, (), found.options))
        results[key] = found
    counts = np.bincount(features.labels)
    warnings = [f"{name} is undefined: {found.note}" for name, found in results.items() if found.value is None]
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
        dimensions=rows.shape[1],
        classes=int((counts > 0).sum()),
        device=str(device),
        metrics=results,
        warnings=warnings,
    )


def as_json(scores: Sequence[Scores]) -> dict[str, Any]:
    """Lay scores out as `score --json` prints them, schema embedscope.score/1; details stand beside the value."""
    results = []
    for entry in scores:
        result = asdict(entry)
        for measurement in result["metrics"].values():
            measurement.pop("name")
            measurement.update(measurement.pop("details"))
        results.append(result)
    return {"schema": "embedscope.score/1", "embedscope": __version__, "results": results}
