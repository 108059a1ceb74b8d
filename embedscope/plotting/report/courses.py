"""The page of files of measurements: findings, last values, and every metric over the steps; nothing is measured anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope._version import __version__
from embedscope.metrics import direction
from embedscope.plotting.courses import LOSS
from embedscope.plotting.report import document
from embedscope.plotting.report.packing import array
from embedscope.store.files import finished

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embedscope.plotting.courses import Course
    from embedscope.store.trajectories import Point


def write_courses(path: Path, courses: Sequence[Course], *, command: str = "") -> None:
    """Write the page of the courses, side by side; a file of that name is replaced, and only by a page that is complete.

    Args:
        path: of the page.
        courses: a layer of a file each, with its points.
        command: what was typed, for the provenance.

    Raises:
        MissingExtraError: plotly is not installed.
        OutputError: the file system refuses the page.
    """
    script = document.plotly_script()
    names = dict.fromkeys(name for each in courses for name in each.values)
    data = {
        "command": command,
        "embedscope": __version__,
        "classes": [],
        "rows": [],
        "views": [],
        "runs": [],
        "better": {name: "lower" if name == LOSS else direction(name) for name in names},
        "courses": [packed_course(each) for each in courses],
    }
    title = "embedscope: " + ", ".join(each.name for each in courses)
    with finished(path) as partial:
        partial.write_text(document.page(title, data, script), encoding="utf-8")


def packed_course(course: Course) -> dict[str, Any]:
    """Pack a course: its lines as arrays with NaN for gaps, the findings with their steps, and where it came from."""
    last = course.points[-1]
    checkpoints = [point.checkpoint for point in course.points]
    return {
        "name": course.name,
        "source": course.source,
        "layer": course.layer,
        "steps": array(course.steps.astype(np.float64)),
        "values": {name: array(values) for name, values in course.values.items()},
        "checkpoints": checkpoints if any(checkpoints) else None,
        "findings": [[point.step, text] for point in course.points for text in point.findings],
        "samples": last.samples,
        "dimensions": last.dimensions,
        "classes": last.classes,
        "provenance": _origin(course.points),
    }


def _origin(points: Sequence[Point]) -> list[list[str]]:
    """Say when the points were measured, at what cost, and of what: lines of name and text."""
    times = [point.time for point in points if point.time]
    seconds = [point.seconds for point in points if point.seconds is not None]
    lines = [["steps", f"{points[0].step:,} to {points[-1].step:,}"]]
    if times:
        lines.append(["measured", f"{times[0]} to {times[-1]}" if times[0] != times[-1] else times[0]])
    if seconds:
        lines.append(["seconds per measurement", f"{np.median(seconds):.3g} (median), of all layers of the step"])
    if points[-1].checkpoint:
        lines.append(["last checkpoint", points[-1].checkpoint])
    return lines
