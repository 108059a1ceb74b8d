"""Tables: a row an input, with the path of an image or a text and a label, as `.csv`, `.tsv`, `.jsonl` or `.parquet`."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedscope.data.columns import Texts, check_unique, choose, encode, fingerprint, gaps, named, texts
from embedscope.data.dataset import Dataset
from embedscope.data.folder import ImageFiles, names_and_sizes, read_image
from embedscope.errors import EmbedscopeError, InputError
from embedscope.plugins import imported, recognises

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from PIL.Image import Image

# The most that csv takes on every platform: 2 GiB a field.
_LONGEST_FIELD = 2**31 - 1


@dataclass(frozen=True)
class Columns:
    """A table as it was opened.

    Attributes:
        names: of the columns, distinct, in their order.
        take: gives the values (N,) of a column; None is a gap.
        images: the columns that hold images themselves, as bytes or as {bytes, path}.
    """

    names: list[str]
    take: Callable[[str], list[Any]]
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageBytes:
    """Encoded images that lie in memory and are decoded when they are asked for."""

    encoded: tuple[bytes, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> Image:
        encoded = self.encoded[index]
        return read_image(io.BytesIO(encoded), self.names[index])


@recognises(lambda path: path.suffix.lower() in _READERS and path.is_file())
def table(
    location: str,
    *,
    path: str | None = None,
    text: str | None = None,
    label: str | None = None,
    id: str | None = None,
    split: str | None = None,
) -> Dataset:
    """Open a table, whose columns are the options, or are found by their usual names.

    A column of paths, relative to the table's folder, or of images themselves makes a data set of images, one of text a data
    set of texts. Rows with an empty label are unlabelled. Ids are the paths as written if they are unique, otherwise row
    numbers. InputError for columns that are not there or could be several, files that are missing, rows that are broken or
    empty, and ids that are repeated.
    """
    file = Path(location)
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise InputError(f"{location} is no table that embedscope reads; expected one of {', '.join(_READERS)}")
    columns = _opened(location, reader, file)
    taken, kind = choose(
        location,
        columns.names,
        given={"path": path, "text": text},
        candidates={
            "path": [name for name in columns.names if name in columns.images or name in named(columns.names, "image")],
            "text": named(columns.names, "text"),
        },
    )
    label, _ = choose(
        location, columns.names, given={"label": label}, candidates={"label": named(columns.names, "label", taken=[taken])}
    )
    class_names, labels = encode(location, label, columns.take(label))
    if not len(labels):
        raise InputError(f"{location} has no rows")
    values = columns.take(taken)
    inputs: Texts | ImageFiles | ImageBytes
    ids: tuple[str, ...] | None
    parts: Iterable[str | bytes]
    if kind == "text":
        rows = texts(location, taken, values)
        inputs, ids, parts = Texts(rows), None, rows
    else:
        inputs, ids, parts = _images(location, file.parent, taken, values)
    given = {role: _optional(location, columns, role, name, [taken, label]) for role, name in (("id", id), ("split", split))}
    if given["id"] is not None:
        check_unique(location, given["id"])
        ids = given["id"]
    elif ids is None or len(set(ids)) < len(ids):
        ids = tuple(map(str, range(len(labels))))
    return Dataset(
        inputs=inputs,
        labels=labels,
        class_names=class_names,
        ids=ids,
        split=given["split"] and tuple(name.lower() for name in given["split"]),
        location=location,
        fingerprint=fingerprint(parts),
        notes=gaps(labels),
    )


def _optional(location: str, columns: Columns, role: str, name: str | None, taken: Sequence[str]) -> tuple[str, ...] | None:
    candidates = named(columns.names, role, taken=taken)
    if name is None and not candidates:
        return None
    column, _ = choose(location, columns.names, given={role: name}, candidates={role: candidates})
    return texts(location, column, columns.take(column), numbers=True)


def _images(
    location: str, root: Path, column: str, values: Sequence[Any]
) -> tuple[ImageFiles | ImageBytes, tuple[str, ...] | None, Iterable[str | bytes]]:
    """Make inputs of paths, bytes, or {bytes, path}; return them, their names where all have one, and what to hash."""
    pairs = [(value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, value) for value in values]
    encoded = [path if isinstance(path, bytes) else content for content, path in pairs]
    names = [None if isinstance(path, bytes) else path for _, path in pairs]
    if any(content is not None for content in encoded):
        held = [content for content in encoded if isinstance(content, bytes) and content]
        if len(held) < len(encoded):
            row = next(row for row, content in enumerate(encoded) if not (isinstance(content, bytes) and content))
            raise InputError(f"{location}: row {row} of {column} (counted from 0) holds no image, others do")
        known = tuple(map(str, names)) if all(names) else None
        shown = tuple(f"in row {row} of {location}" for row in range(len(values)))
        return ImageBytes(tuple(held), shown), known, held
    written = texts(location, column, names)
    files = [root / name for name in written]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(files)} files that {location} names are not there, the first is {missing[0]}; paths are "
            f"relative to {root}, and come from the column {column}"
        )
    return ImageFiles(tuple(files)), written, names_and_sizes(written, files)


def _opened(location: str, reader: Callable[[Path], Columns], file: Path) -> Columns:
    try:
        columns = reader(file)
    except EmbedscopeError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"{location} is no UTF-8 text: {error}; save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{location} cannot be read: {error.strerror or error}") from error
    repeated = sorted({name for name in columns.names if columns.names.count(name) > 1})
    if repeated:
        raise InputError(f"{location} has several columns called '{repeated[0]}'; rename them")
    return columns


def _delimited(file: Path, delimiter: str) -> Columns:
    """Read rows of text; a line with more or fewer fields than the first one is an InputError."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    rows: list[list[str]] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            try:
                header = [name.strip() for name in next(reader, [])]
                for row in reader:
                    if row and len(row) != len(header):
                        raise InputError(
                            f"{file}: line {reader.line_num} has {len(row)} fields, the header has {len(header)}; put "
                            "quotation marks around fields with separators or line breaks in them"
                        )
                    if row:
                        rows.append(row)
            except csv.Error as error:
                raise InputError(f"{file}: line {reader.line_num} cannot be read: {error}") from error
    finally:
        csv.field_size_limit(before)
    place = {name: position for position, name in enumerate(header)}
    return Columns(header, lambda name: [row[place[name]] for row in rows])


def _comma(file: Path) -> Columns:
    """Read a .csv; where the decimal sign is a comma, spreadsheets separate fields with semicolons."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        header = lines.readline()
    return _delimited(file, ";" if ";" in header and "," not in header else ",")


def _tab(file: Path) -> Columns:
    return _delimited(file, "\t")


def _json_lines(file: Path) -> Columns:
    """Read an object a line; a key that a line does not have is a gap."""
    rows: list[dict[str, Any]] = []
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{file}: line {number} is no JSON: {error}") from error
            if not isinstance(row, dict):
                raise InputError(f"{file}: line {number} is a {type(row).__name__}; expected an object a line, as in {{...}}")
            rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Columns(names, lambda name: [row.get(name) for row in rows])


def _parquet(file: Path) -> Columns:
    """Open a parquet file; its columns are read when they are taken."""
    pyarrow = imported("pyarrow", extra="tables")
    parquet = imported("pyarrow.parquet", extra="tables")

    def take(name: str) -> list[Any]:
        try:
            values: list[Any] = parquet.ParquetFile(file).read(columns=[name]).column(name).to_pylist()
        except (pyarrow.ArrowException, OSError, KeyError, ValueError) as error:
            raise InputError(f"{file}: the column {name} cannot be read: {str(error).partition(chr(10))[0]}") from error
        return values

    try:
        schema = parquet.ParquetFile(file).schema_arrow
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read as parquet: {str(error).partition(chr(10))[0]}") from error
    types = pyarrow.types
    images = tuple(
        field.name
        for field in schema
        if types.is_binary(field.type)
        or types.is_large_binary(field.type)
        or (types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    )
    return Columns(list(schema.names), take, images)


_READERS: dict[str, Callable[[Path], Columns]] = {
    ".csv": _comma,
    ".tsv": _tab,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
