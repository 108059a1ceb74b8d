"""What the terminal shows: talk and progress on stderr, tables on stdout."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.table import Table

    from embedscope.evaluation.comparing import Difference
    from embedscope.evaluation.scores import Measurement, Scores

T = TypeVar("T")

# A pipe has no width: tables are laid out as wide as they need.
_PIPE_WIDTH = 10_000
_SECONDS_BETWEEN_LINES = 10.0

# Characters that a heading takes before it is folded, and a cell at the most.
_HEADING = 20
_CELL = 40
BEST = " *"


@dataclass(frozen=True)
class Talk:
    """What a command says beside its result, on stderr: only warnings when quiet, details when verbose."""

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

    def track(self, items: Iterable[T], description: str, total: int, *, size: Callable[[T], int] | None = None) -> Iterable[T]:
        """Show a progress bar on a terminal; elsewhere a line every few seconds. Rows also show their speed."""
        if self.quiet:
            return items
        return (_bar if sys.stderr.isatty() else _lines)(items, description, total, size)


def _bar(items: Iterable[T], description: str, total: int, size: Callable[[T], int] | None) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    if size is not None:
        columns.insert(3, TextColumn("{task.fields[speed]}"))
    started = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total, speed="")
        done = 0
        for item in items:
            yield item
            done += 1 if size is None else size(item)
            progress.update(task, completed=done, speed=_speed(done, started))


def _lines(items: Iterable[T], description: str, total: int, size: Callable[[T], int] | None) -> Iterator[T]:
    started = said = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1 if size is None else size(item)
        now = time.monotonic()
        if now - said >= _SECONDS_BETWEEN_LINES:
            left = f", {_speed(done, started)}, {(total - done) * (now - started) / done:,.0f} s left" if size else ""
            print(f"{description}: {done:,}/{total:,}{left}", file=sys.stderr)
            said = now


def _speed(done: int, started: float) -> str:
    return f"{done / max(time.monotonic() - started, 1e-9):,.0f} rows/s"


def command_line() -> str:
    """Return the command as it can be typed again."""
    return shlex.join(["embedscope", *sys.argv[1:]])


def print_json(value: Any) -> None:
    """Print one JSON document on stdout; NaN, which JSON lacks, does not occur."""
    import json

    print(json.dumps(value, indent=1, allow_nan=False))


def print_scores(scores: Sequence[Scores], *, per_class: bool) -> None:
    """Print one row per metric and one column per embedding; the best value is marked, with intervals only if it is sure."""
    from embedscope.evaluation.comparing import best

    facts = [
        ("samples", [f"{entry.samples:,}" for entry in scores]),
        ("dimensions", [f"{entry.dimensions:,}" for entry in scores]),
        ("classes", [f"{entry.classes:,}" for entry in scores]),
    ]
    metrics = []
    for key in scores[0].metrics:
        found = [entry.metrics[key] for entry in scores]
        chosen = best(scores, key)
        cells = [_cell(each) + (BEST if place == chosen else "") for place, each in enumerate(found)]
        metrics.append((f"{key}{arrow(found[0].better)}", cells))
    names = [entry.name for entry in scores]
    print_columns("metric", names, [facts, metrics])
    for key in scores[0].metrics if per_class else ():
        values = [entry.metrics[key].per_class or {} for entry in scores]
        classes = dict.fromkeys(name for column in values for name in column)
        if classes:
            rows = [(name, [number(column.get(name)) for column in values]) for name in classes]
            print_columns(f"{key} by class", names, [rows])


def print_differences(differences: Sequence[Difference]) -> None:
    """Print how each embedding differs from the first: one row per metric, one column per embedding."""
    for paired in (True, False):
        shown = [each for each in differences if each.paired == paired]
        if not shown:
            continue
        names = list(dict.fromkeys(each.second for each in shown))
        cells = {(each.metric, each.second): _signed(each) for each in shown}
        keys = dict.fromkeys(each.metric for each in shown)
        rows = [(key, [cells.get((key, name), "–") for name in names]) for key in keys]
        heading = f"minus {shown[0].first}, {'same' if paired else 'different'} samples"
        print_columns(heading, names, [rows])


def _signed(difference: Difference) -> str:
    low, high = difference.ci95
    return f"{difference.value:+.4f} [{low:+.4f}, {high:+.4f}]"


def print_csv(scores: Sequence[Scores]) -> None:
    """Print a line a metric and embedding, and one a class where there are values of classes."""
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["name", "layer", "metric", "class", "value", "ci95_low", "ci95_high", "better"])
    for entry in scores:
        for key, found in entry.metrics.items():
            low, high = found.ci95 or (None, None)
            writer.writerow([entry.name, entry.layer, key, None, found.value, low, high, found.better])
            for name, value in (found.per_class or {}).items():
                writer.writerow([entry.name, entry.layer, key, name, value, None, None, found.better])


def print_columns(first: str, columns: Sequence[str], sections: Sequence[Sequence[tuple[str, Sequence[str]]]]) -> None:
    """Print texts as a table: a heading a column, rows of a label with a cell a column, a gap between sections.

    On a terminal that is too narrow for all columns, several tables follow one another; a long heading is folded, and no number
    is ever cut.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPE_WIDTH)
    labels = max(len(label) for section in sections for label, _ in section)
    left = max(labels, min(len(first), _HEADING))
    widths = [
        max(min(len(heading), _HEADING), *(len(cells[column]) for section in sections for _, cells in section))
        for column, heading in enumerate(columns)
    ]
    start = 0
    while start < len(columns):
        stop = start + 1
        while stop < len(columns) and left + sum(width + 2 for width in widths[start : stop + 1]) < console.width:
            stop += 1
        console.print(_table(first, columns, widths, sections, range(start, stop)))
        start = stop


def _table(
    first: str,
    columns: Sequence[str],
    widths: Sequence[int],
    sections: Sequence[Sequence[tuple[str, Sequence[str]]]],
    shown: range,
) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(Text(first), no_wrap=True)
    for column in shown:
        table.add_column(Text(columns[column]), justify="right", overflow="fold", min_width=widths[column], max_width=_CELL)
    for section in sections:
        for row, (label, cells) in enumerate(section):
            chosen = [cells[column] for column in shown]
            texts = [Text(cell, style="bold" if cell.endswith(BEST) else "", no_wrap=True) for cell in chosen]
            table.add_row(Text(label), *texts, end_section=row == len(section) - 1)
    return table


def number(value: float | None) -> str:
    """Write four decimals, whole numbers whole, very small ones with an exponent, and a dash for what is undefined."""
    if value is None:
        return "–"
    if float(value).is_integer():
        return f"{value:,.0f}" if value else "0.0000"
    return f"{value:.1e}" if abs(value) < 5e-5 else f"{value:,.4f}"


def arrow(better: str | None) -> str:
    """Mark which direction is better."""
    return {"higher": " ↑", "lower": " ↓", None: ""}[better]


def _cell(measurement: Measurement) -> str:
    text = number(measurement.value)
    if measurement.ci95 is None:
        return text
    low, high = measurement.ci95
    return f"{text} [{number(low)}, {number(high)}]"
