"""Trajectories: what was measured of a training, step by step, as a file of JSON lines that survives a kill.

A line is `{"step": 500, "layer": "fc.input", "metrics": {"silhouette": 0.31}, ...}`. Lines are appended with one write each
time; a line that a kill tore is left out when the file is read, and cut off before the next one is appended.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedscope.errors import InputError, OutputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The first line of a file is looked for in this many bytes.
_FIRST_LINE = 2**20


@dataclass(frozen=True)
class Point:
    """What was measured of a layer at a step; a line of the file, which leaves out what is None or empty.

    Attributes:
        step: of the training.
        layer: that was measured.
        metrics: name -> value; None where a metric is undefined.
        loss: of the training, if it was told.
        time: when, in ISO 8601 with the offset from UTC.
        seconds: that reading, the forward passes and the metrics took, for all layers of the step.
        findings: in words.
        samples: rows that were measured.
        dimensions: of the features.
        classes: that have a row.
        checkpoint: the file of weights that was measured, or None during training.
        sha256: of that file (hex).
        settings: digest (hex) of what the values depend on beside the weights: model code, data, layers, metrics.
    """

    step: int
    layer: str
    metrics: Mapping[str, float | None] = field(hash=False)
    loss: float | None = None
    time: str | None = None
    seconds: float | None = None
    findings: tuple[str, ...] = ()
    samples: int | None = None
    dimensions: int | None = None
    classes: int | None = None
    checkpoint: str | None = None
    sha256: str | None = None
    settings: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Lay the point out as a line has it; numbers that are not finite, which JSON lacks, are null."""
        found = {name: value for name, value in asdict(self).items() if value not in (None, ())}
        found["metrics"] = {name: _finite(value) for name, value in self.metrics.items()}
        if self.loss is not None:
            found["loss"] = _finite(self.loss)
        return found


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def append_points(path: Path, points: Sequence[Point]) -> None:
    """Append a line per point, with one write; OutputError if the file cannot be written."""
    text = "".join(f"{json.dumps(point.as_json(), allow_nan=False)}\n" for point in points)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            _cut_torn_line(file)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _cut_torn_line(file: Any) -> None:
    """End the last line, or cut it off if a kill left half of it."""
    size = file.seek(0, os.SEEK_END)
    kept = size
    while kept:
        start = max(0, kept - 4096)
        file.seek(start)
        place = file.read(kept - start).rfind(b"\n")
        kept = start if place < 0 else start + place + 1
        if place >= 0:
            break
    if kept == size:
        return
    file.seek(kept)
    if _parsed(file.read()) is None:
        file.truncate(kept)
    else:  # an editor left out the line break
        file.write(b"\n")


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:  # of JSON, or of UTF-8
        return None
    return found if isinstance(found, dict) else None


def read_points(path: Path) -> list[Point]:
    """Read the points of a file in the order of their steps; a step that was measured again has its last values.

    InputError for a file that cannot be read, and for a line that is not a point, unless it is a torn last one.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    found: dict[tuple[int | str, str], Point] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        point = _point(_parsed(line))
        if point is None and number == len(lines):  # nothing ends it: a kill tore it
            continue
        if point is None:
            raise InputError(
                f"{path}: line {number} is not a measurement, a JSON object with step, layer and metrics; remove the line"
            )
        found[(point.checkpoint or point.step, point.layer)] = point
    return sorted(found.values(), key=lambda point: point.step)


def _point(values: dict[str, Any] | None) -> Point | None:
    """Make a point of what a line holds; None if that is something else. Keys of later versions are left out."""
    if values is None or type(values.get("step")) is not int or not isinstance(values.get("layer"), str):
        return None
    metrics = values.get("metrics")
    if not isinstance(metrics, dict) or not all(_is_number(value) for value in metrics.values()):
        return None
    if not _is_number(values.get("loss")):
        return None
    known = {each.name for each in fields(Point)}
    kept = {name: value for name, value in values.items() if name in known}
    return Point(**{**kept, "findings": tuple(map(str, values.get("findings", ())))})


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def is_trajectory(path: str | Path) -> bool:
    """Whether a path is a file of points, which its first line tells."""
    path = Path(path)
    try:
        if path.suffix.lower() != ".jsonl" or not path.is_file():
            return False
        with path.open("rb") as file:
            return _point(_parsed(file.readline(_FIRST_LINE))) is not None
    except OSError:
        return False
