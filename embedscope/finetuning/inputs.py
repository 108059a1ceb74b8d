"""The inputs of a network, prepared once and kept where batches are drawn from: in memory, on disk, or read anew each time."""

from __future__ import annotations

import math
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from embedscope import distributed
from embedscope.data.dataset import BatchedInputs
from embedscope.errors import InputError, OutputError
from embedscope.finetuning.banks import DiskBank
from embedscope.models.inputs import mapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from embedscope.data.dataset import Dataset
    from embedscope.models.encoder import Preparation
    from embedscope.progress import Track

# Inputs that are prepared, or go through a network without gradients, at once.
_TOGETHER = 128


class Prepared(Protocol):
    """All inputs of a data set by position, ready for the network, on the device that trains."""

    def __len__(self) -> int: ...

    def __getitem__(self, positions: Tensor, /) -> Any:
        """Positions (B,) int64 on any device -> (B, ...) Tensor, or a mapping of such Tensors."""
        ...


@dataclass(frozen=True, eq=False)
class Held:
    """Inputs (N, ...) that were prepared once, in a tensor on any device or flat rows (N, P) of a file."""

    rows: Tensor | DiskBank
    shape: tuple[int, ...]
    device: torch.device

    def __len__(self) -> int:
        return self.rows.shape[0]

    def __getitem__(self, positions: Tensor) -> Tensor:
        if isinstance(self.rows, DiskBank):
            return self.rows[positions.cpu()].reshape(-1, *self.shape)
        return self.rows[positions.to(self.rows.device)].to(self.device)


@dataclass(frozen=True, eq=False)
class Live:
    """Inputs that are read and prepared each time: those of text, whose width depends on the batch."""

    dataset: Dataset
    prepare: Preparation
    device: torch.device

    def __len__(self) -> int:
        return len(self.dataset.inputs)

    def __getitem__(self, positions: Tensor) -> Any:
        return mapped(lambda tensor: tensor.to(self.device), self.prepare(items(self.dataset, positions.tolist())))


@dataclass(frozen=True, eq=False)
class InputBank:
    """The inputs at some positions of a data set, in the place of the rows of a head.

    Attributes:
        prepared: inputs of the data set.
        positions: (N,) int64 of the rows.
    """

    prepared: Prepared
    positions: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """(N,)."""
        return (len(self.positions),)

    def __getitem__(self, rows: Any) -> Any:
        return self.prepared[self.positions[rows.cpu() if isinstance(rows, Tensor) else rows]]

    def blocks(self) -> Iterator[tuple[slice, Any]]:
        """Give this process's share of the inputs by blocks, as (slice, inputs)."""
        own = distributed.share(len(self.positions))
        for start in range(own.start, own.stop, _TOGETHER):
            block = slice(start, min(start + _TOGETHER, own.stop))
            yield block, self[block]


def items(dataset: Dataset, positions: Sequence[int]) -> Any:
    """Read the items at some positions."""
    inputs = dataset.inputs
    if isinstance(inputs, BatchedInputs):
        return inputs.batch(positions)
    return [inputs[position] for position in positions]


def prepare_inputs(
    dataset: Dataset, prepare: Preparation, device: torch.device, memory: int, folder: Path, track: Track
) -> Prepared:
    """Prepare all inputs once; in memory if they take at most `memory` bytes, else in a nameless file in the folder.

    InputError where an input cannot be read, or inputs differ in shape.
    """
    count = len(dataset.inputs)
    sample = prepare(items(dataset, [0]))
    if not isinstance(sample, Tensor):
        return Live(dataset, prepare, device)
    shape = tuple(sample.shape[1:])
    width = math.prod(shape)
    fits = count * width * sample.element_size() <= memory
    if not fits and sample.dtype != torch.float32:
        return Live(dataset, prepare, device)
    held = torch.empty(count, *shape, dtype=sample.dtype) if fits else None
    with _written(folder):
        file = None if fits else tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (the bank closes it)
    starts = range(0, count, _TOGETHER)
    for start in track(starts, "preparing inputs", count, size=lambda first: min(_TOGETHER, count - first)):
        batch = prepare(items(dataset, range(start, min(start + _TOGETHER, count))))
        if tuple(batch.shape[1:]) != shape:
            raise InputError(f"inputs differ in shape: {shape} and {tuple(batch.shape[1:])}; bring them to one with `size=`")
        if held is not None:
            held[start : start + len(batch)] = batch
            continue
        with _written(folder):
            left = np.ascontiguousarray(batch.numpy()).data.cast("B")
            while file is not None and left:
                left = left[file.write(left) :]
    if file is None:
        assert held is not None
        return Held(held.to(device), shape, device)
    return Held(DiskBank(file, (count, width), device), shape, device)


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot keep the inputs in {folder}: {error.strerror or error}") from error
