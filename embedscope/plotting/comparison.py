"""Which objective is better, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope import metrics, plugins
from embedscope.evaluation.intervals import clipped
from embedscope.ops.paired import mean_interval, split_means
from embedscope.plotting import kind
from embedscope.plotting.figure import series

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedscope.plotting.figure import Sheet
    from embedscope.plotting.inputs import Run
    from embedscope.store.results import Summary

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Outcome:
    """A metric after training with an objective.

    Attributes:
        values: (T,) float64, a trial each, of those in which it is defined.
        mean: of them.
        ci95: t interval of the mean, over several splits the corrected resampled one; None for a single trial, or split.
        differs: whether the simultaneous interval of the difference to the first objective excludes 0; of the primary metric.
    """

    values: Array
    mean: float
    ci95: tuple[float, float] | None
    differs: bool


@dataclass(frozen=True)
class Comparison:
    """The objectives of a run.

    Attributes:
        of: the run.
        before: metric -> value on the held-out rows as they came in; None if undefined.
        after: metric -> objective -> outcome; without those that are undefined in every trial.
    """

    of: Run
    before: Mapping[str, float | None]
    after: Mapping[str, Mapping[str, Outcome]]


def draw_comparisons(sheet: Sheet, comparisons: Sequence[Comparison]) -> None:
    """Draw one panel per metric and one line per objective: trials, mean and its interval."""
    from matplotlib.lines import Line2D

    objectives = list(dict.fromkeys(name for each in comparisons for after in each.after.values() for name in after))
    colors = dict(zip(objectives, series(len(objectives)), strict=True))
    wanted = [(each, metric) for each in comparisons for metric in each.after]
    legend = [Line2D([], [], marker="o", markersize=4, color=color, label=name) for name, color in colors.items()]
    legend.append(Line2D([], [], color="#666666", linestyle=(0, (3, 2)), linewidth=0.9, label="before"))
    counts = {len(objective.trials) for each in comparisons for objective in each.of.result.objectives}
    trials = max(counts)
    several = len(comparisons) > 1
    primary = ", ".join(dict.fromkeys(each.of.result.primary for each in comparisons))
    against = "the first of its run" if several else objectives[0]
    verdict = f"No significant difference in {primary} from {against}."
    if any(outcome.differs for each, metric in wanted for outcome in each.after[metric].values()):
        verdict = f"* {primary} differs from that of {against}: the simultaneous 95% interval of the difference excludes 0."
    panels = sheet.arrange(
        [f"{f'{each.of.name}: ' if several else ''}{metric}{direction(metric)}" for each, metric in wanted],
        heading=headed("Objectives", [each.of for each in comparisons], "test", "held-out samples"),
        height=sheet.lines(1.5 * len(objectives) + 4),
        legend=legend,
        notes=[
            f"Small dots: {trials if len(counts) == 1 else 'the'} trials; large dot and bar: mean and its 95% interval."
            if trials > 1
            else "One trial: no interval, so differences cannot be told from chance.",
            *([verdict] if trials > 1 and len(objectives) > 1 else []),
        ],
    )
    for axes, (each, metric) in zip(panels, wanted, strict=True):
        for name, outcome in each.after[metric].items():
            row = objectives.index(name)
            axes.plot(outcome.values, [row] * len(outcome.values), "o", color=colors[name], markersize=2, alpha=0.6)
            if outcome.ci95:
                axes.plot(outcome.ci95, [row, row], color=colors[name], linewidth=1.4)
            axes.plot(outcome.mean, row, "o", color=colors[name], markersize=4.5)
            if outcome.differs:
                axes.annotate("*", (1, row), xycoords=("axes fraction", "data"), ha="right", va="center", fontweight="bold")
        before = each.before.get(metric)
        if before is not None:
            axes.axvline(before, color="#666666", linestyle=(0, (3, 2)), linewidth=0.9, zorder=0)
        axes.set(yticks=[], ylim=(len(objectives) - 0.4, -0.6))
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=4)
        axes.spines["left"].set_visible(False)
        axes.grid(True, axis="x")


def headed(what: str, runs: Sequence[Run], rows: str, called: str) -> str:
    """Word the heading of a sheet: of which runs, and of how many rows of which layer where all have the same."""
    facts = {f", {getattr(run.result.data, rows):,} {called} of {run.result.data.layer}" for run in runs}
    return f"{what} of {', '.join(run.name for run in runs)}{facts.pop() if len(facts) == 1 else ''}"


def direction(metric: str) -> str:
    """An arrow for what is better, with a space before it; nothing where neither is. What only finetune measures are shares."""
    known = plugins.canonical(plugins.parse(metric).name) in plugins.names("metrics")
    better = metrics.direction(metric) if known else "higher"
    return {"higher": " ↑", "lower": " ↓", None: ""}[better]


def bounds(metric: str) -> tuple[float | None, float | None]:
    """Return the lowest and highest possible value of a metric; what only finetune measures are shares, and the loss."""
    if metric == "loss":  # cross-entropy
        return (0, None)
    name = plugins.canonical(plugins.parse(metric).name)
    return metrics.declaration(plugins.load("metrics", name)).bounds if name in plugins.names("metrics") else (0, 1)


@kind("Comparison", takes="runs", draw=draw_comparisons)
def comparison(inputs: Sequence[Run]) -> list[Comparison]:
    """Metrics after training with each objective: trials, means and intervals."""
    found = []
    for run in inputs:
        metrics = dict.fromkeys(metric for each in run.result.objectives for metric in each.summary)
        after: dict[str, dict[str, Outcome]] = {metric: {} for metric in metrics}
        for each in run.result.objectives:
            for metric in metrics:
                values = [value for trial in each.trials if (value := trial.after.get(metric)) is not None]
                if values:
                    after[metric][each.expression] = Outcome(
                        np.array(values),
                        float(np.mean(values)),
                        _interval(metric, values, run),
                        _differs(each.summary.get(metric)),
                    )
        found.append(Comparison(run, run.result.before, {metric: outcomes for metric, outcomes in after.items() if outcomes}))
    return found


def _differs(summary: Summary | None) -> bool:
    return summary is not None and bool(summary.called)


def _interval(metric: str, values: Sequence[float], run: Run) -> tuple[float, float] | None:
    splits = run.result.splits
    if len(values) % splits:  # undefined in some of the trials
        return None
    return clipped(mean_interval(split_means(values, splits), run.result.ratio), bounds(metric))
