"""A file of measurements, step by step: written by a Monitor while a model trained, or by `score` of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.errors import InputError, UsageError, unknown
from embedscope.metrics import direction
from embedscope.plotting.figure import series
from embedscope.store.reader import named
from embedscope.store.trajectories import Point, is_trajectory, read_points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedscope.plotting.figure import Sheet

    Array = np.ndarray[Any, Any]

LOSS = "loss"


@dataclass(frozen=True, eq=False)
class Course:
    """A layer over the steps of a file.

    Attributes:
        name: of the file, and of the layer if there are several.
        layer: that was measured.
        steps: (S,) int64, ascending.
        values: metric -> (S,) float64, NaN if undefined or not measured; also LOSS, if it was told.
        source: path of the file.
        points: (S,) the record of each step in the file.
    """

    name: str
    layer: str
    steps: Array
    values: Mapping[str, Array]
    source: str = ""
    points: tuple[Point, ...] = ()


def read_courses(sources: Any, *, layers: str | Sequence[str], split: str | None) -> list[Course]:
    """Read the sources that are files of measurements, [name=]path or a mapping of names to paths; an empty list if none is.

    UsageError for such files mixed with other sources, a layer that none of them has, or a split; InputError for a damaged one.
    """
    listed = [sources] if isinstance(sources, str | Path) else sources
    if isinstance(listed, Mapping) and all(isinstance(each, str | Path) for each in listed.values()):
        listed = [f"{name}={path}" for name, path in listed.items()]
    if not isinstance(listed, list | tuple) or not all(isinstance(each, str | Path) for each in listed):
        return []
    pairs = [named(str(each)) for each in listed]
    others = [path for _, path in pairs if not is_trajectory(path)]
    if len(others) == len(pairs):
        return []
    if others:
        raise UsageError(f"{others[0]} is not a file of measurements, but other inputs are; draw the two kinds separately")
    if split is not None:
        raise UsageError("the rows of a file of measurements are fixed; omit `split=`")
    found = [(name, path, read_points(Path(path))) for name, path in pairs]
    known = list(dict.fromkeys(point.layer for _, _, points in found for point in points))
    wanted = [layers] if isinstance(layers, str) else list(layers) or known
    for layer in wanted:
        if layer not in known:
            raise UsageError(unknown("layer", layer, known))
    courses = []
    for name, path, points in found:
        for layer in wanted:
            mine = [point for point in points if point.layer == layer]
            whole = [name] if len({each for each, _, _ in found}) == len(found) else [path]
            label = ": ".join(whole * (len(found) > 1) + [layer] * (len(wanted) > 1)) or name
            if mine:
                metrics = dict.fromkeys(metric for point in mine for metric in point.metrics)
                values = {metric: _array(point.metrics.get(metric) for point in mine) for metric in metrics}
                if any(point.loss is not None for point in mine):
                    values[LOSS] = _array(point.loss for point in mine)
                steps = np.array([point.step for point in mine])
                courses.append(Course(label, layer, steps, values, path, tuple(mine)))
    return courses


def _array(values: Any) -> Array:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def chosen(courses: Sequence[Course], metrics: Sequence[str]) -> list[Course]:
    """Keep some metrics, in that order; all if none is named. InputError for one that no course has."""
    known = list(dict.fromkeys(metric for each in courses for metric in each.values))
    for metric in metrics:
        if metric not in known:
            raise InputError(unknown("measured metric", metric, known))
    if not metrics:
        return list(courses)
    return [replace(each, values={name: each.values[name] for name in metrics if name in each.values}) for each in courses]


def draw_courses(sheet: Sheet, courses: Sequence[Course]) -> None:
    """Draw one panel per metric with one line per course over the steps, and the loss last."""
    names = sorted(dict.fromkeys(name for each in courses for name in each.values), key=LOSS.__eq__)
    colors = series(len(courses))
    handles = _handles([each.name for each in courses], colors) if len(courses) > 1 else []
    layers = {each.layer for each in courses}
    heading = f"Metrics of {layers.pop()} by step" if len(layers) == 1 else "Metrics by step"
    panels = sheet.arrange([_title(name) for name in names], heading=heading, aspect=0.8, legend=handles)
    for axes, name in zip(panels, names, strict=True):
        drawn: list[Course] = []
        for each, color in zip(courses, colors, strict=True):
            if name not in each.values or (name == LOSS and any(_same(each, other) for other in drawn)):
                continue  # layers of one training share its loss
            drawn.append(each)
            few = len(each.steps) <= 40
            axes.plot(each.steps, each.values[name], "-o" if few else "-", color=color, markersize=2.5, linewidth=1.2)
        axes.set_xlabel("step")
        axes.locator_params(axis="x", nbins=4, integer=True)
        axes.xaxis.set_major_formatter(lambda step, place: f"{step:,.0f}")
        axes.margins(y=0.15)
        values = np.concatenate([each.values[name] for each in drawn])
        values = values[np.isfinite(values)]
        if len(values) and (values == np.round(values)).all():
            axes.locator_params(axis="y", integer=True, min_n_ticks=1)
        axes.grid(True, axis="y")


def _same(one: Course, other: Course) -> bool:
    return np.array_equal(one.steps, other.steps) and np.array_equal(one.values[LOSS], other.values[LOSS], equal_nan=True)


def _title(name: str) -> str:
    arrows = {"higher": " ↑", "lower": " ↓", None: ""}
    return name if name == LOSS else f"{name}{arrows[direction(name)]}"


def _handles(names: Sequence[str], colors: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=color, label=name) for name, color in zip(names, colors, strict=True)]
