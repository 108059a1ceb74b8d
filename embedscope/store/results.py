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
from embedscope.text import aligned, html_table

if TYPE_CHECKING:
    import pandas

SCHEMA = "embedscope.finetune/1"
MANIFEST = "run.json"


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
    """

    seed: int
    epochs: int
    best_epoch: int
    after: Mapping[str, float | None] = field(hash=False)
    seconds: float
    directory: str
    validation: float | None = None


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

    Attributes:
        mean: over trials; None if the metric is undefined.
        std: divisor n - 1; None for a single trial.
        difference: mean of the paired differences to the first objective; None for the first one itself.
        ci95: its 95% t interval, or None if the trials leave nothing to estimate it from.
        p_value: two-sided, of the paired t test, uncorrected; None likewise.
        p_corrected: the same by Holm's method, for the number of comparisons in the run.
        wilcoxon_p: two-sided, of Wilcoxon's signed-rank test, uncorrected; None if all differences are 0.
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


@dataclass(frozen=True, repr=False)
class Finetuning:
    """A run of finetune; prints as a table of means.

    Attributes:
        path: of the run directory; a temporary one, if none was named, is removed when this result is garbage-collected.
        options: every option with the value that was used, JSON values.
        data: the rows.
        objectives: one or more, in the order they were given.
        seconds: the whole run took.
        before: metric -> value on the held-out rows as they came in; None if it is undefined.
    """

    path: Path
    options: Mapping[str, Any] = field(hash=False)
    data: RunData
    objectives: tuple[ObjectiveResult, ...]
    seconds: float
    before: Mapping[str, float | None] = field(hash=False)

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
        counted = [
            f"{len(each)} {what}{'' if len(each) == 1 else 's'}"
            for what, each in (("objective", self.objectives), ("trial", self.objectives[0].trials))
        ]
        rows = f"trained on {self.data.train:,} rows, measured on {self.data.test:,} held-out rows"
        return f"finetune: {' x '.join(counted)}, {rows}"


@dataclass(frozen=True)
class _Document:
    """The keys of run.json that are read as they stand; `before` was in the trials alone in earlier versions."""

    options: Mapping[str, Any]
    data: RunData
    objectives: tuple[ObjectiveResult, ...]
    seconds: float
    before: Mapping[str, float | None] | None = None


def as_json(result: Finetuning) -> dict[str, Any]:
    """Lay a run out in JSON values, as run.json has it; `before` stands in every trial too."""
    document = asdict(result)
    del document["path"]
    for objective in document["objectives"]:
        objective["trials"] = [{**trial, "before": document["before"]} for trial in objective["trials"]]
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
            raise InputError("an objective without trials, or no objective")
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
    return Finetuning(path, document.options, document.data, document.objectives, document.seconds, before)


def _parsed(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def _check_inside(directory: str) -> None:
    parts = PurePosixPath(directory).parts
    if not parts or ".." in parts or directory.startswith("/") or "\0" in directory:
        raise InputError(f"{directory[:80]!r} is not a directory of the run")
