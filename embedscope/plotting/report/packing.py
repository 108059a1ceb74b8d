"""From records to the JSON of the page: numbers as typed arrays in base64, ids and labels once where views share them."""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.evaluation.issues import KINDS
from embedscope.store.results import as_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedscope.evaluation import Issues, Measurement, Scores
    from embedscope.evaluation.comparison import Comparison
    from embedscope.evaluation.finding import Finding
    from embedscope.plotting.inputs import Run
    from embedscope.store.features import FeatureSet

    Array = np.ndarray[Any, Any]

# Coordinates are whole numbers of this many steps along the longer side: a twentieth of a pixel on the largest screens.
STEPS = 65535

# How many rows of each kind of issue a page lists, and how many samples that gained, and lost.
MOST_ISSUES = 150
MOST_CHANGED = 150


def array(values: Array) -> dict[str, str]:
    """Write an array as little-endian bytes in base64, with the name of JavaScript's array for it."""
    kinds = {"<u2": "Uint16Array", "<u4": "Uint32Array", "<f4": "Float32Array", "<f8": "Float64Array"}
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return {"type": kinds[values.dtype.str], "base64": base64.b64encode(values.tobytes()).decode("ascii")}


def codes(values: Array) -> dict[str, str]:
    """Write small non-negative integers in as few bytes as they need."""
    return array(values.astype(np.uint16 if values.max(initial=0) < 2**16 else np.uint32))


def packed_rows(
    shown: Sequence[tuple[FeatureSet, Array]], class_names: Sequence[str]
) -> tuple[list[dict[str, Any]], list[int]]:
    """Pack ids, labels and splits of the rows that views show, each distinct set of rows once; and which set each view has."""
    sets: list[dict[str, Any]] = []
    known: list[tuple[Array, Array]] = []
    places = []
    for features, drawn in shown:
        ids, labels = features.ids[drawn].astype(str), _codes_of(features, class_names)[features.labels[drawn]]
        place = next(
            (i for i, (others, theirs) in enumerate(known) if np.array_equal(ids, others) and np.array_equal(labels, theirs)),
            len(known),
        )
        if place == len(known):
            known.append((ids, labels))
            split = None
            if features.split is not None:
                names, index = np.unique(features.split[drawn].astype(str), return_inverse=True)
                split = {"names": names.tolist(), "codes": codes(index)}
            sets.append({"ids": ids.tolist(), "labels": codes(labels), "split": split})
        places.append(place)
    return sets, places


def packed_view(
    features: FeatureSet,
    drawn: Array,
    layouts: Mapping[str, Array],
    unlabelled: int,
    found: Scores,
    place: int,
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Pack one view: where its samples lie, what was measured, and where it came from."""
    samples = silhouettes(found)
    nearest = None if found.table is None else found.table.nearest
    return {
        "name": features.name,
        "source": features.source,
        "layer": features.layer,
        "rows": place,
        "samples": len(features.labels),
        "unlabelled": unlabelled,
        "dimensions": features.features.shape[1],
        "classes": len(np.unique(features.labels)),
        "layouts": {title: _packed_layout(points) for title, points in layouts.items()},
        "silhouette": None if samples is None else array(samples.astype(np.float32)),
        "nearest": None if samples is None else codes(_named_codes(nearest, class_names)),
        "metrics": {name: _packed_measurement(entry, class_names) for name, entry in found.metrics.items()},
        "findings": [_packed_finding(each, class_names) for each in found.findings],
        "examined": list(found.examined),
        "provenance": _lines(features.provenance.as_json()),
    }


def packed_run(run: Run) -> dict[str, Any]:
    """Pack a run of finetune: its manifest, and the log of every trial."""
    document = as_json(run.result)
    objectives = [
        {**objective, "logs": [{column: _gaps(values) for column, values in log.items()} for log in logs]}
        for objective, logs in zip(document["objectives"], run.logs, strict=True)
    ]
    return {
        "name": run.name,
        "options": _lines(document["options"]),
        "data": _lines(document["data"]),
        "objectives": objectives,
    }


def _gaps(values: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def _codes_of(features: FeatureSet, class_names: Sequence[str]) -> Array:
    """The page's code of each of the features' classes: (K,)."""
    code = {name: number for number, name in enumerate(class_names)}
    return np.array([code[name] for name in features.class_names], dtype=np.int64)


def silhouettes(found: Scores) -> Array | None:
    """Take the silhouette of every sample that is shown, (n,), or None if undefined."""
    return None if found.table is None else found.table.values.get("silhouette")


def _named_codes(names: Array | None, class_names: Sequence[str]) -> Array:
    code = {name: number for number, name in enumerate(class_names)}
    return np.array([] if names is None else [code[name] for name in names], dtype=np.int64)


def _packed_layout(points: Array) -> dict[str, Any]:
    low = points.min(axis=0)
    span = float((points.max(axis=0) - low).max()) or 1.0  # one scale for both axes: distances are to be compared by eye
    steps = np.rint((points - low) / span * STEPS).astype(np.uint16)
    return {"x": array(steps[:, 0]), "y": array(steps[:, 1])}


def _packed_measurement(entry: Measurement, class_names: Sequence[str]) -> dict[str, Any]:
    """Pack a measurement: lists of numbers as arrays, values by class as pairs of code and number."""
    code = {name: number for number, name in enumerate(class_names)}
    return {
        **entry.as_json(),
        "per_class": None,  # the page computes it from the samples that it shows
        **{
            name: array(np.asarray(value, dtype=np.float64)) if isinstance(value, list) else value
            for name, value in entry.arrays.items()
        },
        **{name: [[code[each], number] for each, number in values.items()] for name, values in entry.by_class.items()},
    }


def _packed_finding(finding: Finding, class_names: Sequence[str]) -> dict[str, Any]:
    """Pack a finding: its words, and the codes of the classes that it is about."""
    named = [finding.evidence.get("class"), finding.evidence.get("other")]
    return {
        "severity": finding.severity,
        "text": finding.text,
        "next": finding.next,
        "classes": [class_names.index(name) for name in named if name in class_names],
    }


def packed_issues(found: Issues, ids: Array) -> dict[str, Any]:
    """Pack the rows that need attention, the worst `MOST_ISSUES` of each kind; `place` is that among the drawn rows' ids."""
    places = {str(name): place for place, name in enumerate(ids)}
    rows = [each for kind in KINDS for each in [row for row in found.rows if row.kind == kind][:MOST_ISSUES]]
    return {
        "counts": dict(found.counts),
        "notes": list(found.notes),
        "expected": found.expected_precision,
        "rows": [
            {
                "id": each.id,
                "place": places.get(each.id),
                "kind": each.kind,
                "label": each.label,
                "suggested": each.suggested,
                "score": round(each.score, 4),
                "near": [[name, places.get(name)] for name in each.near],
                "why": each.why,
                "split": each.split,
            }
            for each in rows
        ],
    }


def packed_comparison(found: Comparison, view: int, ids: Array, class_names: Sequence[str]) -> dict[str, Any]:
    """Pack how a view compares with the first; of samples that changed sides, the places of the first `MOST_CHANGED`."""
    places = {str(name): place for place, name in enumerate(ids)}
    code = {name: number for number, name in enumerate(class_names)}
    sides = found.sides
    return {
        "view": view,
        "rows": found.rows,
        "cka": found.cka,
        "mutual": found.mutual_knn,
        "neighbors": found.neighbors,
        "classes": [[code[each.name], each.first, each.second, each.ci95, each.significant] for each in found.classes],
        "gained": None if sides is None else len(sides.gained),
        "lost": None if sides is None else len(sides.lost),
        "p": None if sides is None else sides.p_value,
        "changed": []
        if sides is None
        else [
            place
            for side in (sides.gained, sides.lost)
            for place in [places[name] for name in side if name in places][:MOST_CHANGED]
        ],
        "notes": list(found.notes),
    }


def _lines(record: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    """Flatten a nested record into lines of name and text; long lists are counted, not printed."""
    lines: list[list[str]] = []
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            lines += _lines(value, f"{name} ")
        elif isinstance(value, list) and len(value) > 6:
            lines.append([name, f"{len(value)}: {', '.join(str(each) for each in value[:3])}, …"])
        elif isinstance(value, list):
            lines.append([name, ", ".join(str(each) for each in value) or "none"])
        elif value is not None and value != "":
            lines.append([name, str(value)])
    return lines
