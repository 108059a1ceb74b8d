"""What the terminal shows: talk and progress on stderr, tables on stdout."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.table import Table

    from embedscope.records import Measurement, Scores

T = TypeVar("T")

# A pipe has no width: tables are laid out as wide as they need.
_PIPE_WIDTH = 10_000
_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Talk:
    """What a command says beside its result, on stderr: nothing when quiet, details when verbose."""

    quiet: bool = False
    verbose: bool = False

    def say(self, text: str) -> None:
        """Tell how it went."""
        if not self.quiet:
            print(text, file=sys.stderr)

    def detail(self, text: str) -> None:
        """Tell more, to somebody who asked for it."""
        if self.verbose and not self.quiet:
            print(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        """Tell what a reader of the result has to know."""
        print(f"warning: {text}", file=sys.stderr)

    def track(self, items: Iterable[T], description: str, total: int) -> Iterable[T]:
        """Show a progress bar on a terminal; elsewhere a line every few seconds."""
        if self.quiet:
            return items
        return (_bar if sys.stderr.isatty() else _lines)(items, description, total)


def _bar(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=total, description=description)


def _lines(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - said >= _SECONDS_BETWEEN_LINES:
            print(f"{description}: {done}/{total}", file=sys.stderr)
            said = time.monotonic()


def command_line() -> str:
    """Return the command as it can be typed again."""
    return shlex.join(["embedscope", *sys.argv[1:]])


def print_json(value: Any) -> None:
    """Print one JSON document on stdout; NaN, which JSON lacks, does not occur."""
    import json

    print(json.dumps(value, indent=1, allow_nan=False))


def print_scores(scores: Sequence[Scores], *, per_class: bool) -> None:
    """Print a table with a row a metric and a column an embedding; the best value is marked where there are several."""
    table = _table("metric", *(entry.name for entry in scores))
    table.add_row("samples", *(f"{entry.samples:,}" for entry in scores))
    table.add_row("dimensions", *(f"{entry.dimensions:,}" for entry in scores))
    table.add_row("classes", *(f"{entry.classes:,}" for entry in scores), end_section=True)
    for key in scores[0].metrics:
        found = [entry.metrics[key] for entry in scores]
        table.add_row(f"{key}{_arrow(found[0])}", *_marked(found))
    _print(table)
    if per_class:
        for key in scores[0].metrics:
            if any(entry.metrics[key].per_class for entry in scores):
                _print(_per_class(key, scores))


def print_comparison(title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Print a table of texts: a heading a column, and rows of a label with a cell a column."""
    table = _table(title, *columns)
    for label, cells in rows:
        table.add_row(label, *cells)
    _print(table)


def number(value: float | None) -> str:
    """Four significant digits, whole numbers whole, and a dash for what is undefined."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4f}"


def arrow(better: str | None) -> str:
    """Mark which direction is better."""
    return {"higher": " ↑", "lower": " ↓", None: ""}[better]


def _arrow(measurement: Measurement) -> str:
    return arrow(measurement.better)


def _marked(found: Sequence[Measurement]) -> list[str]:
    values = [entry.value for entry in found if entry.value is not None]
    better = found[0].better
    best = None if better is None or len(values) < 2 else (max if better == "higher" else min)(values)
    tied = len(set(values)) == 1
    return [
        f"[bold]{number(entry.value)} *[/bold]"
        if entry.value == best and best is not None and not tied
        else number(entry.value)
        for entry in found
    ]


def _per_class(key: str, scores: Sequence[Scores]) -> Table:
    table = _table(f"{key} by class", *(entry.name for entry in scores))
    values: list[Mapping[str, float]] = [entry.metrics[key].per_class or {} for entry in scores]
    for name in dict.fromkeys(name for column in values for name in column):
        table.add_row(_plain(name), *(number(column.get(name)) for column in values))
    return table


def _table(first: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(_plain(first))
    for column in columns:
        table.add_column(_plain(column), justify="right")
    return table


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPE_WIDTH)
    console.print(table)
