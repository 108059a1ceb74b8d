"""Tables that other programs read, as .csv or .parquet."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.errors import MissingExtraError, UsageError
from embedscope.store.files import finished

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
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


def write_table(path: Path, columns: Mapping[str, Sequence[Any] | np.ndarray[Any, Any]]) -> int:
    """Write columns of equal length, name -> (n,); return n. The file gets its name only when it is complete."""
    plain = {name: np.asarray(values).tolist() for name, values in columns.items()}
    with finished(path) as partial:
        if path.suffix == ".parquet":
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.table(plain), partial)
        else:
            with partial.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(plain)
                writer.writerows(zip(*plain.values(), strict=True))
    return len(next(iter(plain.values()), []))
