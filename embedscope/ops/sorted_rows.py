"""Rows in the order of their classes: in memory, or, if they do not fit, in a temporary file."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope import distributed
from embedscope.errors import InputError
from embedscope.ops import blocks
from embedscope.ops.pairwise import PreparedRows
from embedscope.ops.rows import gathered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO

    from embedscope.ops.pairwise import Frame
    from embedscope.ops.rows import Rows


# Windows keeps the name of a file for as long as a process has it open.
_UNLINKS_OPEN_FILES = os.name == "posix"


class SortedRows:
    """Rows in a frame, by class: all of them in memory, or read from a file part by part."""

    def __init__(self, features: Rows, order: Tensor | None, frame: Frame, device: torch.device, *, unit: bool) -> None:
        """Take (N, D) rows in an order (N,), or as they are if they lie in it already."""
        self.shape = features.shape
        self.dtype = features.dtype
        self._features, self._frame, self._device, self._unit = features, frame, device, unit
        self._order = order

    @cached_property
    def whole(self) -> PreparedRows | None:
        """All rows, prepared, if they are in memory."""
        if not isinstance(self._features, Tensor):
            return None
        return PreparedRows(self._features.to(self._device), self._order, self._frame, unit=self._unit)

    def sampled(self, positions: Tensor) -> PreparedRows:
        """Return the rows at ascending positions (n,) without preparing the others."""
        if not isinstance(self._features, Tensor):
            return self.selected(positions)
        places = positions if self._order is None else self._order[positions]
        return self._prepared(self._features[places.to(self._features.device)])

    def part(self, positions: slice) -> PreparedRows:
        """Return the rows at consecutive positions; from memory, without a copy."""
        if self.whole is not None:
            return self.whole.selected(positions)
        return self._prepared(self._features[positions])

    def selected(self, positions: Tensor) -> PreparedRows:
        """Return the rows at ascending positions (n,)."""
        if self.whole is not None:
            return self.whole.selected(positions)
        return self._prepared(gathered(self._features, positions))

    def _prepared(self, rows: Tensor) -> PreparedRows:
        return PreparedRows(rows.to(self._device), None, self._frame, unit=self._unit)


@dataclass(frozen=True)
class _Stored:
    """Rows in an open file, read when they are sliced."""

    file: FileIO
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        return self.shape[1] * self.dtype.itemsize

    def __getitem__(self, rows: slice) -> Tensor:
        start, stop, _ = rows.indices(self.shape[0])
        found = torch.empty(stop - start, self.shape[1], dtype=self.dtype)
        left = _bytes(found)
        self.file.seek(start * self.row_bytes)
        while left:
            read = self.file.readinto(left)
            if not read:
                raise OSError(f"{self.file.name} ends early")
            left = left[read:]
        return found

    def write(self, start: int, rows: Tensor) -> None:
        left = _bytes(rows.contiguous())
        self.file.seek(start * self.row_bytes)
        while left:
            left = left[self.file.write(left) :]


def _bytes(rows: Tensor) -> memoryview:
    return rows.view(torch.uint8).numpy().reshape(-1).data


@contextmanager
def sorted_on_disk(features: Rows, order: Tensor) -> Iterator[Rows]:
    """Write the rows of a file into a temporary one in an order (N,), and read them from there: an external sort, in one pass.

    The rows of a block that follow each other in the order are written together, so the more of a class a block holds, the
    larger the writes. A pass holds blocks of an eighth of `blocks.memory()`. The file is as large as the features and lies in
    the folder for temporary files (TMPDIR). It loses its name as soon as every process has opened it, so that it vanishes with
    the last of them, whatever ends them; on Windows, where an open file keeps its name, it is removed at the end. Each process
    writes its share of the rows; all must be on one machine.

    Raises:
        InputError: the folder has not enough room, or cannot be written to.
    """
    rows, width = features.shape
    path = Path(distributed.broadcast(lambda: _temporary(rows * width * features.dtype.itemsize)))
    with ExitStack() as stack:
        if not _UNLINKS_OPEN_FILES:
            stack.callback(_remove, path)
        try:
            file = stack.enter_context(path.open("r+b", buffering=0))
            distributed.barrier()
        finally:
            if _UNLINKS_OPEN_FILES and distributed.rank() == 0:
                path.unlink()
        stored = _Stored(file, (rows, width), features.dtype)
        place = torch.empty(len(order), dtype=torch.int64)
        place[order.cpu()] = torch.arange(len(order))
        mine = distributed.share(rows)
        size = blocks.memory() // 8
        slices = blocks.row_slices(mine.stop, 2 * stored.row_bytes, size, start=mine.start)
        for block in blocks.tracked(slices, "sorting", len(slices)):
            targets, sources = place[block].sort()
            ordered = features[block].cpu()[sources]
            ends = [*((targets.diff() != 1).nonzero().squeeze(1) + 1).tolist(), len(targets)]
            start = 0
            for end in ends:
                stored.write(int(targets[start]), ordered[start:end])
                start = end
        distributed.barrier()
        yield stored


def _remove(path: Path) -> None:
    with suppress(PermissionError):  # another process still has it open, and will remove it
        path.unlink(missing_ok=True)


def _temporary(size: int) -> str:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < size:
        raise InputError(
            f"sorting the features by class takes {size / 2**30:.1f} GB in {folder}, which has {free / 2**30:.1f} GB free; "
            "set TMPDIR to a folder with more, or raise `memory=` so that the features fit"
        )
    try:
        file, path = tempfile.mkstemp(prefix="embedscope-", dir=folder)
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}); set TMPDIR to a writable folder") from error
    os.close(file)
    return path
