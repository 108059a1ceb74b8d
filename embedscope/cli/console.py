"""What the terminal shows: talk and progress on stderr, tables on stdout; no text of a stranger steers it.

Everything that a command prints goes through `show` or a function below that calls it.
"""

from __future__ import annotations

import io
import shlex
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from embedscope.cli.flags import with_flags
from embedscope.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.console import Console
    from rich.table import Table

    from embedscope.evaluation.comparing import Difference
    from embedscope.evaluation.scores import Measurement, Scores

T = TypeVar("T")

# A pipe has no width: tables are laid out as wide as they need.
_PIPE_WIDTH = 10_000
_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_UNTIL_BAR = 0.5

# Characters that a heading takes before it is folded, a cell at the most, and a label at least where there is little room.
_HEADING = 20
_CELL = 40
_LABEL = 4

# Findings of each embedding that are printed where there are more than two.
_FINDINGS = 2
BEST = " *"


def show(text: str) -> None:
    """Print a line on stdout; control characters in it appear as escapes."""
    print(printable(text))


def tell(text: str) -> None:
    """Print a text on stderr, folded to the width of a terminal; in a pipe, as one line.

    Control characters in it appear as escapes, and arguments of the library as flags.
    """
    for line in _folded(text, sys.stderr, "", "  "):
        print(line, file=sys.stderr)


@dataclass(frozen=True)
class Talk:
    """What a command says beside its result, on stderr: only warnings when quiet, details when verbose."""

    quiet: bool = False
    verbose: bool = False

    def say(self, text: str) -> None:
        """Tell how it went."""
        if not self.quiet:
            tell(text)

    def detail(self, text: str) -> None:
        """Tell more, to somebody who asked for it."""
        if self.verbose and not self.quiet:
            tell(text)

    def warn(self, text: str) -> None:
        """Tell what a reader of the result has to know."""
        tell(f"warning: {text}")

    def track(self, items: Iterable[T], description: str, total: int, *, size: Callable[[T], int] | None = None) -> Iterable[T]:
        """Show a progress bar on a terminal; elsewhere a line every few seconds. Rows also show their speed."""
        if self.quiet or total < 2:  # a single step has no progress to show
            return items
        return (_bar if sys.stderr.isatty() else _lines)(items, description, total, size)


def _bar(items: Iterable[T], description: str, total: int, size: Callable[[T], int] | None) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    times = [TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("left")]
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), *times]
    if size is not None:
        columns.insert(3, TextColumn("{task.fields[speed]}"))
    started = time.monotonic()
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task(printable(description), total=total, speed="")
    # Work that is done at once shows no bar; a timer starts it also where the first item takes long. The elapsed time moves.
    timer = threading.Timer(_SECONDS_UNTIL_BAR, progress.start)
    timer.daemon = True
    timer.start()
    try:
        done = 0
        for item in items:
            yield item
            done += 1 if size is None else size(item)
            progress.update(task, completed=done, speed=_speed(done, started))
    finally:
        timer.cancel()
        timer.join()
        progress.stop()


def _lines(items: Iterable[T], description: str, total: int, size: Callable[[T], int] | None) -> Iterator[T]:
    started = said = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1 if size is None else size(item)
        now = time.monotonic()
        if now - said >= _SECONDS_BETWEEN_LINES:
            left = f", {_speed(done, started)}, {(total - done) * (now - started) / done:,.0f} s left" if size else ""
            tell(f"{description}: {done:,}/{total:,}{left}")
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
        cells = [measured(each) + (BEST if place == chosen else "") for place, each in enumerate(found)]
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


def print_findings(scores: Sequence[Scores]) -> None:
    """Print what stands out in each embedding, folded to the width of the terminal; of more than two, the first findings."""
    most = _FINDINGS if len(scores) > 2 else None
    for entry in scores:
        if not entry.examined:
            continue
        looked = f" (looked at {', '.join(entry.examined)})"
        show("")
        fold(f"{entry.name}: {'what stands out' if entry.findings else f'nothing stands out{looked}'}", "", "  ")
        for finding in entry.findings[:most]:
            fold(f"{finding.text}.", "- ", "  ")
            fold(f"{finding.next}.", "  ", "  ")
        if most is not None and len(entry.findings) > most:
            show(f"  {len(entry.findings) - most} more with --json, or scored alone")


def fold(text: str, first: str, other: str) -> None:
    """Print a text on stdout, folded to the width of a terminal; in a pipe, as one line."""
    for line in _folded(text, sys.stdout, first, other):
        print(line)


def _folded(text: str, stream: TextIO, first: str, other: str) -> list[str]:
    import shutil
    import textwrap

    text = printable(with_flags(text))
    if not stream.isatty():
        return [first + text]
    width = shutil.get_terminal_size().columns
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=other, break_on_hyphens=False) or [""]


def _signed(difference: Difference) -> str:
    low, high = difference.ci95
    return f"{difference.value:+.4f} [{low:+.4f}, {high:+.4f}]"


def print_csv(scores: Sequence[Scores]) -> None:
    """Print one line per metric and embedding, and one per class where a metric has values of classes."""
    from embedscope.store.tables import write_rows

    rows: list[list[Any]] = [["name", "layer", "metric", "class", "value", "ci95_low", "ci95_high", "better"]]
    for entry in scores:
        for key, found in entry.metrics.items():
            low, high = found.ci95 or (None, None)
            rows.append([entry.name, entry.layer, key, None, found.value, low, high, found.better])
            for name, value in (found.per_class or {}).items():
                rows.append([entry.name, entry.layer, key, name, value, None, None, found.better])
    text = io.StringIO(newline="")
    write_rows(text, rows)
    for line in text.getvalue().split("\r\n")[:-1]:
        show(line)


def print_columns(first: str, columns: Sequence[str], sections: Sequence[Sequence[tuple[str, Sequence[str]]]]) -> None:
    """Print texts as a table: a heading per column, rows of a label with a cell per column, a gap between sections.

    On a terminal that is too narrow for all columns, several tables follow one another. Long headings and labels are folded,
    and a cell breaks between words if it has to, so that no number is cut.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPE_WIDTH)
    table = _Columns(first, columns, sections, console)
    start = 0
    while start < len(columns):
        stop = start + 1
        while stop < len(columns) and table.width(range(start, stop + 1)) <= console.width:
            stop += 1
        shown = range(start, stop)
        console.print(table.rendered(shown), width=max(table.width(shown), console.width), crop=False)
        start = stop


class _Columns:
    """Columns with widths at which no number is cut, as the renderer measures them on a console."""

    def __init__(
        self,
        first: str,
        columns: Sequence[str],
        sections: Sequence[Sequence[tuple[str, Sequence[str]]]],
        console: Console,
    ) -> None:
        from rich.cells import cell_len

        self._first, self._columns = printable(first), [printable(heading) for heading in columns]
        self._sections = [
            [(printable(label), [printable(cell) for cell in cells]) for label, cells in section] for section in sections
        ]
        rows = [row for section in self._sections for row in section]
        texts = [[cells[column] for _, cells in rows] for column in range(len(columns))]
        headings = [cell_len(heading) for heading in self._columns]
        longest = [min(max(map(cell_len, cells), default=0), _CELL) for cells in texts]
        label = max((cell_len(label) for label, _ in rows), default=0)
        self._label = max(label, cell_len(self._first))
        self._widths = [max(min(heading, _CELL), cells) for heading, cells in zip(headings, longest, strict=True)]
        # What a table takes beside its texts: measured, because it is the renderer that decides on it.
        self._edges = self._measured(range(0), console) - self._label
        self._gaps = [
            self._measured(range(place, place + 1), console) - self._label - self._edges - width
            for place, width in enumerate(self._widths)
        ]
        if self.width(range(len(columns))) > console.width:
            self._label = max(label, min(cell_len(self._first), _HEADING))
            self._widths = [max(min(heading, _HEADING), cells) for heading, cells in zip(headings, longest, strict=True)]
            room = console.width - self._edges - max(self._gaps, default=0)
            if self._label + max(self._widths, default=0) > room:
                word = [max((cell_len(part) for cell in cells for part in cell.split()), default=0) for cells in texts]
                self._label = max(min(_LABEL, self._label), min(self._label, room - max(longest, default=0)))
                self._widths = [
                    max(min(width, room - self._label), least) for width, least in zip(self._widths, word, strict=True)
                ]

    def width(self, shown: range) -> int:
        """Return how many characters a table of these columns takes."""
        return self._label + self._edges + sum(self._widths[column] + self._gaps[column] for column in shown)

    def rendered(self, shown: range) -> Table:
        """Make the table of these columns."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column(Text(self._first), overflow="fold", width=self._label)
        for column in shown:
            table.add_column(Text(self._columns[column]), justify="right", overflow="fold", width=self._widths[column])
        for section in self._sections:
            for row, (label, cells) in enumerate(section):
                chosen = [Text(cells[column], style="bold" if cells[column].endswith(BEST) else "") for column in shown]
                table.add_row(Text(label), *chosen, end_section=row == len(section) - 1)
        return table

    def _measured(self, shown: range, console: Console) -> int:
        from rich.measure import Measurement

        options = console.options.update(width=_PIPE_WIDTH)
        return Measurement.get(console, options, self.rendered(shown)).maximum


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


def measured(measurement: Measurement) -> str:
    """Write a value with its interval, if any."""
    text = number(measurement.value)
    if measurement.ci95 is None:
        return text
    low, high = measurement.ci95
    return f"{text} [{number(low)}, {number(high)}]"
