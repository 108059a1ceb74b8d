"""How training went: the terms of the objective and the validation curves of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.plotting import kind
from embedscope.plotting.comparison import bounds, headed
from embedscope.plotting.figure import INK, fitted, series

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from embedscope.plotting.figure import Sheet
    from embedscope.plotting.inputs import Run

    Array = np.ndarray[Any, Any]

# What the columns of a log begin with that are measured on rows which training does not see.
_VALIDATION = "val_"

# Columns of the log that are not drawn as curves.
_ASIDE = ("epoch", "learning_rate")


@dataclass(frozen=True)
class Band:
    """A column of the log over the trials of an objective, from the first epoch that has a value to the last.

    Attributes:
        epochs: (E,) int64, from 1.
        mean: (E,) float64, over the trials that have a value in the epoch.
        std: (E,) float64, divisor n - 1; 0 if one trial has a value.
    """

    epochs: Array
    mean: Array
    std: Array


@dataclass(frozen=True)
class Curves:
    """The logs of a run.

    Attributes:
        of: the run.
        terms: objective -> column -> band: "objective" is the sum, the others its terms.
        validation: column, without "val_" -> objective -> band.
        trials: of each objective.
    """

    of: Run
    terms: Mapping[str, Mapping[str, Band]]
    validation: Mapping[str, Mapping[str, Band]]
    trials: int


def draw_curves(sheet: Sheet, curves: Sequence[Curves]) -> None:
    """Draw one panel of terms per objective and one panel per validation curve; bands show the spread over trials."""
    objectives = _colored(name for each in curves for name in each.terms)  # as the comparison of the run has them
    parts = _colored(term for each in curves for terms in each.terms.values() for term in terms if term != "objective")
    titles, lines = [], []
    bounded: list[tuple[float | None, float | None]] = []
    for each in curves:
        prefix = f"{each.of.name}: " if len(curves) > 1 else ""
        for objective, terms in each.terms.items():
            titles.append(f"{prefix}{objective}")
            bounded.append((None, None))
            lines.append({term: (band, parts.get(term, INK)) for term, band in terms.items()})
        for column, found in each.validation.items():
            titles.append(f"{prefix}validation {column}")
            bounded.append(bounds(column))
            lines.append({objective: (band, objectives[objective]) for objective, band in found.items()})
    trials = max(each.trials for each in curves)
    panels = sheet.arrange(
        titles,
        heading=headed("Training", [each.of for each in curves], "train", "training samples"),
        aspect=0.85,
        notes=[
            f"Line: mean over {trials} trials; band: one standard deviation to either side." if trials > 1 else "One trial.",
            "Terms of each objective before weighting; black: the weighted sum.",
        ],
    )
    for axes, panel, limits in zip(panels, lines, bounded, strict=True):
        for name, (band, shown) in panel.items():
            axes.fill_between(band.epochs, *_spread(band, limits), color=shown, alpha=0.2, linewidth=0)
            label = fitted(name, 0.6 * sheet.panel[0], 0.833 * sheet.width.font)
            axes.plot(
                band.epochs,
                band.mean,
                color=shown,
                label=label,
                linewidth=2.4 if name == "objective" else 1.2,  # wider, since a single term lies on it
                marker="o" if len(band.epochs) == 1 else None,
                markersize=3,
            )
        axes.set(xlabel="epoch")
        axes.locator_params(axis="x", integer=True)
        axes.grid(True, axis="y")
        _add_legend(sheet, axes, len(panel))


def _spread(band: Band, limits: tuple[float | None, float | None]) -> tuple[Array, Array]:
    """One standard deviation to either side of the mean, within the bounds of a metric."""
    low, high = limits
    within = (-np.inf if low is None else low, np.inf if high is None else high)  # NumPy before 2.1 wants at least one bound
    return np.clip(band.mean - band.std, *within), np.clip(band.mean + band.std, *within)


def _add_legend(sheet: Sheet, axes: Any, count: int) -> None:
    """Add a legend above all lines and bands, for which the axis is made longer; it has no ticks there."""
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
    taken = min(0.6, sheet.lines(1.15 * count + 0.5, 0.833) / max(sheet.panel[1] - sheet.lines(4), 0.1))
    axes.set_ylim(low, low + (high - low) / (1 - taken))
    axes.legend(loc="upper right")


def _colored(names: Iterable[str]) -> dict[str, str]:
    distinct = list(dict.fromkeys(names))
    return dict(zip(distinct, series(len(distinct)), strict=True))


@kind("Training", takes="runs", draw=draw_curves)
def training(inputs: Sequence[Run]) -> list[Curves]:
    """Loss terms and validation curves by epoch, with their spread over trials."""
    found = []
    for run in inputs:
        terms: dict[str, dict[str, Band]] = {}
        validation: dict[str, dict[str, Band]] = {}
        for objective, logs in zip(run.result.objectives, run.logs, strict=True):
            for column in dict.fromkeys(column for log in logs for column in log if column not in _ASIDE):
                band = _band([log.get(column, []) for log in logs])
                if band is None:
                    continue
                if column.startswith(_VALIDATION):
                    validation.setdefault(column.removeprefix(_VALIDATION), {})[objective.expression] = band
                else:
                    terms.setdefault(objective.expression, {})[column] = band
        found.append(Curves(run, terms, validation, max(map(len, run.logs))))
    return found


def _band(trials: Sequence[Sequence[float]]) -> Band | None:
    """Average trials of any lengths; None where no epoch has a value."""
    longest = max(map(len, trials))
    values = np.full((len(trials), longest), np.nan)
    for row, trial in zip(values, trials, strict=True):
        row[: len(trial)] = trial
    there = np.isfinite(values)
    chosen = np.flatnonzero(there.any(axis=0))
    if not len(chosen):
        return None
    values, there = values[:, chosen], there[:, chosen]
    count = there.sum(axis=0)
    mean = np.where(there, values, 0).sum(axis=0) / count
    squares = np.where(there, values - mean, 0) ** 2
    return Band(chosen + 1, mean, np.sqrt(squares.sum(axis=0) / np.maximum(count - 1, 1)))
