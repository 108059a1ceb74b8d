"""Write a feature store so that what bears its name is always complete."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from embedscope.errors import OutputError
from embedscope.store.format import SCHEMA, SCHEMA_VERSION, chunk_rows, partial_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    Array = np.ndarray[Any, Any]

_TEXT = h5py.string_dtype("utf-8")


class StoreWriter:
    """A store in the making; use as a context manager, and `add` rows in order.

    Labels, ids and provenance are written at once, features as they come. Leaving the context with all rows added checks the
    file, sets `complete` and gives it its name; leaving it on an error removes what was written.

    Args:
        path: of the finished store.
        labels: (N,) int64, -1 for unlabelled.
        class_names: (K,).
        ids: (N,) unique.
        split: (N,) or None.
        provenance: anything that JSON can hold.
        overwrite: replace a store of that name; otherwise OutputError, before anything is written.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        labels: Array,
        class_names: Sequence[str],
        ids: Sequence[str],
        split: Sequence[str] | None,
        provenance: Mapping[str, Any],
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        check_output(self.path, overwrite=overwrite)
        if len(set(ids)) != len(labels) or len(ids) != len(labels):
            raise ValueError(f"ids have to be unique, one a row: {len(set(ids))} distinct ids for {len(labels)} rows")
        self.rows = len(labels)
        self.done = 0
        self._pending: dict[str, list[Array]] = {}
        self._written: dict[str, int] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = h5py.File(partial_path(self.path), "w")
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error}") from error
        self._file.attrs.update(schema=SCHEMA, schema_version=SCHEMA_VERSION, complete=False)
        self._file["labels"] = np.asarray(labels, dtype=np.int64)
        for name, texts in (("class_names", class_names), ("ids", ids), ("split", split)):
            if texts is not None:
                self._file.create_dataset(name, data=np.array(list(texts), dtype=object), dtype=_TEXT)
        self._file.create_dataset("provenance", data=json.dumps(provenance), dtype=_TEXT)
        self._file["rows/done"] = np.int64(0)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._finish()
        else:
            self._file.close()
            partial_path(self.path).unlink(missing_ok=True)

    def add(self, features: Mapping[str, Array], magnitudes: Mapping[str, Array] | None = None) -> None:
        """Append the next rows of every layer: layer -> (B, D) float32 or float16, and (B, C) float32 magnitudes."""
        for group, arrays in (("features", features), ("magnitudes", magnitudes or {})):
            for layer, array in arrays.items():
                self._append(f"{group}/{layer}", np.asarray(array))
        self.done = min(self._written.values(), default=0)
        self._file["rows/done"][()] = self.done

    def _append(self, name: str, array: Array) -> None:
        if name not in self._file:
            rows = chunk_rows(array.shape[1], array.dtype.itemsize)
            self._file.create_dataset(
                name,
                shape=(self.rows, array.shape[1]),
                dtype=array.dtype,
                chunks=(min(rows, max(self.rows, 1)), array.shape[1]),
                fletcher32=True,
            )
            self._pending[name], self._written[name] = [], 0
        self._pending[name].append(array)
        waiting = sum(len(block) for block in self._pending[name])
        chunk = self._file[name].chunks[0]
        last = self._written[name] + waiting == self.rows
        whole = waiting if last else waiting - waiting % chunk
        if whole:
            block = np.concatenate(self._pending[name])
            start = self._written[name]
            self._file[name][start : start + whole] = block[:whole]
            self._pending[name] = [block[whole:]]
            self._written[name] += whole
            self._file.flush()

    def _finish(self) -> None:
        partial = partial_path(self.path)
        if self.done != self.rows:
            self._file.close()
            partial.unlink()
            raise ValueError(f"{self.path}: {self.rows} rows were announced, and not all of them were added")
        self._file.attrs["complete"] = True
        self._file.close()
        with h5py.File(partial, "r") as check:  # reads one block of every layer through its checksum
            for name in self._written:
                check[name][: check[name].chunks[0]]
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(self.path)


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError if something of that name is there and may not be replaced, or its folder cannot be one."""
    if path.is_dir():
        raise OutputError(f"output {path} is a folder; give the name of a file, such as {path / 'features.h5'}")
    if path.exists() and not overwrite:
        raise OutputError(f"output {path} exists; choose another name or pass --overwrite")
