"""The frozen records that travel between layers. N rows, D dimensions, C channels, K classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Trial:
    """One training of one objective.

    Attributes:
        seed: of the head's start and the order of the batches; the same for every objective.
        epochs: trained.
        best_epoch: whose weights were kept.
        before: metric -> value on the held-out rows as they came in; None where it is undefined.
        after: the same on the embedding that the head gives.
        seconds: spent on training.
        directory: where head, features and log lie, relative to the run directory.
        validation: the criterion on the validation rows in the best epoch, or None where there are none.
    """

    seed: int
    epochs: int
    best_epoch: int
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]
    seconds: float
    directory: str
    validation: float | None = None


@dataclass(frozen=True)
class Candidate:
    """An objective of a sweep, by the validation rows alone.

    Attributes:
        expression: of this point of the grid.
        validation: the criterion trial by trial, in the best epoch of each; none where a training diverged.
        mean: of these, by which the best one is chosen, or None.
        directories: of its trials, relative to the run directory.
        note: why there is no mean.
    """

    expression: str
    validation: Sequence[float]
    mean: float | None
    directories: Sequence[str]
    note: str | None = None


@dataclass(frozen=True)
class Summary:
    """A metric after training, over the trials of an objective, and against the first objective.

    Attributes:
        mean: over trials; None where the metric is undefined.
        std: divisor n - 1; None for a single trial.
        difference: mean of the paired differences to the first objective; None for the first one itself.
        ci95: its 95 % t interval, or None where the trials leave nothing to estimate it from.
        p_value: two-sided, of the paired t test, uncorrected; None likewise.
        p_corrected: the same by Holm's method, for the number of comparisons in the run.
        wilcoxon_p: two-sided, of Wilcoxon's signed-rank test, uncorrected; None where all differences are 0.
        wilcoxon_corrected: the same by Holm's method.
    """

    mean: float | None
    std: float | None
    difference: float | None = None
    ci95: tuple[float, float] | None = None
    p_value: float | None = None
    p_corrected: float | None = None
    wilcoxon_p: float | None = None
    wilcoxon_corrected: float | None = None


@dataclass(frozen=True)
class ObjectiveResult:
    """An objective with its trials and what they come to, metric by metric.

    Attributes:
        expression: of the objective; of a sweep, of the one that was best on the validation rows.
        trials: of it.
        summary: metric -> what the trials come to.
        sweep: the expression with lists that made the grid, or None.
        candidates: all objectives of the grid, the chosen one among them; empty where there was none.
        warnings: what a user should know, a sentence each.
    """

    expression: str
    trials: Sequence[Trial]
    summary: Mapping[str, Summary]
    sweep: str | None = None
    candidates: Sequence[Candidate] = ()
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Finetuning:
    """A run of finetune; `run.json` holds these fields."""

    path: Path
    options: Mapping[str, Any]
    data: Mapping[str, Any]
    objectives: Sequence[ObjectiveResult]
    seconds: float
