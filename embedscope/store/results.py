"""The results of a run of finetune: the records, and run.json, which this module alone writes and reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from embedscope._version import __version__
from embedscope.errors import InputError
from embedscope.plugins import imported
from embedscope.store import typed
from embedscope.store.comparison import ComparedMetric, ComparisonTable, mean_lines
from embedscope.text import aligned, counted, html_table

if TYPE_CHECKING:
    import pandas

SCHEMA = "embedscope.finetune/1"
MANIFEST = "run.json"

# The metric that the verdict is about, unless another is asked for.
PRIMARY = "macro_f1"


@dataclass(frozen=True)
class Trial:
    """One training of one objective.

    Attributes:
        seed: of the head's start and the order of the batches; the same for every objective.
        epochs: number of epochs trained.
        best_epoch: the epoch whose weights were kept.
        after: metric -> value on the held-out rows in the embedding of the head; None if it is undefined.
        seconds: spent on training.
        directory: where head, features and log lie, relative to the run directory.
        validation: the criterion on the validation rows in the best epoch, or None without validation rows.
        split: number of the split that it was trained and measured on, from 0.
    """

    seed: int
    epochs: int
    best_epoch: int
    after: Mapping[str, float | None] = field(hash=False)
    seconds: float
    directory: str
    validation: float | None = None
    split: int = 0


@dataclass(frozen=True)
class Candidate:
    """An objective of a sweep, judged by the validation rows alone.

    Attributes:
        expression: of this point of the grid.
        validation: the criterion per trial, in the best epoch of each; empty if a training diverged.
        mean: of these, by which the best one is chosen, or None.
        directories: of its trials, relative to the run directory.
        note: why there is no mean.
    """

    expression: str
    validation: tuple[float, ...]
    mean: float | None
    directories: tuple[str, ...]
    note: str | None = None


@dataclass(frozen=True)
class Summary:
    """A metric after training, over the trials of an objective, and against the first objective.

    The verdict is about the primary metric. The others are described, each with an interval of its own.

    Attributes:
        mean: over trials; None if the metric is undefined.
        std: divisor n - 1; None for a single trial.
        difference: mean of the paired differences to the first objective; None for the first one itself.
        ci95: its 95% t interval by itself, or None if the trials leave nothing to estimate it from; over several splits that of
            the corrected resampled t test.
        p_value: two-sided, of the same test, uncorrected; None likewise.
        p_corrected: of the primary metric, corrected for the number of objectives compared with the first: below 0.05 exactly
            if `simultaneous` excludes 0.
        wilcoxon_p: two-sided, of Wilcoxon's signed-rank test, uncorrected; None if all differences are 0, and over splits.
        wilcoxon_corrected: of the primary metric, by Holm's method over objectives.
        simultaneous: of the primary metric, the 95% intervals that hold for all objectives at once; None for fewer than five
            trials (or splits, if there are several).
        called: of the primary metric, whether `simultaneous` excludes 0; None if no verdict is given.
        std_difference: standard deviation of the paired differences, divisor n - 1; over several splits, of their means.
        needed: of the primary metric with too few trials (or splits), how many would show a difference of this size with a
            power of 0.8; None if there is no estimate, or 10,000 are too few.
        rows_ci95: 95% interval of the difference over test rows, by the bootstrap; of accuracy and macro_f1 on one split.
    """

    mean: float | None
    std: float | None
    difference: float | None = None
    ci95: tuple[float, float] | None = None
    p_value: float | None = None
    p_corrected: float | None = None
    wilcoxon_p: float | None = None
    wilcoxon_corrected: float | None = None
    simultaneous: tuple[float, float] | None = None
    called: bool | None = None
    std_difference: float | None = None
    needed: int | None = None
    rows_ci95: tuple[float, float] | None = None


@dataclass(frozen=True)
class ObjectiveResult:
    """An objective with its trials and their summary, metric by metric.

    Attributes:
        expression: of the objective; of a sweep, of the one that was best on the validation rows.
        trials: one or more.
        summary: metric -> summary of the trials.
        sweep: the expression with lists that made the grid, or None.
        candidates: all objectives of the grid, the chosen one among them; empty without a sweep.
        warnings: what a user should know, one sentence each.
    """

    expression: str
    trials: tuple[Trial, ...]
    summary: Mapping[str, Summary] = field(hash=False)
    sweep: str | None = None
    candidates: tuple[Candidate, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunData:
    """The rows of a run.

    Attributes:
        train: number of rows trained on.
        test: number of rows held out.
        validation: number of rows that the epoch was chosen by; 0 without any.
        name: of the features.
        source: where they were read from.
        layer: of the model.
        held_out: where the test rows are from, in words.
        validated_on: where the validation rows are from.
        unlabelled: number of rows without a label, which are left out.
        dimensions: D.
        classes: K.
        measured_on: what the metrics were computed on, in words.
        drawn: whether the test rows were drawn by chance, so that other splits are possible.
    """

    train: int
    test: int
    validation: int = 0
    name: str = ""
    source: str = ""
    layer: str = "the features"
    held_out: str = ""
    validated_on: str = ""
    unlabelled: int = 0
    dimensions: int | None = None
    classes: int | None = None
    measured_on: str = ""
    drawn: bool = False


@dataclass(frozen=True, repr=False)
class Finetuning:
    """A run of finetune; prints as a table of means.

    Attributes:
        path: of the run directory; a temporary one, if none was named, is removed when this result is garbage-collected.
        options: every option with the value that was used, JSON values.
        data: the rows.
        objectives: one or more, in the order they were given.
        seconds: the whole run took.
        before: metric -> value on the held-out rows as they came in, the mean over splits; None if it is undefined.
        primary: the metric that the verdict is about.
        splits: number of splits drawn.
        before_by_split: `before` of each split; empty for a single one.
    """

    path: Path
    options: Mapping[str, Any] = field(hash=False)
    data: RunData
    objectives: tuple[ObjectiveResult, ...]
    seconds: float
    before: Mapping[str, float | None] = field(hash=False)
    primary: str = PRIMARY
    splits: int = 1
    before_by_split: tuple[Mapping[str, float | None], ...] = field(default=(), hash=False)

    @property
    def ratio(self) -> float:
        """Number of test rows by number of other rows if several splits were drawn, else 0; see `ops.paired`."""
        return self.data.test / (self.data.train + self.data.validation) if self.splits > 1 else 0.0

    @property
    def comparison(self) -> ComparisonTable:
        """Every metric of every objective: mean, std, and difference to the first objective with its interval and p-values."""
        return ComparisonTable(
            [
                ComparedMetric(
                    metric=metric,
                    objective=done.expression,
                    before=self.before.get(metric),
                    mean=done.summary[metric].mean,
                    std=done.summary[metric].std,
                    difference=done.summary[metric].difference,
                    ci95=done.summary[metric].ci95,
                    p_value=done.summary[metric].p_value,
                    p_corrected=done.summary[metric].p_corrected,
                )
                for metric in self.objectives[0].summary
                for done in self.objectives
            ]
        )

    def to_dataframe(self) -> pandas.DataFrame:
        """Return one row per trial: objective, seed, epochs, best_epoch, then one column per metric after training.

        Needs pandas.
        """
        return imported("pandas", extra="tables").DataFrame(
            [
                {
                    "objective": done.expression,
                    "seed": trial.seed,
                    "epochs": trial.epochs,
                    "best_epoch": trial.best_epoch,
                    **{name: float("nan") if value is None else value for name, value in trial.after.items()},
                }
                for done in self.objectives
                for trial in done.trials
            ]
        )

    def __repr__(self) -> str:
        return f"{self._heading()}\n{aligned(mean_lines(self.comparison))}"

    def _repr_html_(self) -> str:
        return f"<p>{self._heading()}</p>{html_table(mean_lines(self.comparison))}"

    def _heading(self) -> str:
        size = f"{counted(len(self.objectives), 'objective')} x {counted(len(self.objectives[0].trials), 'trial')}"
        rows = f"trained on {counted(self.data.train, 'row')}, measured on {counted(self.data.test, 'held-out row')}"
        return f"finetune: {size}, {rows}"


@dataclass(frozen=True)
class _Document:
    """The keys of run.json that are read as they stand; `before` was in the trials alone in earlier versions."""

    options: Mapping[str, Any]
    data: RunData
    objectives: tuple[ObjectiveResult, ...]
    seconds: float
    before: Mapping[str, float | None] | None = None
    primary: str = PRIMARY
    splits: int = 1
    before_by_split: tuple[Mapping[str, float | None], ...] = ()


def as_json(result: Finetuning) -> dict[str, Any]:
    """Lay a run out in JSON values, as run.json has it; every trial has `before` of its split too."""
    document = asdict(result)
    del document["path"]
    befores = document["before_by_split"] or [document["before"]]
    for objective in document["objectives"]:
        objective["trials"] = [{**trial, "before": befores[trial["split"]]} for trial in objective["trials"]]
    found: dict[str, Any] = json.loads(json.dumps({"schema": SCHEMA, "embedscope": __version__, **document}, allow_nan=False))
    return found


def write_run(path: Path, result: Finetuning) -> None:
    """Write run.json into a directory."""
    text = json.dumps(as_json(result), indent=1)
    (path / MANIFEST).write_text(text + "\n", encoding="utf-8")


def is_run(source: str) -> bool:
    """Tell whether a path is a run directory."""
    try:
        return bool(_parsed(Path(source) / MANIFEST)["schema"] == SCHEMA)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def read_run(source: str) -> Finetuning:
    """Read run.json as the record that it was written from; fields of a newer version are left out.

    Raises:
        InputError: the file cannot be read, or holds anything that finetune does not write.
    """
    path = Path(source)
    try:
        parsed = _parsed(path / MANIFEST)
        if not isinstance(parsed, dict) or parsed.get("schema") != SCHEMA:
            raise InputError(f"its schema is not {SCHEMA}")
        document: _Document = typed.read(_Document, parsed, "run")
        if not document.objectives or not all(each.trials for each in document.objectives):
            raise InputError("no objective, or an objective without trials")
        if document.splits < 1 or any(len(each.trials) % document.splits for each in document.objectives):
            raise InputError(f"the trials of an objective do not divide evenly into {document.splits} splits")
        if document.splits > 1 and not document.data.train + document.data.validation:
            raise InputError("several splits without rows to train on")
        befores = len(document.before_by_split)
        if any(not 0 <= trial.split < max(befores, 1) for each in document.objectives for trial in each.trials):
            raise InputError(f"a trial of a split beyond the {max(befores, 1)} with measurements before training")
        for each in document.objectives:
            for directory in [
                *(trial.directory for trial in each.trials),
                *(d for c in each.candidates for d in c.directories),
            ]:
                _check_inside(directory)
        before = document.before
        if before is None:
            earlier = parsed["objectives"][0]["trials"][0].get("before", {})
            before = typed.read(Mapping[str, float | None], earlier, "run.objectives[0].trials[0].before")
    except (OSError, ValueError, RecursionError, InputError) as error:
        reason = f"{type(error).__name__} {error}" if isinstance(error, RecursionError | ValueError) else str(error)
        raise InputError(f"{path / MANIFEST} is damaged: {reason}; run finetune again with `overwrite=True`") from error
    return Finetuning(
        path,
        document.options,
        document.data,
        document.objectives,
        document.seconds,
        before,
        document.primary,
        document.splits,
        document.before_by_split,
    )


def _parsed(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def _check_inside(directory: str) -> None:
    parts = PurePosixPath(directory).parts
    if not parts or ".." in parts or directory.startswith("/") or "\0" in directory:
        raise InputError(f"{directory[:80]!r} is not a directory of the run")
