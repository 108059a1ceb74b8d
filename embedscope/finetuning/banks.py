"""Where the rows lie that batches are drawn from: on the device that trains, or on disk."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from embedscope.errors import OutputError
from embedscope.ops.blocks import row_slices

if TYPE_CHECKING:
    from pathlib import Path

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
class DiskBank:
    """Rows of a file that is mapped into memory: any row in any order costs what reading it costs.

    A store's rows are compressed and checksummed in chunks, so that drawing single ones would read them all; this is a plain
    copy. The system keeps in memory what it has room for.
    """

    mapped: np.ndarray[Any, np.dtype[np.float32]]
    device: torch.device

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""
        rows, width = self.mapped.shape
        return rows, width

    @property
    def dtype(self) -> torch.dtype:
        """Float32."""
        return torch.float32

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        wanted = rows if isinstance(rows, slice) else rows.cpu().numpy()
        return torch.from_numpy(np.array(self.mapped[wanted])).to(self.device)


def place(features: Rows, device: torch.device, memory: int, folder: Path) -> Bank:
    """Bring rows to the device if they take at most `memory` bytes as float32, else to a nameless file in the folder.

    The file is gone when the bank is, whatever ends the program. OutputError if it cannot be written.
    """
    rows, width = features.shape
    if rows * width * 4 <= memory:
        return features[:].to(device, torch.float32)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for block in row_slices(rows, width * 4):  # written, not mapped: a full disk is an error then, and no signal
                file.write(features[block].float().numpy().tobytes())
            file.flush()
            mapped: np.ndarray[Any, np.dtype[np.float32]] = np.memmap(file, np.float32, "r", shape=(rows, width))
    except OSError as error:
        raise OutputError(
            f"cannot keep {rows * width * 4 / 1e9:,.2f} GB of rows in {folder}: {error.strerror or error}"
        ) from error
    return DiskBank(mapped, device)
