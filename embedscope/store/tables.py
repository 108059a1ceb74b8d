"""Tables that other programs read, as .csv or .parquet, and what keeps a cell of a .csv from being run as a formula.

Spreadsheets run a cell that begins with = + - @, a tab or a line break as a formula, and ids and class names come from
strangers. `guarded` puts an apostrophe before such a text, which spreadsheets do not show, and `unguarded` takes it off again;
numbers stay as they are.
"""

from __future__ import annotations

import csv
import itertools
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.errors import MissingExtraError, UsageError
from embedscope.store.files import finished
from embedscope.text import decoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import IO

SUFFIXES = (".csv", ".parquet")

# The last four are the full-width forms, which some spreadsheets take for the others. A guarded text is guarded again, so that
# taking the guard off gives every text back.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def guarded(cell: Any) -> Any:
    """Return a cell that no spreadsheet runs as a formula: a text gets an apostrophe if it needs one, anything else stays.

    >>> guarded("=1+1"), guarded("-0.5"), guarded("-cat"), guarded(-0.5)
    ("'=1+1", '-0.5', "'-cat", -0.5)
    """
    if isinstance(cell, str):
        cell = decoded(cell)
        if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
            return f"'{cell}"
    return cell


def unguarded(cell: str) -> str:
    """Return the text that `guarded` was given.

    >>> unguarded("'=1+1"), unguarded("'quoted'"), unguarded("-0.5")
    ('=1+1', "'quoted'", '-0.5')
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def write_rows(file: IO[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write rows as CSV, each cell guarded; None is an empty cell."""
    csv.writer(file).writerows([guarded(cell) for cell in row] for row in rows)


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write rows, the first of which is the heading, as CSV. The file gets its name only when it is complete."""
    with finished(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        write_rows(file, rows)


def check_table(path: Path) -> None:
    """Raise UsageError for an unknown suffix, MissingExtraError where the library for it is not installed."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"cannot write a table to '{path}': the name must end with {' or '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            advice = "pip install 'embedscope[tables]', or name a .csv, which needs nothing"
            raise MissingExtraError(f"a .parquet table needs pyarrow, which is not installed; {advice}") from error


def write_table(path: Path, columns: Mapping[str, Sequence[Any] | np.ndarray[Any, Any]]) -> int:
    """Write columns of equal length, name -> (n,); return n. The file gets its name only when it is complete."""
    plain = {name: np.asarray(values).tolist() for name, values in columns.items()}
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        texts = {name: [_text(value) for value in values] for name, values in plain.items()}
        with finished(path) as partial:
            parquet.write_table(pyarrow.table(texts), partial)
    else:
        write_csv(path, itertools.chain([list(plain)], zip(*plain.values(), strict=True)))
    return len(next(iter(plain.values()), []))


def _text(cell: Any) -> Any:
    return decoded(cell) if isinstance(cell, str) else cell
