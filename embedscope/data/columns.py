"""What data sources share that read rows: which column is what, labels with gaps, ids, texts, fingerprints."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.errors import InputError, UsageError, unknown
from embedscope.store.arrays import encode_labels, text_rows

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    Labels = np.ndarray[Any, np.dtype[np.int64]]

# The usual names of columns, in any case.
USUAL = {
    "image": frozenset({"path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img"}),
    "text": frozenset({"text", "sentence", "content", "review", "document"}),
    "label": frozenset({"label", "labels", "class", "class_name", "target", "category", "y"}),
    "id": frozenset({"id"}),
    "split": frozenset({"split"}),
}
# What stands for "no label" in text: nothing, and what pandas and SQL write for it.
_GAPS = frozenset({"", "nan", "NaN", "null", "NULL"})
# Numbers as programs write whole ones; 007 and 1e3 stay text, so that no two names become one.
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,14})(\.0)?")


@dataclass(frozen=True)
class Texts:
    """Texts that lie in memory."""

    rows: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> str:
        return self.rows[index]

    def batch(self, rows: Sequence[int]) -> list[str]:
        """Give the texts of these rows."""
        return [self.rows[row] for row in rows]


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
            raise InputError(f"{location}: {unknown(f'column for {option}', str(name), columns)}")
        return name, option
    found = [(name, option) for option, names in candidates.items() for name in names]
    if len(found) == 1:
        return found[0]
    if found:
        which = f"several columns may be the {' or '.join(given)}: {', '.join(name for name, _ in found)}"
    else:
        which = f"no column has a usual name for {' or '.join(given)}; there are: {', '.join(columns) or 'none'}"
    example = " or ".join(f"{location}({option}='COLUMN')" for option in given)
    raise InputError(f"{location}: {which}; say which, as in {example}")


def encode(location: str, column: str, values: Sequence[Any]) -> tuple[tuple[str, ...], Labels]:
    """Turn labels of any kind into class names (K,) and int64 indices (N,); gaps and negative numbers are -1.

    Gaps are None, NaN, and text that is empty, nan or null. Whole numbers, written as text too, are classes in the order of
    numbers; text is in its own order. InputError for values that are neither.
    """
    labels = np.full(len(values), -1, dtype=np.int64)
    present = [row for row, value in enumerate(values) if not _gap(value)]
    if not present:
        return (), labels
    for row in present:
        if not isinstance(values[row], str | int | float | np.generic):
            raise InputError(
                f"{location}: labels have to be whole numbers or text, but row {row} of {column} (counted from 0) holds a "
                f"{type(values[row]).__name__}"
            )
    kept = [value.strip() if isinstance(value, str) else value for value in (values[row] for row in present)]
    if any(isinstance(value, str) for value in kept):
        kept = [str(value) for value in kept]
        if all(_WHOLE.fullmatch(value) for value in kept):
            kept = [int(value.removesuffix(".0")) for value in kept]
    class_names, labels[present] = encode_labels(location, {"y": np.array(kept)})
    return class_names, labels


def gaps(labels: Labels) -> tuple[str, ...]:
    """Say in a sentence how many rows have no label; nothing if all have one."""
    missing = int((labels < 0).sum())
    return (f"{missing} of {len(labels)} rows have no label (none is given, or a negative number)",) if missing else ()


def texts(location: str, column: str, values: Sequence[Any], *, numbers: bool = False) -> tuple[str, ...]:
    """Take a column as text; InputError names the first row that has none, or other than text (or numbers, where they do)."""
    for row, value in enumerate(values):
        if not isinstance(value, str | int | float if numbers else str) or value == "" or _gap(value, ()):
            got = "is empty" if value is None or value == "" else f"holds a {type(value).__name__}"
            raise InputError(f"{location}: row {row} of {column} (counted from 0) {got}; every row needs text there")
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return tuple(text_rows(location, {column: array}, column) or ())


def check_unique(location: str, ids: Sequence[str]) -> None:
    """InputError names an id that stands in several rows."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise InputError(
                f"{location}: ids have to be unique, but '{name}' stands in {ids.count(name)} rows; name another column, as in "
                f"{location}(id='COLUMN'), or mend the rows"
            )
        seen.add(name)


def number_rows(counts: Mapping[str, int]) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Make ids and split (N,) for splits of these lengths: train/0, train/1, ...; 0, 1, ... and None if there is one only.

    >>> number_rows({"train": 2, "test": 1})
    (('train/0', 'train/1', 'test/0'), ('train', 'train', 'test'))
    """
    if len(counts) == 1:
        return tuple(map(str, range(*counts.values()))), None
    split = tuple(name for name, count in counts.items() for _ in range(count))
    return tuple(f"{name}/{row}" for name, count in counts.items() for row in range(count)), split


def fingerprint(parts: Iterable[str | bytes | np.ndarray[Any, Any]]) -> str:
    """Hash texts, bytes and arrays in their order, each with its length, so that no two lists of parts come to the same.

    sha256 (hex).
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else _bytes_of(part) if isinstance(part, np.ndarray) else part
        digest.update(f"{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def _bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    """Give an array's bytes without a copy of them where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _gap(value: Any, words: Collection[str] = _GAPS) -> bool:
    return (
        value is None or (isinstance(value, str) and value.strip() in words) or (isinstance(value, float) and math.isnan(value))
    )
