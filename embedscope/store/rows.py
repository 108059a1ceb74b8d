"""Rows that stay in a store until they are sliced."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope.errors import InputError
from embedscope.store import digests, opening
from embedscope.text import counted

if TYPE_CHECKING:
    import h5py

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class StoredRows:
    """Rows of a data set in a store, read when they are sliced; the file is open only while it is read.

    Nothing is kept open, so the object can be pickled, and several processes may each read their share. The first time that a
    block of rows is read, it is compared with its digest.

    Attributes:
        path: of the store.
        dataset: such as "features/conv1".
        shape: (N, D).
        dtype: of the rows.
        stops: (B,) the row that each block ends before; None in a store without digests.
        hashes: (B, 32) uint8, or None likewise.
    """

    path: str
    dataset: str
    shape: tuple[int, int]
    dtype: torch.dtype
    stops: Array | None = field(default=None, compare=False, repr=False)
    hashes: Array | None = field(default=None, compare=False, repr=False)
    _known: set[int] = field(default_factory=set, compare=False, repr=False)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        """Read rows (B, D); InputError if they are damaged."""
        with opening.opened(Path(self.path)) as file:
            try:
                found = self._read(opening.dataset(file, self.dataset), rows)
            except opening.DAMAGE as error:
                raise self._damaged(error) from error
        return torch.from_numpy(found.astype(found.dtype.newbyteorder("="), copy=False))

    def verify(self, file: h5py.File) -> None:
        """Read all rows from the open store, a block at a time, and compare each with its digest if there are any."""
        dataset = opening.dataset(file, self.dataset)
        step = dataset.chunks[0] if dataset.chunks else self.shape[0]
        for start in range(0, self.shape[0], step) if self.stops is None else [0, *self.stops.tolist()[:-1]]:
            try:
                self._read(dataset, slice(start, start + 1))
            except opening.DAMAGE as error:
                raise self._damaged(error) from error

    def _damaged(self, error: BaseException) -> InputError:
        reason = (str(error) or type(error).__name__).partition("\n")[0][:200]
        return InputError(f"{self.path} is damaged: rows of /{self.dataset} cannot be read ({reason})")

    def _read(self, dataset: h5py.Dataset, rows: slice) -> Array:
        start, stop, step = rows.indices(self.shape[0])
        if self.stops is None or self.hashes is None or step != 1 or start >= stop:
            unchecked: Array = dataset[rows]
            return unchecked
        first, last = np.searchsorted(self.stops, [start, stop - 1], side="right").tolist()
        new = [block for block in range(first, last + 1) if block not in self._known]
        ends = [0, *self.stops.tolist()]
        low = min([start, *(ends[block] for block in new[:1])])
        high = max([stop, *(ends[block + 1] for block in new[-1:])])
        found: Array = dataset[low:high]
        for block in new:
            here = slice(ends[block], ends[block + 1])
            if digests.of_rows(self.dataset, found[here.start - low : here.stop - low]) != self.hashes[block].tobytes():
                raise InputError(
                    f"{self.path} is damaged: rows {here.start:,} to {here.stop - 1:,} of /{self.dataset} do not match "
                    f"their digest"
                )
        self._known.update(new)
        return found[start - low : stop - low]


def stored_rows(file: h5py.File, path: str, name: str, count: int, known: digests.Digests | None) -> StoredRows:
    """Open a data set of `count` rows; InputError for other than floats (N, D), or digests that do not cover it."""
    name = opening.plain(name)
    dataset = opening.dataset(file, name)
    if dataset.ndim != 2 or dataset.shape[0] != count or not dataset.shape[1]:
        raise InputError(f"{path}: /{name} is {dataset.shape} for {counted(count, 'label')}")
    if dataset.dtype.kind != "f" or dataset.dtype.itemsize > 8:
        raise InputError(f"{path}: /{name} is {dataset.dtype}, expected float32 or float16")
    hashes = None if known is None else known.of(name)
    if known is not None and (hashes is None or known.stops[-1:].tolist() != [count]):
        raise InputError(f"{path} is damaged: /{name} has no digests of its rows")
    return StoredRows(
        path,
        name,
        dataset.shape,
        torch.from_numpy(np.empty(0, dataset.dtype.newbyteorder("="))).dtype,
        None if known is None else known.stops,
        hashes,
    )
