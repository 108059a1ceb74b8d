"""Tables that other programs read: a row a sample, as .csv or .parquet."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.errors import MissingExtraError, UsageError
from embedscope.store.files import finished

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from embedscope.records import Scores

SUFFIXES = (".csv", ".parquet")


def check_table(path: Path) -> None:
    """Raise UsageError for a suffix that is no table's, MissingExtraError where the library for it is not installed."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"cannot write a table to '{path}': the name has to end with {' or '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("a .parquet table needs pyarrow: pip install pyarrow; a .csv needs nothing") from error


def write_samples(path: Path, scores: Sequence[Scores]) -> int:
    """Write name, id, label, the values per sample, the nearest other class and the split; return how many rows.

    Embeddings follow one another. The file bears its name only when it is complete.
    """
    tables = [(entry.name, entry.table) for entry in scores if entry.table is not None]
    columns: dict[str, list[Any]] = {}
    for name, table in tables:
        blank = [""] * len(table.ids)
        parts: Mapping[str, Any] = {
            "name": [name] * len(table.ids),
            "id": table.ids,
            "label": table.labels,
            **table.values,
            "nearest": blank if table.nearest is None else table.nearest,
            "split": blank if table.split is None else table.split,
        }
        for column, values in parts.items():
            columns.setdefault(column, []).append(np.asarray(values))
    whole = {column: np.concatenate(parts) for column, parts in columns.items()}
    with finished(path) as partial:
        if path.suffix == ".parquet":
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.table({column: values.tolist() for column, values in whole.items()}), partial)
        else:
            with partial.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(whole)
                writer.writerows(zip(*(values.tolist() for values in whole.values()), strict=True))
    return len(next(iter(whole.values()), []))
