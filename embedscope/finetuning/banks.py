"""Where the rows lie that batches are drawn from: on the device that trains, or on disk."""

from __future__ import annotations

import tempfile
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from embedscope.errors import OutputError
from embedscope.ops.blocks import row_slices

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

    from embedscope.ops.rows import Rows


class Bank(Protocol):
    """Rows (N, D), float32, that come to the device that trains by position: a Tensor there, or a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Float32."""
        ...

    def __getitem__(self, rows: Any, /) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Chosen:
    """The rows of a bank at some positions, as features that are read in blocks."""

    bank: Bank
    positions: Tensor  # (M,) int64, where the bank is

    @property
    def shape(self) -> tuple[int, ...]:
        """(M, D)."""
        return (len(self.positions), self.bank.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """Float32."""
        return self.bank.dtype

    def __getitem__(self, rows: slice) -> Tensor:
        return self.bank[self.positions[rows]]


class DiskBank:
    """Rows (N, D), float32, of a file, read when they are asked for; the file is closed, and gone, when the bank is.

    A store's rows are compressed and checksummed in chunks, so that drawing single ones would read them all; this is a plain
    copy. It is read, not mapped into memory, because mapped pages count as memory of the process until the system takes them
    back: a run would seem to take, and in some containers take, what it was told not to.
    """

    def __init__(self, file: IO[bytes], shape: tuple[int, int], device: torch.device) -> None:
        self._file, self._shape, self._device = file, shape, device
        weakref.finalize(self, file.close)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""
        return self._shape

    @property
    def dtype(self) -> torch.dtype:
        """Float32."""
        return torch.float32

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(self._shape[0])
            runs = [(start, max(stop - start, 0))]
        else:
            runs = [(position, 1) for position in rows.tolist()]
        found = np.empty((sum(count for _, count in runs), self._shape[1]), dtype=np.float32)
        place = 0
        for first, count in runs:
            self._read(first, found[place : place + count])
            place += count
        return torch.from_numpy(found).to(self._device)

    def _read(self, first: int, rows: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        """Fill (n, D) from the row `first` on; OutputError if the disk fails."""
        left = rows.data.cast("B") if rows.size else memoryview(b"")
        try:
            self._file.seek(first * rows.shape[1] * rows.itemsize)
            while left:
                read = self._file.readinto(left)  # type: ignore[attr-defined]
                if not read:
                    raise OSError("the file ends early")
                left = left[read:]
        except OSError as error:
            raise OutputError(f"cannot read back the rows cached on disk: {error.strerror or error}") from error


def place(features: Rows, device: torch.device, memory: int, folder: Path) -> Bank:
    """Bring rows to the device if they take at most `memory` bytes as float32, else to a nameless file in the folder.

    The file is gone when the bank is, whatever ends the program. OutputError if it cannot be written.
    """
    rows, width = features.shape
    if rows * width * 4 <= memory:
        return features[:].to(device, torch.float32)
    try:
        file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (the bank closes it)
        bank = DiskBank(file, (rows, width), device)
        for block in row_slices(rows, width * 4):
            left = features[block].float().contiguous().numpy().data.cast("B")
            while left:
                left = left[file.write(left) :]
    except OSError as error:
        raise OutputError(
            f"cannot keep {rows * width * 4 / 1e9:,.2f} GB of rows in {folder}: {error.strerror or error}"
        ) from error
    return bank
