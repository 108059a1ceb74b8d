"""Parquet files as named columns, none of which is read that would be larger than memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.errors import InputError
from embedscope.plugins import imported
from embedscope.store.columns import Columns, listed
from embedscope.store.limits import check_size
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    Array = np.ndarray[Any, Any]


def open_parquet(file: Path) -> Columns:
    """Open a parquet file; its columns are read when they are taken, none of which may be larger than memory."""
    pyarrow = imported("pyarrow", extra="tables")
    parquet = imported("pyarrow.parquet", extra="tables")
    types = pyarrow.types
    broken = (pyarrow.ArrowException, OSError, KeyError, ValueError, MemoryError)

    def opened(**options: Any) -> Any:
        try:
            return parquet.ParquetFile(file, **options)
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{file} cannot be read as parquet: {str(error).partition(chr(10))[0]}") from error

    schema = opened().schema_arrow
    texts = [field.name for field in schema if types.is_string(field.type) or types.is_large_string(field.type)]

    def checked(names: Sequence[str]) -> Any:
        """Open the file anew for these columns, after a look at how much they declare."""
        source = opened(read_dictionary=[name for name in names if name in texts])
        wanted, metadata = set(names), source.metadata
        leaves = [
            place for place in range(metadata.num_columns) if source.schema.column(place).path.partition(".")[0] in wanted
        ]
        size = 0
        for group in range(metadata.num_row_groups):
            for place in leaves:
                chunk = metadata.row_group(group).column(place)
                size += 8 * max(chunk.num_values, 0) + max(chunk.total_uncompressed_size, 0)
        size = max(size, 8 * metadata.num_rows * len(names))
        what = f"{listed(names)} of {counted(metadata.num_rows, 'row')}"
        check_size(str(file), what, size, packed=file.stat().st_size)
        return source

    def rows(names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        source = checked(names)
        try:
            for batch in source.iter_batches(columns=list(names)):
                yield from zip(*(_values(batch.column(batch.schema.get_field_index(name))) for name in names), strict=True)
        except broken as error:
            raise InputError(f"{file}: {listed(names)} cannot be read: {str(error).partition(chr(10))[0]}") from error

    def block(names: Sequence[str]) -> Array:
        source = checked(names)
        try:
            found = source.read(columns=list(names))
            if len(names) == 1 and _is_list(types, schema.field(names[0]).type):
                return _lists(str(file), names[0], found.column(0))
            wide = all(types.is_floating(schema.field(name).type) for name in names)
            narrow = wide and all(schema.field(name).type.bit_width <= 32 for name in names)
            values = np.empty((found.num_rows, len(names)), dtype=np.float32 if narrow else np.float64)
            for place, name in enumerate(names):
                column = found.column(name)
                if not types.is_floating(column.type):
                    column = column.cast(pyarrow.float64())  # refuses whole numbers that a float64 does not hold
                values[:, place] = column.to_numpy()
        except broken as error:
            raise InputError(f"{file}: {listed(names)} cannot be read: {str(error).partition(chr(10))[0]}") from error
        return values

    likely = {field.name: _likely(types, field.type) for field in schema}
    images = tuple(
        field.name
        for field in schema
        if types.is_binary(field.type)
        or types.is_large_binary(field.type)
        or (types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    )
    return Columns(list(schema.names), rows, likely, images, block)


def _values(column: Any) -> list[Any]:
    """Give the values of an Arrow array; texts that repeat are one object, for a file may repeat a long one many times."""
    if not hasattr(column, "dictionary"):
        values: list[Any] = column.to_pylist()
        return values
    words = column.dictionary.to_pylist()
    return [None if place is None else words[place] for place in column.indices.to_pylist()]


def _likely(types: Any, kind: Any) -> Any:
    """Give a value like those of an Arrow type: a number, a list of numbers, or text for anything else."""
    if _is_list(types, kind):
        return [0.0] if types.is_floating(kind.value_type) or types.is_integer(kind.value_type) else "text"
    return 0.0 if types.is_floating(kind) or types.is_integer(kind) else "text"


def _is_list(types: Any, kind: Any) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _lists(file: str, name: str, column: Any) -> Array:
    """Turn a column of lists of one length into (N, D), in the lists' own dtype."""
    if column.null_count:
        what = counted(column.null_count, f"row of {name} is", f"rows of {name} are")
        raise InputError(f"{file}: {what} empty; every row needs a list of numbers")
    parts = [(chunk, np.asarray(chunk.flatten().to_numpy(zero_copy_only=False))) for chunk in column.chunks if len(chunk)]
    widths: set[int] = set()
    for chunk, values in parts:
        variable = hasattr(chunk, "offsets")
        widths |= set(np.unique(np.diff(chunk.offsets.to_numpy())).tolist() if variable else [len(values) // len(chunk)])
    if len(widths) != 1:
        lengths = " and ".join(map(str, sorted(widths)[:2]))
        raise InputError(f"{file}: the lists of {name} differ in length, such as {lengths}")
    return np.concatenate([values.reshape(len(chunk), -1) for chunk, values in parts])
