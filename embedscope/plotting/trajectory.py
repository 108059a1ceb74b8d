"""How metrics change from checkpoint to checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedscope.evaluation import evaluate
from embedscope.metrics import STANDARD, direction
from embedscope.plotting import kind
from embedscope.plotting.courses import Course, chosen, draw_courses
from embedscope.plotting.figure import fitted, series
from embedscope.plotting.inputs import Embedding, described

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedscope.plotting.figure import Sheet


@dataclass(frozen=True)
class Value:
    """A metric of one checkpoint, with its 95% interval, if it has one."""

    value: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Stage:
    """A checkpoint.

    Attributes:
        of: the input.
        metrics: name -> value; without those that are undefined.
    """

    of: Embedding
    metrics: Mapping[str, Value]


def draw_stages(sheet: Sheet, stages: Sequence[Stage | Course]) -> None:
    """Draw a panel per metric, the checkpoints in order from left to right; of files of measurements, over their steps."""
    if courses := [each for each in stages if isinstance(each, Course)]:
        draw_courses(sheet, courses)
        return
    _draw_checkpoints(sheet, [each for each in stages if isinstance(each, Stage)])


def _draw_checkpoints(sheet: Sheet, stages: Sequence[Stage]) -> None:
    heading, _, notes = described("Metrics", [each.of for each in stages], drawn=False)
    names = list(dict.fromkeys(name for each in stages for name in each.metrics))
    arrows = {"higher": " ↑", "lower": " ↓", None: ""}
    titles = [f"{name}{arrows[direction(name)]}" for name in names]
    if any(value.ci95 for each in stages for value in each.metrics.values()):
        notes.append("Bars: 95% intervals over samples.")
    panels = sheet.arrange(titles, heading=heading, aspect=0.8, notes=notes)
    # As many names as there is room for; the first and the last in any case.
    each_name = sheet.lines(1.2)
    step = max(1, int(np.ceil(len(stages) * each_name / (0.8 * sheet.panel[0]))))
    ticks = sorted({*range(0, len(stages), step), len(stages) - 1})
    if len(ticks) > 2 and ticks[-1] - ticks[-2] < step:
        del ticks[-2]
    labels = [fitted(stages[tick].of.name, 0.35 * sheet.panel[1], 0.833 * sheet.width.font) for tick in ticks]
    [color] = series(1)
    for axes, name in zip(panels, names, strict=True):
        there = [(place, each.metrics[name]) for place, each in enumerate(stages) if name in each.metrics]
        axes.plot([place for place, _ in there], [each.value for _, each in there], "-o", color=color, markersize=3.5)
        for place, each in there:
            if each.ci95:
                axes.plot([place, place], each.ci95, color=color, linewidth=1)
        upright = max(map(len, labels)) * len(labels) <= 24
        axes.set_xticks(ticks, labels, rotation=0 if upright else 90)
        axes.set_xlim(-0.4, len(stages) - 0.6)
        axes.margins(y=0.15)
        if all(each.value == int(each.value) for _, each in there):
            axes.locator_params(axis="y", integer=True, min_n_ticks=1)
        axes.grid(True, axis="y")


@kind("Trajectory", takes="checkpoints", draw=draw_stages)
def trajectory(
    inputs: Sequence[Embedding | Course], *, metrics: str | Sequence[str] = STANDARD, seed: int = 0
) -> list[Stage] | list[Course]:
    """Metrics over checkpoints, in the order given, or over the steps of a monitor.

    All metrics of all rows; where not all rows are shown, those with a value per sample are estimated from the rows
    that are. Intervals as `score --ci` has them; the seed is theirs.
    """
    if courses := [each for each in inputs if isinstance(each, Course)]:
        return chosen(courses, [metrics] if isinstance(metrics, str) else metrics)
    stages = []
    for each in inputs:
        assert isinstance(each, Embedding)
        scores = evaluate(each.features, metrics, anchors=each.shown, ci=True, device="cpu", seed=seed)
        found = {key: Value(one.value, one.ci95) for key, one in scores.metrics.items() if one.value is not None}
        stages.append(Stage(each, found))
    return stages
