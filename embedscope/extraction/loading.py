"""Read the inputs of a model batch by batch: in order, whatever number of worker processes reads them."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils import data

from embedscope import distributed
from embedscope.data.dataset import BatchedInputs, rows_of
from embedscope.errors import EmbedscopeError, InputError
from embedscope.models.preparation import advice

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embedscope.data.dataset import Dataset
    from embedscope.models.encoder import Items, Preparation

# More readers than this wait for each other, or for the disk.
_MOST_WORKERS = 8

# Starting workers takes as long as decoding so many small images.
_WORTH_WORKERS = 2_000


@dataclass(frozen=True)
class Batch:
    """Inputs that are ready for the model.

    Attributes:
        rows: their positions in the data.
        inputs: what the model takes; None where no input of the batch could be read.
        skipped: positions that could not be read -> why.
        error: why the whole batch is of no use, or None. Handed on instead of raised, for a worker process would wrap it.
    """

    rows: Sequence[int]
    inputs: Any
    skipped: dict[int, str]
    error: str | None = None


@dataclass(frozen=True)
class Batches(data.Dataset[Batch]):
    """Batches of a data set by the positions of their rows: what worker processes get a copy of.

    Attributes:
        dataset: whose inputs are read.
        prepare: turns items into what the model takes.
        skip: leave an input that cannot be read out of its batch; otherwise it is the error of the batch.
    """

    dataset: Dataset
    prepare: Preparation
    skip: bool = False

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        inputs = self.dataset.inputs
        if isinstance(inputs, BatchedInputs):
            return self._prepared(rows, inputs.batch(rows), {})
        items, readable, skipped = [], [], {}
        for row in rows:
            try:
                items.append(inputs[row])
                readable.append(row)
            except InputError as error:
                if not self.skip:
                    return Batch(rows, None, {}, f"{error}; pass `on_error='skip'` to leave such inputs out")
                skipped[row] = str(error)
        return self._prepared(readable, items, skipped)

    def _prepared(self, rows: Sequence[int], items: Items, skipped: dict[int, str]) -> Batch:
        if not len(rows):
            return Batch(rows, None, skipped)
        try:
            return Batch(rows, self.prepare(items), skipped)
        except Exception as error:  # preprocessing may be user code: the user needs to know which input fails
            return self._one_by_one(rows, items, skipped, error)

    def _one_by_one(self, rows: Sequence[int], items: Items, skipped: dict[int, str], error: Exception) -> Batch:
        """Find out which inputs of a batch cannot be prepared, or do not go together."""
        shapes: dict[Any, int] = {}
        good: list[int] = []
        for place, row in enumerate(rows):
            try:
                shape = getattr(self.prepare([items[place]]), "shape", None)
            except Exception as alone:
                name = self.dataset.ids[row]
                if not self.skip:
                    return Batch(rows, None, {}, f"input {name} cannot be prepared for the model: {_reason(alone)}")
                skipped[row] = _reason(alone)
            else:
                shapes.setdefault(shape, row)
                good.append(place)
        if len(shapes) > 1:
            one, other = [tuple((shape or ())[1:]) for shape in list(shapes)[:2]]
            together = advice(one, other)
            told = ", ".join(
                f"{self.dataset.ids[row]} is {tuple((shape or ())[1:])}" for shape, row in list(shapes.items())[:2]
            )
            return Batch(rows, None, {}, f"inputs differ in shape: {told}; {together}")
        if len(good) == len(rows):
            return Batch(rows, None, {}, _reason(error))
        return self._prepared([rows[place] for place in good], [items[place] for place in good], skipped)


def limited(dataset: Dataset, limit: int) -> Dataset:
    """Take at most `limit` inputs, spread evenly over the data, in their order: class folders come class by class."""
    if limit >= len(dataset.inputs):
        return dataset
    return rows_of(dataset, np.linspace(0, len(dataset.inputs) - 1, limit).round().astype(int))


def first_readable(batches: Batches) -> Any:
    """Prepare the first input; of those that are skipped where they cannot be read, the first one that can."""
    for position in range(len(batches.dataset.inputs)):
        batch = batches[range(position, position + 1)]
        if batch.error is not None:
            raise InputError(batch.error)
        if batch.inputs is not None:
            return batch.inputs
    raise InputError(f"none of the {len(batches.dataset.inputs):,} inputs of {batches.dataset.location} can be read")


def choose_workers(dataset: Dataset, wanted: int | None) -> int:
    """Say how many processes read: those wanted, else none for what lies in memory and up to 8 for what is decoded."""
    if wanted is not None:
        return wanted
    if isinstance(dataset.inputs, BatchedInputs) or len(dataset.inputs) < _WORTH_WORKERS:
        return 0
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(available // distributed.local_world_size(), _MOST_WORKERS))


def load(batches: Batches, rows: Sequence[Sequence[int]], *, workers: int) -> Iterator[Batch]:
    """Give the batches of these rows, in this order. Worker processes are started at once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # as many as the user asked for
        loader: data.DataLoader[Batch] = data.DataLoader(
            batches,
            batch_size=None,
            sampler=rows,  # any iterable of what __getitem__ takes
            num_workers=workers,
            worker_init_fn=_leave_signals_to_the_parent if workers else None,
        )
        with _child_signals_as_they_are():
            return _told(iter(loader))


def _told(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Turn the ways in which a worker that was killed is noticed into one: it is missed, or breaks off what it hands over."""
    try:
        yield from batches
    except (RuntimeError, EOFError, ConnectionError) as error:
        if isinstance(error, RuntimeError) and not is_dead_worker(error):
            raise
        raise InputError(DEAD_WORKER) from error


@contextmanager
def _child_signals_as_they_are() -> Iterator[None]:
    """Keep torch from listening for the end of a worker: it would raise wherever the program is, in the middle of a write too.

    The loader itself looks every five seconds whether its workers are alive, and raises where the next batch is asked for.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


DEAD_WORKER = "a data-loading process was killed, probably out of memory; use fewer `workers=`"


def is_dead_worker(error: Exception) -> bool:
    """Whether an error says that a worker process ended: torch may raise it wherever the program is."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def _leave_signals_to_the_parent(worker: int) -> None:
    # Ctrl-C goes to every process of the terminal; the parent finishes its block, for which the workers still have to read.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _reason(error: Exception) -> str:
    if isinstance(error, EmbedscopeError):
        return str(error)
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0]
