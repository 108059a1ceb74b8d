"""Tables as named columns: `.csv`, `.tsv`, `.jsonl` and `.parquet`, read row by row or as one array of numbers."""

from __future__ import annotations

import csv
import json
import re
from array import array
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.errors import EmbedscopeError, InputError, UsageError, unknown
from embedscope.store.limits import check_not_empty, repeated
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    Array = np.ndarray[Any, Any]
    Rows = Callable[[Sequence[str]], Iterator[tuple[Any, ...]]]

# The usual names of columns, in any case.
USUAL = {
    "image": frozenset({"path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img"}),
    "text": frozenset({"text", "sentence", "content", "review", "document"}),
    "label": frozenset({"label", "labels", "class", "class_name", "target", "category", "y"}),
    "id": frozenset({"id"}),
    "split": frozenset({"split"}),
}
# The most that csv takes on every platform: 2 GiB a field.
_LONGEST_FIELD = 2**31 - 1
# Whole numbers up to which float64 is exact, and how text writes one; longer ones are beyond it as floats too.
_LARGEST_WHOLE = 2**53
_WHOLE = re.compile(r"\s*[+-]?\d{1,300}\s*")
# Columns that an error lists of a wide table.
_LISTED = 30


@dataclass(frozen=True)
class Columns:
    """A table as it was opened.

    Attributes:
        names: of the columns, distinct, in their order.
        rows: gives the values of the named columns, row by row; None is a gap.
        first: the values of the first row by name; of parquet, one that is like them.
        images: the columns that hold images themselves, as bytes or as {bytes, path}.
        block: gives the named columns as numbers (N, D), or a single one of lists, faster than row by row; or None.
    """

    names: list[str]
    rows: Rows
    first: Mapping[str, Any]
    images: tuple[str, ...] = ()
    block: Callable[[Sequence[str]], Array] | None = None

    def take(self, *names: str) -> list[list[Any]]:
        """Return the values (N,) of each of these columns, read in one pass."""
        found: list[list[Any]] = [[] for _ in names]
        for row in self.rows(names):
            for values, value in zip(found, row, strict=True):
                values.append(value)
        return found


def named(columns: Iterable[str], role: str, *, taken: Collection[str] = ()) -> list[str]:
    """List the columns that have a usual name of a role, in any case, without those that are taken already."""
    return [column for column in columns if column.strip().lower() in USUAL[role] and column not in taken]


def choose(
    location: str,
    columns: Sequence[str],
    *,
    given: Mapping[str, str | None],
    candidates: Mapping[str, Sequence[str]],
) -> tuple[str, str]:
    """Choose one column, and the option it belongs to: the one that is given, else the only candidate.

    `given` and `candidates` have options as keys, such as path and text, that exclude one another. UsageError if several are
    given; InputError for a column that is not there, and for no or several candidates, with the option that would decide.
    """
    named_by_user = {option: name for option, name in given.items() if name is not None}
    if len(named_by_user) > 1:
        raise UsageError(f"{location}: give only one of the options {' and '.join(named_by_user)}")
    for option, name in named_by_user.items():
        if name not in columns:
            raise InputError(unknown(f"{option} column", name, columns, place=location))
        return name, option
    found = [(name, option) for option, names in candidates.items() for name in names]
    if len(found) == 1:
        return found[0]
    if found:
        which = f"several columns could be the {' or '.join(given)}: {listed([name for name, _ in found])}"
    else:
        which = f"no column has a common name for {' or '.join(given)}; there are: {listed(columns) or 'none'}"
    example = " or ".join(f"{location}({option}='COLUMN')" for option in given)
    raise InputError(f"{location}: {which}; specify one, as in {example}")


def listed(names: Sequence[str]) -> str:
    """Name columns, of many the first ones and how many more there are."""
    more = f", and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def is_table(path: Path) -> bool:
    """Whether a file is a table by its suffix."""
    return path.suffix.lower() in _READERS


def open_columns(location: str, file: Path) -> Columns:
    """Open a table by its suffix; InputError for one that cannot be read, or has several columns of one name."""
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise InputError(f"{location} is not a supported table; expected one of {', '.join(_READERS)}")
    check_not_empty(file)
    try:
        columns = reader(file)
    except EmbedscopeError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"{location} is not UTF-8 text: {error}; save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{location} cannot be read: {error.strerror or error}") from error
    if not columns.names:
        raise InputError(f"{location} has no rows")
    if (name := repeated(columns.names)) is not None:
        raise InputError(f"{location} has several columns named '{name}'; rename them")
    return columns


def numbers(location: str, columns: Columns, names: Sequence[str]) -> Array:
    """Read columns as numbers (N, D); a single one may hold a list per row. Gaps are NaN.

    InputError names the first value that is not a number, or the first list that differs in length.
    """
    if columns.block is not None:
        return columns.block(names)
    values, width, count = array("d"), 0, 0
    for count, row in enumerate(columns.rows(names), 1):
        cells = row[0] if len(names) == 1 and isinstance(row[0], list) else row
        if count == 1:
            width = len(cells)
        elif len(cells) != width:
            raise InputError(
                f"{location}: row {count - 1} of {names[0]} (counted from 0) holds {counted(len(cells), 'number')}, but the "
                f"rows before it hold {width}"
            )
        try:
            values.extend(map(float, cells))
        except (TypeError, ValueError):
            del values[(count - 1) * width :]
            values.extend(_number(location, count - 1, name, cell) for name, cell in zip_names(names, cells))
    found = np.frombuffer(values, dtype=np.float64).reshape(count, width)
    if np.any(np.abs(found) >= _LARGEST_WHOLE):
        _check_whole(location, columns, names)
    return found


def _check_whole(location: str, columns: Columns, names: Sequence[str]) -> None:
    """Raise InputError for a whole number that float64 rounds."""
    for number, row in enumerate(columns.rows(names)):
        for name, cell in zip_names(names, row[0] if len(names) == 1 and isinstance(row[0], list) else row):
            whole = cell if isinstance(cell, int) else int(cell) if isinstance(cell, str) and _WHOLE.fullmatch(cell) else 0
            if abs(whole) > _LARGEST_WHOLE:
                raise InputError(
                    f"{location}: row {number} of {name} (counted from 0) holds {str(cell)[:40]}; integers beyond 2**53 "
                    f"cannot be represented as floats; subtract an offset or divide them"
                )


def zip_names(names: Sequence[str], cells: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Pair cells with their columns, or with the only one."""
    return zip(names if len(names) == len(cells) else [names[0]] * len(cells), cells, strict=True)


def is_number(value: Any) -> bool:
    """Whether a value of a first row says that its column holds numbers, or lists of them; text counts if it is a number."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(each, int | float) for each in value)
    if isinstance(value, str) and "_" in value:  # which Python takes for 1000 in 1_000
        return False
    try:
        return not isinstance(value, bool) and np.isscalar(float(value))
    except (TypeError, ValueError):
        return False


def _number(location: str, row: int, column: str, value: Any) -> float:
    if value is None or (isinstance(value, str) and not value.strip()):
        return float("nan")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{location}: row {row} of {column} (counted from 0) holds {str(value)[:40]!r}, which is not a number; select "
            f"the feature columns, as in {location}(features='d*')"
        ) from error


def _delimited(file: Path, delimiter: str) -> Columns:
    """Read rows of text; a line with more or fewer fields than the first one is an InputError."""

    def lines() -> Generator[list[str]]:
        before = csv.field_size_limit(_LONGEST_FIELD)
        width = None
        try:
            with file.open(encoding="utf-8-sig", newline="") as stream:
                reader = csv.reader(stream, delimiter=delimiter, strict=True)
                for row in reader:
                    width = len(row) if width is None else width
                    if row and len(row) != width:
                        raise InputError(
                            f"{file}: line {reader.line_num} has {counted(len(row), 'field')}, the header has {width}; "
                            "quote fields that contain separators or line breaks"
                        )
                    if row:
                        yield row
        except csv.Error as error:
            raise InputError(f"{file}: line {reader.line_num} cannot be read: {error}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{file} is not UTF-8 text: {error}; save it as UTF-8") from error
        finally:
            csv.field_size_limit(before)

    start = lines()
    header = [name.strip() for name in next(start, [])]
    first = next(start, [])
    start.close()
    place = {name: position for position, name in enumerate(header)}

    def rows(names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        found = lines()
        next(found, None)
        places = [place[name] for name in names]
        if len(places) == 1:
            return ((row[places[0]],) for row in found)
        return map(itemgetter(*places), found)

    return Columns(header, rows, dict(zip(header, first, strict=False)))


def _comma(file: Path) -> Columns:
    """Read a .csv; where the decimal sign is a comma, spreadsheets separate fields with semicolons."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        header = lines.readline()
    return _delimited(file, ";" if ";" in header and "," not in header else ",")


def _tab(file: Path) -> Columns:
    return _delimited(file, "\t")


def _json_lines(file: Path) -> Columns:
    """Read one object per line; a key that a line does not have is a gap."""

    def objects() -> Iterator[dict[str, Any]]:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{file}: line {number} is not JSON: {error}") from error
                if not isinstance(row, dict):
                    raise InputError(
                        f"{file}: line {number} is a {type(row).__name__}; expected one object per line, as in {{...}}"
                    )
                yield row

    names: dict[str, Any] = {}
    for row in objects():
        for name, value in row.items():
            names.setdefault(name, value)
    return Columns(list(names), lambda wanted: (tuple(row.get(name) for name in wanted) for row in objects()), names)


def _parquet(file: Path) -> Columns:
    from embedscope.store.parquet import open_parquet

    return open_parquet(file)


_READERS: dict[str, Callable[[Path], Columns]] = {
    ".csv": _comma,
    ".tsv": _tab,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
