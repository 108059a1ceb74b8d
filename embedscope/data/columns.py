"""Shared code of the data sources that read rows: columns, missing labels, ids, texts, fingerprints."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.errors import InputError
from embedscope.store.labels import text_rows
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Labels = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Texts:
    """Texts in memory."""

    rows: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> str:
        return self.rows[index]

    def batch(self, rows: Sequence[int]) -> list[str]:
        """Return the texts of these rows."""
        return [self.rows[row] for row in rows]


def gaps(labels: Labels) -> tuple[str, ...]:
    """Return a note on the number of unlabeled rows, if any."""
    missing = int((labels < 0).sum())
    which = counted(missing, "has", "have", of=counted(len(labels), "row"))
    return (f"{which} no label (missing or negative)",) if missing else ()


def texts(location: str, column: str, values: Sequence[Any], *, numbers: bool = False) -> tuple[str, ...]:
    """Return a column as text; InputError names the first row that is empty or not text (or a number, if allowed)."""
    for row, value in enumerate(values):
        if not isinstance(value, str | int | float if numbers else str) or value == "" or value != value:
            got = "is empty" if value is None or value == "" else f"holds a {type(value).__name__}"
            raise InputError(f"{location}: row {row} of {column} (counted from 0) {got}; every row needs text")
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return tuple(text_rows(location, {column: array}, column) or ())


def check_unique(location: str, ids: Sequence[str]) -> None:
    """Raise InputError for an id that occurs in several rows."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise InputError(
                f"{location}: ids must be unique, but '{name}' occurs in {ids.count(name)} rows; name another column, as in "
                f"{location}(id='COLUMN'), or fix the rows"
            )
        seen.add(name)


def number_rows(counts: Mapping[str, int]) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Return ids and split (N,) for splits of these lengths: train/0, train/1, ...; for a single split 0, 1, ... and None.

    >>> number_rows({"train": 2, "test": 1})
    (('train/0', 'train/1', 'test/0'), ('train', 'train', 'test'))
    """
    if len(counts) == 1:
        return tuple(map(str, range(*counts.values()))), None
    split = tuple(name for name, count in counts.items() for _ in range(count))
    return tuple(f"{name}/{row}" for name, count in counts.items() for row in range(count)), split


def fingerprint(parts: Iterable[str | bytes | np.ndarray[Any, Any]]) -> str:
    """Return a hash of texts, bytes and arrays in order, each with its length, so that different lists differ.

    sha256 (hex).
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else _bytes_of(part) if isinstance(part, np.ndarray) else part
        digest.update(f"{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def _bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    """Return an array's bytes, without copying if it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
