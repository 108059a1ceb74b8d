"""Tables with one input per row: a text or the path of an image, and a label, as `.csv`, `.tsv`, `.jsonl` or `.parquet`."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedscope.data.columns import Texts, check_unique, fingerprint, gaps, texts
from embedscope.data.dataset import Dataset
from embedscope.data.folder import ImageFiles, names_and_sizes, read_image
from embedscope.errors import InputError
from embedscope.plugins import recognises
from embedscope.store.columns import choose, is_table, named, open_columns
from embedscope.store.labels import encode
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from PIL.Image import Image

    from embedscope.store.columns import Columns


@dataclass(frozen=True)
class ImageBytes:
    """Encoded images in memory, decoded on access."""

    encoded: tuple[bytes, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> Image:
        encoded = self.encoded[index]
        return read_image(io.BytesIO(encoded), self.names[index])


@recognises(lambda path: is_table(path) and path.is_file())
def table(
    location: str,
    *,
    path: str | None = None,
    text: str | None = None,
    label: str | None = None,
    id: str | None = None,
    split: str | None = None,
) -> Dataset:
    """Open a table of paths or texts; columns are given as options or found by common names.

    A column of paths, relative to the table's folder, or of images themselves makes a data set of images, one of text a data
    set of texts. Rows with an empty label are unlabeled. Ids are the paths as written if they are unique, otherwise row
    numbers. InputError for columns that are not there or could be several, files that are missing, rows that are broken or
    empty, and ids that are repeated.
    """
    file = Path(location)
    columns = open_columns(location, file)
    taken, kind = choose(
        location,
        columns.names,
        given={"path": path, "text": text},
        candidates={
            "path": [name for name in columns.names if name in columns.images or named([name], "image")],
            "text": named(columns.names, "text"),
        },
    )
    label, _ = choose(
        location, columns.names, given={"label": label}, candidates={"label": named(columns.names, "label", taken=[taken])}
    )
    others = {
        role: column
        for role, name in (("id", id), ("split", split))
        if (column := _optional(location, columns, role, name, [taken, label])) is not None
    }
    values, cells, *more = columns.take(taken, label, *others.values())
    if not cells:
        raise InputError(f"{location} has no rows")
    class_names, labels = encode(location, label, cells)
    given = {
        role: texts(location, column, found, numbers=True) for (role, column), found in zip(others.items(), more, strict=True)
    }
    inputs: Texts | ImageFiles | ImageBytes
    ids: tuple[str, ...] | None
    parts: Iterable[str | bytes]
    if kind == "text":
        rows = texts(location, taken, values)
        inputs, ids, parts = Texts(rows), None, rows
    else:
        inputs, ids, parts = _images(location, file.parent, taken, values)
    if "id" in given:
        check_unique(location, given["id"])
        ids = given["id"]
    elif ids is None or len(set(ids)) < len(ids):
        ids = tuple(map(str, range(len(labels))))
    return Dataset(
        inputs=inputs,
        labels=labels,
        class_names=class_names,
        ids=ids,
        split=tuple(name.lower() for name in given["split"]) if "split" in given else None,
        location=location,
        fingerprint=fingerprint(parts),
        notes=gaps(labels),
    )


def _optional(location: str, columns: Columns, role: str, name: str | None, taken: Sequence[str]) -> str | None:
    candidates = named(columns.names, role, taken=taken)
    if name is None and not candidates:
        return None
    return choose(location, columns.names, given={role: name}, candidates={role: candidates})[0]


def _images(
    location: str, root: Path, column: str, values: Sequence[Any]
) -> tuple[ImageFiles | ImageBytes, tuple[str, ...] | None, Iterable[str | bytes]]:
    """Return inputs for paths, bytes, or {bytes, path}, their names if all have one, and what to hash."""
    pairs = [(value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, value) for value in values]
    encoded = [path if isinstance(path, bytes) else content for content, path in pairs]
    names = [None if isinstance(path, bytes) else path for _, path in pairs]
    if any(content is not None for content in encoded):
        held = [content for content in encoded if isinstance(content, bytes) and content]
        if len(held) < len(encoded):
            row = next(row for row, content in enumerate(encoded) if not (isinstance(content, bytes) and content))
            raise InputError(f"{location}: row {row} of {column} (counted from 0) has no image, but others do")
        known = tuple(map(str, names)) if all(names) else None
        shown = tuple(f"in row {row} of {location}" for row in range(len(values)))
        return ImageBytes(tuple(held), shown), known, held
    written = texts(location, column, names)
    files = [root / name for name in written]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        listed = f"{counted(len(files), 'file')} listed in {location}"
        raise InputError(
            f"{counted(len(missing), 'does', 'do', of=listed)} not exist, starting with {missing[0]}; paths "
            f"are relative to {root} and come from the column {column}"
        )
    return ImageFiles(tuple(files)), written, names_and_sizes(written, files)
