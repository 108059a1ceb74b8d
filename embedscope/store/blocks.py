"""Commit rows to a store by blocks, so that a kill or a full disk costs the block that is being written and no other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.errors import InputError
from embedscope.store import digests
from embedscope.store.files import allot
from embedscope.store.format import block_rows, chunk_rows
from embedscope.store.skeleton import row_datasets, write_texts
from embedscope.store.unfinished import COMMITTED, DONE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import h5py

    Array = np.ndarray[Any, Any]

# What the index of a data set may grow by in a block, beside its rows.
_INDEX_BYTES = 16 * 2**10


class Blocks:
    """The data sets of rows, with their digests.

    They are held open while the file is: HDF5 writes what it holds of a data set when that is closed, and an error there is
    lost, because h5py closes it in a destructor.

    Args:
        file: open for writing.
        rows: declared.
        most_rows: that may be committed at once, or None.

    Attributes:
        done: committed rows.
        names: of the data sets, once the first rows came.
    """

    def __init__(self, file: h5py.File, rows: int, most_rows: int | None) -> None:
        self._file, self._rows, self._most_rows = file, rows, most_rows
        self._committed, self._done = file[COMMITTED], file[DONE]
        self.done, self.position = (int(number) for number in self._committed[:])
        self._datasets: dict[str, h5py.Dataset] = {}
        self._pending: dict[str, list[Array]] = {}
        self._positions: list[int] = []
        self._size = 0

    @property
    def names(self) -> list[str]:
        """The data sets of rows."""
        return list(self._datasets) or row_datasets(self._file)

    def add(self, arrays: Mapping[str, Array], positions: Sequence[int] | None) -> None:
        """Take the next rows of every data set, and which inputs they are of; None continues."""
        if not self._size:
            self._prepare(arrays)
        for name, array in arrays.items():
            self._pending[name].append(array)
        count, start = len(next(iter(arrays.values()))), self.done + len(self._positions)
        self._positions += range(start, start + count) if positions is None else positions

    def commit(self, skipped: int) -> bool:
        """Write the blocks that are full, and the last one when no more rows can come; whether there was anything to write.

        Rows and digests, flush, counter, flush.
        """
        waiting = len(self._positions)
        last = self.done + waiting + skipped >= self._rows
        whole = waiting if last else waiting - waiting % max(self._size, 1)
        if not whole:
            return False
        ready: dict[str, Array] = {}
        for name, blocks in self._pending.items():
            rows = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
            ready[name], self._pending[name] = rows[:whole], [rows[whole:].copy()]
        self.reserve(sum(rows.nbytes for rows in ready.values()) + (_INDEX_BYTES + whole) * len(ready))
        for name, rows in ready.items():
            self._datasets[name][self.done : self.done + whole] = rows
        self._add_digests(ready, whole)
        self.flush()
        self.position = self._positions[whole - 1] + 1
        self._committed[...] = (self.done + whole, self.position)  # both in one write, so that no kill parts them
        self._done[()] = self.done + whole
        self.flush()
        self.done += whole
        self._positions = self._positions[whole:]
        return True

    def reserve(self, size: int) -> None:
        """Have the file system set room aside at the end of the file; `flush` gives back what HDF5 did not use."""
        descriptor = self._file.id.get_vfd_handle()
        allot(descriptor, os.fstat(descriptor).st_size, size)

    def flush(self) -> None:
        """Bring everything to the operating system."""
        self._file.flush()
        descriptor, size = self._file.id.get_vfd_handle(), self._file.id.get_filesize()
        if os.name == "posix" and os.fstat(descriptor).st_size > size:
            os.ftruncate(descriptor, size)

    def _prepare(self, arrays: Mapping[str, Array]) -> None:
        """Make a data set for each array, or check that those of an unfinished store are like them."""
        self._size = block_rows(sum(array.shape[1] * array.dtype.itemsize for array in arrays.values()), self._most_rows)
        self._pending = {name: [] for name in arrays}
        self.reserve(2 * _INDEX_BYTES * len(arrays) + 2**16)
        if self.done:
            self._reopen(arrays)
            return
        for name in (*row_datasets(self._file), digests.NAMES, digests.STOPS, digests.BLOCKS):
            if name in self._file:
                del self._file[name]
        for name, array in arrays.items():
            width, item = array.shape[1], array.dtype.itemsize
            rows = min(chunk_rows(width, item), self._size, max(self._rows, 1))
            self._datasets[name] = self._file.create_dataset(
                name, (self._rows, width), array.dtype, chunks=(rows, width), fletcher32=True
            )
        count = len(arrays)
        write_texts(self._file, digests.NAMES, list(arrays))
        self._stops = self._file.create_dataset(digests.STOPS, (0,), np.int64, maxshape=(None,), chunks=(1024,))
        self._digests = self._file.create_dataset(
            digests.BLOCKS,
            (0, count, digests.SIZE),
            np.uint8,
            maxshape=(None, count, digests.SIZE),
            chunks=(max(1, 2**14 // (count * digests.SIZE)), count, digests.SIZE),
        )

    def _reopen(self, arrays: Mapping[str, Array]) -> None:
        """Go on with the data sets of an unfinished store; what a killed run wrote beyond its last block is forgotten.

        A short last chunk would be read before it is written again.
        """
        for name, array in arrays.items():
            if name not in self._file or self._file[name].shape[1:] != array.shape[1:]:
                raise InputError(
                    f"{self._file.filename} has no /{name} {array.shape[1]} wide to continue; "
                    "pass `overwrite=True` to start again"
                )
            self._datasets[name] = self._file[name]
        self._stops, self._digests = self._file[digests.STOPS], self._file[digests.BLOCKS]
        self._size = int(self._stops[0])  # the rest is divided as it was begun
        for dataset in self._datasets.values():
            if self.done % dataset.chunks[0] == 0:
                dataset.resize(self.done, axis=0)
                dataset.resize(self._rows, axis=0)
        known = 1 + self._stops[:].tolist().index(self.done)
        self._stops.resize(known, axis=0)
        self._digests.resize(known, axis=0)

    def _add_digests(self, ready: Mapping[str, Array], whole: int) -> None:
        starts = range(0, whole, self._size)
        found = [digests.of_rows(name, rows[start : start + self._size]) for start in starts for name, rows in ready.items()]
        known = len(self._stops)
        self._stops.resize(known + len(starts), axis=0)
        self._digests.resize(known + len(starts), axis=0)
        self._stops[known:] = [self.done + min(start + self._size, whole) for start in starts]
        self._digests[known:] = np.frombuffer(b"".join(found), np.uint8).reshape(len(starts), len(ready), digests.SIZE)
