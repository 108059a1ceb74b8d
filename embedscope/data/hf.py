"""Data sets of the Hugging Face library `datasets`: from the Hub, from its cache, saved to disk, or as files."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.data.columns import fingerprint, gaps, number_rows
from embedscope.data.dataset import Dataset
from embedscope.errors import InputError, unknown
from embedscope.plugins import imported, recognises
from embedscope.store.columns import choose, named
from embedscope.store.labels import encode
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from embedscope.data.columns import Labels

# What load_dataset calls the reader of a single file.
_BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_STRINGS = frozenset({"string", "large_string", "string_view"})


@dataclass(frozen=True)
class ImageColumn:
    """Images of a data set, decoded on access."""

    rows: Any
    column: str
    location: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self.rows):
            raise IndexError(index)
        try:
            return self.rows[index][self.column]
        except Exception as error:  # untrusted bytes: every decoder fails in its own way
            raise InputError(f"cannot read the image in row {index} of hf:{self.location}: {error}") from error


@dataclass(frozen=True)
class TextColumn:
    """Texts of a data set, read from disk on access."""

    rows: Any
    column: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> str:
        return str(self.rows[index][self.column])

    def batch(self, rows: Sequence[int]) -> list[str]:
        """Return the texts of these rows."""
        return list(self.rows[list(rows)][self.column])


def is_saved(path: Path) -> bool:
    """Return whether a folder was written by save_to_disk, with one split or several."""
    return (
        all((path / name).is_file() for name in ("dataset_info.json", "state.json")) or (path / "dataset_dict.json").is_file()
    )


@recognises(is_saved)
def hf(
    location: str,
    *,
    config: str | None = None,
    split: str | None = None,
    image: str | None = None,
    text: str | None = None,
    label: str | None = None,
) -> Dataset:
    """Open a Hugging Face data set by Hub name, or from a local folder or file.

    All splits come one after the other, if none is named. The column of images or texts and that of labels are options, or are
    found by their types (Image, ClassLabel) or usual names. A missing label, or -1, is unlabeled. InputError for a data set
    that is not there or cannot be loaded, and for columns that are not there or could be several.
    """
    datasets = imported("datasets", extra="hf")
    with _quiet(datasets):
        try:
            parts = _splits(datasets, location, config, split)
            rows = datasets.concatenate_datasets(list(parts.values()))
        except InputError:
            raise
        except Exception as error:  # the Hub, the network, the disk and every builder fail in ways of their own
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"hf:{location} cannot be loaded: {type(error).__name__}: {reason}; give the name of a data set on the "
                f"Hub, or a local folder or file, with config= and split= if it has several; without network access, only "
                f"cached data sets are found"
            ) from error
        if not len(rows):
            raise InputError(f"hf:{location} has no rows")
        taken, kind, rows = _input_column(datasets, location, rows, image, text)
        label = _label_column(datasets, location, rows, label, taken)
        class_names, labels = _labels(datasets, location, rows, label)
        only = rows.select_columns([taken])
        digest = fingerprint(_contents(location, only, taken, kind))
    ids, names = number_rows({name: len(part) for name, part in parts.items()})
    return Dataset(
        inputs=ImageColumn(only, taken, location) if kind == "image" else TextColumn(only, taken),
        labels=labels,
        class_names=class_names,
        ids=ids,
        split=names,
        location=location,
        fingerprint=digest,
        notes=gaps(labels),
    )


@contextmanager
def _quiet(datasets: ModuleType) -> Iterator[None]:
    """Silence the library's progress bars and messages, and restore its settings afterwards."""
    hub = imported("huggingface_hub.utils", extra="hf")
    bars = [library for library in (datasets, hub) if not library.are_progress_bars_disabled()]
    levels = [(library.logging, library.logging.get_verbosity()) for library in (datasets, hub)]
    for library in bars:
        library.disable_progress_bars()
    for logging, _ in levels:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        for logging, level in levels:
            logging.set_verbosity(level)
        for library in bars:
            library.enable_progress_bars()


def _splits(datasets: ModuleType, location: str, config: str | None, split: str | None) -> dict[str, Any]:
    """Load the splits by name; a single one that is named, or has no name, is called ""."""
    path = Path(location)
    if is_saved(path):
        found = datasets.load_from_disk(location)
        if split is not None:
            if not isinstance(found, dict) or split not in found:
                known = list(found) if isinstance(found, dict) else []
                raise InputError(unknown("split", split, known, place=location))
            found = found[split]
    elif path.is_file():
        suffix = path.suffix.lower()
        if suffix not in _BUILDERS:
            raise InputError(f"hf:{location} is not a supported file; expected one of {', '.join(_BUILDERS)}")
        options = {"delimiter": "\t"} if suffix == ".tsv" else {}
        found = datasets.load_dataset(_BUILDERS[suffix], data_files=location, split=split, **options)
    elif path.is_dir() or _HUB_NAME.fullmatch(location):
        found = datasets.load_dataset(location, config, split=split)
    else:  # the Hub would only be asked for it again and again
        raise InputError(
            f"no such data: hf:{location} is not a folder, a file, or a name on the Hub such as mnist or owner/name"
        )
    return dict(found) if isinstance(found, dict) else {"": found}


def _input_column(datasets: ModuleType, location: str, rows: Any, image: str | None, text: str | None) -> tuple[str, str, Any]:
    """Return the input column, whether it has images or texts, and the rows with images decoded as such."""
    features = rows.features
    typed = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    encoded = [name for name, feature in features.items() if _holds_bytes(feature)]
    strings = [name for name, feature in features.items() if getattr(feature, "dtype", None) in _STRINGS]
    images = typed or encoded
    taken, kind = choose(
        f"hf:{location}",
        rows.column_names,
        given={"image": image, "text": text},
        candidates={"image": named(images, "image") or images, "text": named(strings, "text")},
    )
    if taken not in (typed + encoded if kind == "image" else strings):
        raise InputError(f"hf:{location}: the column {taken} contains {features[taken]} instead of {kind}s")
    return taken, kind, rows.cast_column(taken, datasets.Image()) if taken in encoded else rows


def _holds_bytes(feature: Any) -> bool:
    """Whether a column has images that were stored without saying so: bytes, or {bytes, path}."""
    return (isinstance(feature, dict) and "bytes" in feature) or getattr(feature, "dtype", None) in ("binary", "large_binary")


def _label_column(datasets: ModuleType, location: str, rows: Any, label: str | None, taken: str) -> str:
    typed = [name for name, feature in rows.features.items() if isinstance(feature, datasets.ClassLabel)]
    candidates = named(typed, "label") or typed or named(rows.column_names, "label", taken=[taken])
    return choose(f"hf:{location}", rows.column_names, given={"label": label}, candidates={"label": candidates})[0]


def _labels(datasets: ModuleType, location: str, rows: Any, column: str) -> tuple[tuple[str, ...], Labels]:
    values = rows.select_columns([column])[:][column]
    feature = rows.features[column]
    if not isinstance(feature, datasets.ClassLabel) or feature.names is None:
        return encode(f"hf:{location}", column, values)
    labels = np.array([-1 if value is None else value for value in values], dtype=np.int64)
    if labels.max() >= len(feature.names):
        raise InputError(
            f"hf:{location}: label {labels.max()} of {column} has no name among {counted(len(feature.names), 'class')}"
        )
    return tuple(feature.names), np.maximum(labels, -1)


def _contents(location: str, rows: Any, column: str, kind: str) -> Iterator[str]:
    """Return the parts of the fingerprint: texts, or names and sizes of images, without decoding them.

    InputError names the first row that is empty.
    """
    compute = imported("pyarrow.compute", extra="hf")
    start = 0
    for batch in rows.with_format("arrow").iter(batch_size=1000):
        values = batch.column(column)
        if kind == "text":
            filled = values.to_pylist()
            parts = filled
        else:
            sizes = compute.binary_length(compute.struct_field(values, "bytes")).to_pylist()
            names = compute.struct_field(values, "path").to_pylist()
            filled = [size or name for size, name in zip(sizes, names, strict=True)]
            parts = [f"{name}\0{size}" for size, name in zip(sizes, names, strict=True)]
        for row, value in enumerate(filled):
            if not value:
                raise InputError(f"hf:{location}: row {start + row} of {column} (counted from 0) is empty; every row needs one")
        yield from parts
        start += len(filled)
