"""The inputs of a network: prepared once and kept in memory, if need be in 8 bits, or read anew each time."""

from __future__ import annotations

import math
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from embedscope import distributed
from embedscope.data.dataset import BatchedInputs
from embedscope.data.folder import ImageFiles
from embedscope.errors import InputError
from embedscope.models.inputs import mapped
from embedscope.progress import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from embedscope.data.dataset import Dataset
    from embedscope.models.encoder import Preparation
    from embedscope.progress import Track

T = TypeVar("T")

# Inputs that are prepared, or go through a network without gradients, at once.
_TOGETHER = 128

# More readers than this wait for each other, or for the disk.
_MOST_READERS = 8


class Prepared(Protocol):
    """All inputs of a data set by position, ready for the network, on the device that trains."""

    def __len__(self) -> int: ...

    def __getitem__(self, positions: Tensor, /) -> Any:
        """Positions (B,) int64 on any device -> (B, ...) Tensor, or a mapping of such Tensors."""
        ...


@dataclass(frozen=True, eq=False)
class Held:
    """Inputs (N, ...) that were prepared once, in a tensor on any device."""

    rows: Tensor
    device: torch.device

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: Tensor) -> Tensor:
        return self.rows[positions.to(self.rows.device)].to(self.device)


@dataclass(frozen=True, eq=False)
class Coded:
    """Inputs (N, C, ...) of at most 256 values per channel, as those of 8-bit images are, in a quarter of the memory; exact.

    Attributes:
        codes: (N, C, ...) uint8.
        values: (C, 256) that codes stand for.
        device: that trains.
    """

    codes: Tensor
    values: Tensor
    device: torch.device

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, positions: Tensor) -> Tensor:
        codes = self.codes[positions.to(self.codes.device)].to(self.device, torch.int32)
        first = 256 * torch.arange(codes.shape[1], dtype=torch.int32, device=self.device)
        places = codes + first.view(-1, *[1] * (codes.ndim - 2))
        return self.values.to(self.device).flatten().index_select(0, places.flatten()).view(codes.shape)


@dataclass(frozen=True, eq=False)
class Live:
    """Inputs that are read and prepared each time: text, whose width depends on the batch, and what exceeds memory."""

    dataset: Dataset
    prepare: Preparation
    device: torch.device

    def __len__(self) -> int:
        return len(self.dataset.inputs)

    def __getitem__(self, positions: Tensor) -> Any:
        return mapped(lambda tensor: tensor.to(self.device), self.prepare(items(self.dataset, positions.tolist())))

    @property
    def readers(self) -> int:
        """Threads that may read at once: one, but for image files, whose decoding is the package's own and leaves Python."""
        if not isinstance(self.dataset.inputs, ImageFiles):
            return 1
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, min(available // distributed.local_world_size(), _MOST_READERS))


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
        starts = range(own.start, own.stop, _TOGETHER)
        yield from self.read([slice(start, min(start + _TOGETHER, own.stop)) for start in starts], lambda block: block)

    def read(self, parts: Sequence[T], rows: Callable[[T], Any]) -> Iterator[tuple[T, Any]]:
        """Give the inputs of some parts in order, as (part, inputs); what is read anew is read ahead, by other threads."""
        readers = self.prepared.readers if isinstance(self.prepared, Live) else 0
        if not readers:
            yield from ((part, self[rows(part)]) for part in parts)
            return
        waiting: deque[tuple[T, Any]] = deque()
        pool = ThreadPoolExecutor(readers, "reading")
        try:
            for part in parts:
                waiting.append((part, pool.submit(self.__getitem__, rows(part))))
                if len(waiting) > readers:
                    first, found = waiting.popleft()
                    yield first, found.result()
            while waiting:
                first, found = waiting.popleft()
                yield first, found.result()
        finally:
            pool.shutdown(cancel_futures=True)


def items(dataset: Dataset, positions: Sequence[int]) -> Any:
    """Read the items at some positions."""
    inputs = dataset.inputs
    if isinstance(inputs, BatchedInputs):
        return inputs.batch(positions)
    return [inputs[position] for position in positions]


def prepare_inputs(
    dataset: Dataset, prepare: Preparation, device: torch.device, memory: int, track: Track, say: Callable[[str], None] = silent
) -> Prepared:
    """Prepare all inputs once, if they fit in `memory` bytes, as they are or in 8 bits; otherwise they are read anew each time.

    InputError where an input cannot be read, or inputs differ in shape.
    """
    count = len(dataset.inputs)
    sample = prepare(items(dataset, [0]))
    if not isinstance(sample, Tensor):
        return Live(dataset, prepare, device)
    numbers = count * math.prod(sample.shape[1:])
    fits = numbers * sample.element_size() <= memory
    if not fits and (numbers > memory or sample.ndim < 3 or not sample.is_floating_point()):
        say(f"{_taken(numbers * sample.element_size())}; they are read again for every batch")
        return Live(dataset, prepare, device)
    held = torch.empty(count, *sample.shape[1:], dtype=sample.dtype if fits else torch.uint8)
    book = None if fits else _Book(sample)
    starts = range(0, count, _TOGETHER)
    for start in track(starts, "preparing inputs", count, size=lambda first: min(_TOGETHER, count - first)):
        batch = prepare(items(dataset, range(start, min(start + _TOGETHER, count))))
        if batch.shape[1:] != sample.shape[1:]:
            one, other = tuple(sample.shape[1:]), tuple(batch.shape[1:])
            raise InputError(f"inputs differ in shape: {one} and {other}; resize them with `size=`")
        coded = batch if book is None else book.codes(batch)
        if coded is None:
            say(f"{_taken(numbers * sample.element_size())}; they are read again for every batch")
            return Live(dataset, prepare, device)
        held[start : start + len(batch)] = coded
    if book is None:
        return Held(held.to(device), device)
    return Coded(held.to(device), book.values.to(device), device)


def _taken(size: int) -> str:
    return f"the inputs take {size / 1e9:,.2f} GB, more than the memory limit"


class _Book:
    """Numbers the values of each channel in the order in which they appear."""

    def __init__(self, sample: Tensor) -> None:
        self.values = sample.new_zeros(sample.shape[1], 256)
        self._known = [sample.new_empty(0)] * sample.shape[1]

    def codes(self, batch: Tensor) -> Tensor | None:
        """(B, C, ...) -> uint8 of the same shape; None if a channel has more than 256 values, or NaN."""
        found = torch.empty(batch.shape, dtype=torch.uint8)
        for channel, known in enumerate(self._known):
            rows = batch[:, channel].contiguous()
            seen: Tensor = torch.unique(rows)
            known = torch.cat([known, seen[~torch.isin(seen, known)]])
            if len(known) > 256:
                return None
            ordered, order = known.sort()
            places = order[torch.searchsorted(ordered, rows).clamp_(max=len(known) - 1)]
            if not torch.equal(known[places], rows):
                return None
            self._known[channel] = known
            self.values[channel, : len(known)] = known
            found[:, channel] = places
        return found
