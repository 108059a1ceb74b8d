"""One table of many runs: what `score --json` printed, and run.json of finetune, as rows; and its layouts."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping  # noqa: TC003 (`typed.read` resolves the fields' types)
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedscope._version import __version__
from embedscope.errors import InputError
from embedscope.evaluation.finding import first_names
from embedscope.plugins import Spec
from embedscope.progress import silent
from embedscope.store import typed
from embedscope.store.opening import check_file
from embedscope.store.results import MANIFEST
from embedscope.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SCORE, FINETUNE, MERGED = "embedscope.score/1", "embedscope.finetune/1", "embedscope.merge/1"
FACTS = ("name", "source", "layer", "samples", "dimensions", "classes")

_MERGED = f"{SCORE} (from score) and {FINETUNE} (run.json from finetune)"
_STORES = (".h5", ".hdf5")
_DAMAGED = object()

# More than any scores take: a table of a million rows by a hundred metrics.
_LARGEST = 2**30


@dataclass(frozen=True)
class MergedValue:
    """A metric of a run: its value, None if undefined, and what `score` reports about it."""

    value: float | None
    ci95: tuple[float, float] | None = None
    better: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class MergedRow:
    """One embedding of one file, or one objective of a run of finetune; the fields are those of `score --json`."""

    name: str
    source: str
    layer: str
    samples: int
    dimensions: int | None
    classes: int | None
    metrics: Mapping[str, MergedValue] = field(hash=False)


@dataclass(frozen=True)
class _Scores:
    results: tuple[MergedRow, ...]


@dataclass(frozen=True)
class _Summary:
    mean: float | None


@dataclass(frozen=True)
class _Objective:
    expression: str
    summary: Mapping[str, _Summary]


@dataclass(frozen=True)
class _Data:
    test: int
    layer: str = ""
    dimensions: int | None = None
    classes: int | None = None


@dataclass(frozen=True)
class _Finetuning:
    data: _Data
    objectives: tuple[_Objective, ...]


@dataclass(frozen=True)
class MergedTable:
    """Rows of several files, with a column for each metric that any of them has.

    Attributes:
        rows: in the order of the files.
        metrics: column -> "higher", "lower" or None: what is better.
    """

    rows: tuple[MergedRow, ...]
    metrics: Mapping[str, str | None] = field(hash=False)

    def columns(self) -> dict[str, list[Any]]:
        """Lay the rows out by column: facts, then value, low and high end of the interval of each metric; None if missing."""
        found: dict[str, list[Any]] = {name: [getattr(row, name) for row in self.rows] for name in FACTS}
        for key in self.metrics:
            values = [row.metrics.get(key) for row in self.rows]
            found[key] = [None if each is None else each.value for each in values]
            ends = [None if each is None else each.ci95 for each in values]
            if any(ends):
                found[f"{key}_low"] = [None if each is None else each[0] for each in ends]
                found[f"{key}_high"] = [None if each is None else each[1] for each in ends]
        return found

    def as_json(self) -> dict[str, Any]:
        """Lay the table out as JSON, schema embedscope.merge/1: columns and rows as objects."""
        columns = self.columns()
        rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
        return {"schema": MERGED, "embedscope": __version__, "columns": list(columns), "rows": rows}

    def markdown(self) -> str:
        """Lay the table out for a model card: one line per row, with intervals in brackets after their values."""
        arrows = {"higher": " ↑", "lower": " ↓"}
        lines = [["name", "layer", "samples", "dimensions"]]
        lines[0] += [f"{_escaped(key)}{arrows.get(better or '', '')}" for key, better in self.metrics.items()]
        for row in self.rows:
            facts = [
                _escaped(row.name),
                _escaped(row.layer),
                f"{row.samples:,}",
                "" if row.dimensions is None else f"{row.dimensions:,}",
            ]
            lines.append([*facts, *(_cell(row.metrics.get(key)) for key in self.metrics)])
        rule = ["---", "---", *["---:"] * (len(lines[0]) - 2)]
        return "".join(f"| {' | '.join(line)} |\n" for line in [lines[0], rule, *lines[1:]])

    def hugging_face(self, *, dataset: str | None = None, task: str = "feature-extraction") -> str:
        """Lay the table out as `model-index`, the YAML of a Hugging Face model card: one model per name.

        Args:
            dataset: what the embeddings are of; by default the name of each source without folder and suffix.
            task: a task of the Hugging Face Hub.
        """
        lines = ["model-index:"]
        for name in dict.fromkeys(row.name for row in self.rows):
            lines += [f"- name: {_scalar(name)}", "  results:"]
            for row in self.rows:
                measured = {key: each for key, each in row.metrics.items() if each.value is not None}
                if row.name == name and measured:
                    lines += _result(row, measured, dataset or Path(row.source).stem or "data", task)
        return "\n".join(lines) + "\n"


def merge(paths: Sequence[str | Path], *, say: Callable[[str], None] = silent) -> MergedTable:
    """Read what `score --json` printed, or run.json of finetune, from files, and merge them into one table.

    A folder stands for the files of results and the runs in it. Rows of the same name, source and layer become one if they
    agree. A metric that was measured with different options has a column for each.

    Raises:
        InputError: a file that is not there, damaged, or of another kind or version; a folder without results; rows that
            contradict each other.
    """
    found: dict[tuple[str, str, str], tuple[MergedRow, str]] = {}
    for path in [file for given in paths for file in _files(Path(given), say)]:
        for row in read_rows(path):
            key = row.name, row.source, row.layer
            found[key] = (row if key not in found else _joined(*found[key], row, str(path))), str(path)
    if not found:
        raise InputError("nothing to merge: the files contain no results")
    rows, better = _columned([row for row, _ in found.values()])
    return MergedTable(tuple(rows), better)


def _files(path: Path, say: Callable[[str], None]) -> list[Path]:
    """List the files of results that a path stands for: itself, that of a run, or those in a folder."""
    if not path.is_dir() or (path / MANIFEST).is_file():
        return [path]
    inside = sorted(path.iterdir())
    schemas = {each: _schema(each) for each in inside if each.suffix == ".json"}
    found = [each for each, schema in schemas.items() if schema in (SCORE, FINETUNE)]
    found += [each for each in inside if (each / MANIFEST).is_file()]
    if not found:
        stores = [str(each) for each in inside if each.suffix in _STORES]
        have = f", but {len(stores):,} feature store{'s' if len(stores) > 1 else ''}; {_how_to_score(stores)}"
        give = "; give files written by embedscope score `json=True`, or run directories of embedscope finetune"
        raise InputError(f"{path} has no results to merge{have if stores else give}")
    if damaged := [each.name for each, schema in schemas.items() if schema is _DAMAGED]:
        say(f"warning: {path}: left out {first_names(damaged)}: not JSON, perhaps truncated")
    if other := [each.name for each in schemas if each not in found and each.name not in damaged]:
        say(f"{path}: left out {first_names(other)}: neither scores nor a run")
    return found


def _schema(path: Path) -> Any:
    """Return what kind of results a file says that it holds: None for other JSON, _DAMAGED for what is not JSON."""
    try:
        document = _document(path)
    except InputError:
        return _DAMAGED
    return document.get("schema") if isinstance(document, dict) else None


def _how_to_score(stores: Sequence[str]) -> str:
    names = shlex.join(stores[:3]) + (" ..." if len(stores) > 3 else "")
    return f"score first: embedscope score {names} `json=True` > scores.json"


def read_rows(path: Path) -> list[MergedRow]:
    """Read the rows of one file; InputError for anything but scores and runs of finetune."""
    if (path / MANIFEST).is_file():
        path = path / MANIFEST
    document = _document(path)
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema == SCORE:
        scores: _Scores = typed.read(_Scores, document, f"{path}: scores")
        return list(scores.results)
    if schema == FINETUNE:
        run: _Finetuning = typed.read(_Finetuning, document, f"{path}: run")
        return [_of_objective(each, run.data, path) for each in run.objectives]
    what = f"has the schema {str(schema)[:60]!r}" if schema is not None else "has no schema"
    raise InputError(f"{path} {what}; expected {_MERGED}")


def _document(path: Path) -> Any:
    """Read a JSON file; InputError for anything else."""
    check_file(path)
    if path.suffix in _STORES:
        raise InputError(f"{path} contains features, not results; {_how_to_score([str(path)])}")
    if path.stat().st_size > _LARGEST:
        raise InputError(f"{path} is too large for a file of scores; give the JSON output of embedscope score")
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        reason = "it is empty" if not path.stat().st_size else str(error).partition("\n")[0]
        raise InputError(f"{path} is not JSON as printed by embedscope score ({reason})") from error


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


def _of_objective(objective: _Objective, data: _Data, path: Path) -> MergedRow:
    metrics = {key: MergedValue(each.mean) for key, each in objective.summary.items()}
    return MergedRow(objective.expression, str(path), data.layer, data.test, data.dimensions, data.classes, metrics)


def _joined(row: MergedRow, path: str, other: MergedRow, where: str) -> MergedRow:
    """Join two rows of one embedding; InputError where they contradict each other."""
    differing = [name for name in FACTS if getattr(row, name) != getattr(other, name)]
    differing += [key for key, each in other.metrics.items() if key in row.metrics and each != row.metrics[key]]
    if differing:
        raise InputError(
            f"{path} and {where} both contain {row.name} ({row.source}, layer {row.layer}) but differ in {', '.join(differing)}"
            "; leave one out, or score one of them under another name, such as late2=late.h5"
        )
    return replace(row, metrics={**row.metrics, **other.metrics})


def _columned(rows: Sequence[MergedRow]) -> tuple[list[MergedRow], dict[str, str | None]]:
    """Name the columns: a metric by its key, with the options that differ between rows in brackets."""
    used: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        for key, each in row.metrics.items():
            if each.options not in used.setdefault(key, []):
                used[key].append(each.options)
    better: dict[str, str | None] = {}
    found = []
    for row in rows:
        metrics = {}
        for key, each in row.metrics.items():
            names = sorted({name for options in used[key] for name in options})
            apart = [name for name in names if len({repr(options.get(name)) for options in used[key]}) > 1]
            options = {name: each.options[name] for name in apart if name in each.options}
            metrics[str(Spec(key, (), options)) if options else key] = each
        better |= {key: each.better for key, each in metrics.items() if better.get(key) is None}
        found.append(replace(row, metrics=metrics))
    return found, better


def _number(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1 else f"{value:.4f}"


def _cell(found: MergedValue | None) -> str:
    if found is None or found.value is None:
        return "–"
    text = _number(found.value)
    return text if found.ci95 is None else f"{text} [{found.ci95[0]:.4f}, {found.ci95[1]:.4f}]"


def _escaped(cell: str) -> str:
    """Escape untrusted text so that Markdown shows it literally, in one cell; an underscore inside a word stays."""
    return re.sub(r"([\\`*{}\[\]<>|~$]|(?<!\w)_|_(?!\w))", r"\\\1", printable(cell))


def _result(row: MergedRow, metrics: Mapping[str, MergedValue], dataset: str, task: str) -> list[str]:
    lines = [
        "  - task:",
        f"      type: {_scalar(task)}",
        f"      name: {_scalar(f'embedding, layer {row.layer}' if row.layer else 'embedding')}",
        "    dataset:",
        f"      type: {_scalar(dataset)}",
        f"      name: {_scalar(dataset)}",
        "    metrics:",
    ]
    for key, each in metrics.items():
        name = key if each.ci95 is None else f"{key} (95% interval {each.ci95[0]:.4f} to {each.ci95[1]:.4f})"
        lines += [f"    - type: {_scalar(key)}", f"      value: {_scalar(each.value)}", f"      name: {_scalar(name)}"]
    return lines


def _scalar(value: str | float | None) -> str:
    """Write a scalar that every YAML reader parses correctly: a JSON string, or a number with a decimal point."""
    if isinstance(value, str):
        return json.dumps(printable(value), ensure_ascii=False)
    text = repr(value)
    mantissa, exponent, power = text.partition("e")
    return f"{mantissa}{'' if '.' in mantissa else '.0'}{exponent}{power}" if exponent else text
