"""What a store holds beside its rows: written before the first of them, and brought in line with them after the last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from embedscope.errors import InputError
from embedscope.store import digests, opening
from embedscope.store.files import allot
from embedscope.store.format import LIBVER, SCHEMA, SCHEMA_VERSION
from embedscope.store.unfinished import ANNOUNCED, COMMITTED, DONE, SKIPPED
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Array = np.ndarray[Any, Any]

_TEXT = h5py.string_dtype("utf-8")
_TEXTS = ("class_names", "ids", "split")


class Skeleton:
    """Labels, texts and provenance of the rows that are announced.

    Args:
        labels: (N,) int64.
        texts: "class_names" (K,), "ids" (N,), and "split" (N,) if there are splits.
        provenance: JSON.
    """

    def __init__(self, labels: Array, texts: Mapping[str, Sequence[str]], provenance: str) -> None:
        self.labels, self.texts, self.provenance = labels, texts, provenance

    def create(self, path: Path) -> None:
        """Write a new file, with no row committed; OSError, before HDF5 has anything to write, if there is no room for it."""
        with path.open("wb") as stream:
            allot(stream.fileno(), 0, self._size())
        with h5py.File(path, "w", libver=LIBVER, locking=opening.LOCKING) as file:
            file.attrs.update(schema=SCHEMA, schema_version=SCHEMA_VERSION, complete=False)
            file["labels"] = self.labels
            for name, values in self.texts.items():
                write_texts(file, name, values)
            file.create_dataset("provenance", data=self.provenance, dtype=_TEXT)
            file[ANNOUNCED] = np.int64(len(self.labels))
            file[DONE] = np.int64(0)
            file[COMMITTED] = np.zeros(2, dtype=np.int64)
            file.create_dataset(SKIPPED, shape=(0,), maxshape=(None,), dtype=np.int64, chunks=(1024,), fillvalue=-1)
            file.create_group(digests.GROUP)
            file.flush()

    def _size(self) -> int:
        """Bytes that the file takes at most: a text has its length, a pointer to it, a header, and is aligned."""
        texts = sum(len(value.encode()) + 40 for values in self.texts.values() for value in values)
        return 2**16 + 8 * len(self.labels) + texts + len(self.provenance.encode())

    def restore(self, file: h5py.File) -> None:
        """Bring a file back to all inputs: a run that was killed while it finished may have shortened a part of it."""
        file.pop("skipped", None)
        if "labels" not in file or len(file["labels"]) != len(self.labels):
            file.pop("labels", None)
            file["labels"] = self.labels
        for name in {"ids", "split"} & set(self.texts):
            if name not in file or len(file[name]) != len(self.labels):
                file.pop(name, None)
                write_texts(file, name, self.texts[name])
        for name in row_datasets(file):
            if len(file[name]) != len(self.labels):
                file[name].resize(len(self.labels), axis=0)

    def without(self, skipped: Mapping[int, str]) -> Skeleton:
        """Leave the inputs at these positions out."""
        if not skipped:
            return self
        kept = np.ones(len(self.labels), dtype=bool)
        kept[list(skipped)] = False
        texts = {
            name: values if name == "class_names" else [value for value, keep in zip(values, kept, strict=True) if keep]
            for name, values in self.texts.items()
        }
        return Skeleton(self.labels[kept], texts, self.provenance)

    def shorten(self, file: h5py.File, skipped: Mapping[int, str], names: Sequence[str]) -> None:
        """Shorten everything to the rows that are there, and list those that are not.

        A kill in the middle leaves what can be done again from the start: nothing that resuming reads is touched.
        """
        kept = self.without(skipped)
        for name in names:
            file[name].resize(len(kept.labels), axis=0)
        file.pop("labels", None)
        file["labels"] = kept.labels
        for name in ("ids", "split"):
            if name in kept.texts:
                file.pop(name, None)
                write_texts(file, name, kept.texts[name])
        file.pop("skipped", None)
        positions = sorted(skipped)
        write_texts(file, "skipped/ids", [self.texts["ids"][position] for position in positions])
        write_texts(file, "skipped/reasons", [_plain(skipped[position]) for position in positions])

    def digests(self) -> dict[str, str]:
        """Hash what was handed over."""
        found = {name: digests.of_texts(values) for name, values in self.texts.items()}
        return {**found, "labels": digests.of_labels(self.labels), "provenance": digests.of_texts([self.provenance])}

    def check(self) -> None:
        """Raise InputError for ids that are not unique, and for text that a store cannot hold."""
        ids = self.texts["ids"]
        distinct = len(set(ids))
        if distinct != len(self.labels) or len(ids) != len(self.labels):
            raise InputError(f"ids must be unique, one per row: {distinct} distinct ids for {counted(len(self.labels), 'row')}")
        for name, values in self.texts.items():
            for value in values:
                if "\0" in value or not _encodable(value):
                    raise InputError(f"{name} hold {value!r}, which cannot be stored: text must be UTF-8 without NUL")
                if len(value) > opening.LONGEST // 4:  # characters of UTF-8 take up to four bytes
                    raise InputError(
                        f"{name} hold a text of {len(value):,} characters starting with {value[:40]!r}; the limit is "
                        f"{opening.LONGEST // 4:,}"
                    )


def write_texts(file: h5py.File, name: str, values: Sequence[str]) -> None:
    """Write UTF-8 in slices: HDF5 would copy all of a million texts at once."""
    dataset = file.create_dataset(name, shape=(len(values),), dtype=_TEXT)
    step = 2**16
    for start in range(0, len(values), step):
        dataset[start : start + step] = np.array(values[start : start + step], dtype=object)


def row_datasets(file: h5py.File) -> list[str]:
    """List the data sets of a store that have a row for every sample."""
    names = [f"{group}/{name}" for group in ("features", "magnitudes") for name in opening.datasets_below(file, group)]
    return [*names, *["logits"] * opening.has(file, "logits")]


def _plain(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")[: opening.LONGEST // 4]


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
