"""Write a feature store so that what bears its name is always complete."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from embedscope.errors import InputError, OutputError
from embedscope.store.files import check_output, finished
from embedscope.store.format import SCHEMA, SCHEMA_VERSION, chunk_rows

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

    Raises:
        InputError: ids that are not unique, or text that UTF-8 cannot hold.
        OutputError: the output exists, or the file system refuses.
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
            raise InputError(f"ids have to be unique, one a row: {len(set(ids))} distinct ids for {len(labels)} rows")
        texts = {"class_names": class_names, "ids": ids, "split": split}
        for name, values in texts.items():
            for value in values or ():
                if "\0" in value or not _encodable(value):
                    raise InputError(f"{name} hold {value!r}, which a store cannot: text has to be UTF-8 without NUL")
        self.rows = len(labels)
        self._labels = np.asarray(labels, dtype=np.int64)
        self._texts = {name: values for name, values in texts.items() if values is not None}
        self._provenance = json.dumps(provenance)
        self._pending: dict[str, list[Array]] = {}
        self._written: dict[str, int] = {}
        self._finished = finished(self.path)

    def __enter__(self) -> StoreWriter:
        self._partial = self._finished.__enter__()
        try:
            self._file = h5py.File(self._partial, "w")
            self._file.attrs.update(schema=SCHEMA, schema_version=SCHEMA_VERSION, complete=False)
            self._file["labels"] = self._labels
            for name, values in self._texts.items():
                self._file.create_dataset(name, data=np.array(list(values), dtype=object), dtype=_TEXT)
            self._file.create_dataset("provenance", data=self._provenance, dtype=_TEXT)
            self._file["rows/done"] = np.int64(0)
        except OSError as error:
            self._finished.__exit__(type(error), error, error.__traceback__)
            raise OutputError(f"cannot write {self.path}: {error}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._finish()
        except BaseException as failed:
            self._close_quietly()
            self._finished.__exit__(type(failed), failed, failed.__traceback__)
            if isinstance(failed, OSError | RuntimeError):  # HDF5 reports a full disk as either
                raise OutputError(f"cannot write {self.path}: {failed}") from failed
            raise
        self._close_quietly()
        self._finished.__exit__(kind, error, trace)

    def add(self, features: Mapping[str, Array], magnitudes: Mapping[str, Array] | None = None) -> None:
        """Append the next rows of every layer: layer -> (B, D) float32 or float16, and (B, C) float32 magnitudes."""
        try:
            for group, arrays in (("features", features), ("magnitudes", magnitudes or {})):
                for layer, array in arrays.items():
                    self._append(f"{group}/{layer}", np.asarray(array))
            self._file["rows/done"][()] = min(self._written.values(), default=0)
        except (OSError, RuntimeError) as error:
            raise OutputError(f"cannot write {self.path}: {error}") from error

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
        if min(self._written.values(), default=0) != self.rows:
            raise ValueError(f"{self.path}: {self.rows} rows were announced, and not all of them were added")
        self._file.attrs["complete"] = True
        self._file.close()
        with h5py.File(self._partial, "r") as check:  # reads one block of every layer through its checksum
            for name in self._written:
                check[name][: check[name].chunks[0]]
        with self._partial.open("rb") as written:
            os.fsync(written.fileno())

    def _close_quietly(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # closing flushes, which a full disk refuses: the file is removed next
            self._file.close()


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
