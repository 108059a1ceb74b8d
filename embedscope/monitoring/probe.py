"""The rows on which a training is monitored: the same at every step, prepared once and kept in memory if they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from embedscope import devices, distributed
from embedscope.arguments import displayed
from embedscope.data import open_dataset
from embedscope.data.dataset import Dataset, rows_of
from embedscope.errors import InputError, UsageError
from embedscope.extraction.loading import Batches, choose_workers, first_readable, load
from embedscope.extraction.modules import parts
from embedscope.models.inputs import count_rows, cut
from embedscope.models.preparation import Pixels
from embedscope.ops.statistics import stratified_sample
from embedscope.store.labels import encode
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from embedscope.models.encoder import Preparation

    Array = np.ndarray[Any, Any]

# Share of the free memory that prepared inputs may take; beyond it, they are read again at every step.
_SHARE = 0.25


@dataclass(frozen=True)
class EachItem:
    """A preparation made of a transform of one item, as torchvision's are."""

    transform: Callable[[Any], Any]

    @property
    def text(self) -> str:
        """What it does, for the record."""
        return str(self.transform)

    def __call__(self, items: Any, /) -> Any:
        """Transform each item and stack the results."""
        return torch.stack([torch.as_tensor(self.transform(item)) for item in items])


class Probe:
    """Labeled inputs in batches that never change.

    Attributes:
        labels: (N,) int64, indices into `class_names`.
        class_names: (K,).
        ids: (N,) str.
        spans: the rows of each batch.
        split: (N,) str, or None.
    """

    split: Array | None = None

    def __init__(self, labels: Array, class_names: tuple[str, ...], ids: Array, spans: Sequence[range]) -> None:
        self.labels, self.class_names, self.ids, self.spans = labels, class_names, ids, spans

    def sample(self) -> Any:
        """Return the inputs of the first row."""
        raise NotImplementedError

    def batches(self, numbers: Sequence[int]) -> Iterator[Any]:
        """Give the inputs of the batches of these numbers, in order."""
        raise NotImplementedError


class HeldProbe(Probe):
    """Batches that lie in memory, as a loader gave them."""

    def __init__(self, held: Sequence[Any], *described: Any) -> None:
        super().__init__(*described)
        self._held = held

    def sample(self) -> Any:
        """Return the inputs of the first row."""
        return cut(self._held[0], 0, 1)

    def batches(self, numbers: Sequence[int]) -> Iterator[Any]:
        """Give the inputs of the batches of these numbers, in order."""
        yield from (self._held[number] for number in numbers)


class ReadProbe(Probe):
    """Rows of a data set, prepared for the model as in `extract`; kept in memory if they fit into a part of what is free."""

    def __init__(self, dataset: Dataset, prepare: Preparation, size: int = 256, workers: int | None = None) -> None:
        count = len(dataset.inputs)
        spans = [range(row, min(row + size, count)) for row in range(0, count, size)]
        super().__init__(dataset.labels, dataset.class_names, np.array(dataset.ids, dtype=object), spans)
        self.split = None if dataset.split is None else np.array(dataset.split, dtype=object)
        self._source = Batches(dataset, prepare)
        self._workers = choose_workers(dataset, workers)
        self._kept: dict[int, Any] = {}
        self._room = int(_SHARE * devices.free_memory(torch.device("cpu")) / distributed.local_world_size())
        self._first: Any = None

    def sample(self) -> Any:
        """Return the inputs of the first row."""
        if self._first is None:
            self._first = first_readable(self._source)
        return self._first

    def batches(self, numbers: Sequence[int]) -> Iterator[Any]:
        """Give the inputs of the batches of these numbers, in order."""
        missing = [number for number in numbers if number not in self._kept]
        read = load(self._source, [self.spans[number] for number in missing], workers=self._workers) if missing else iter(())
        for number in numbers:
            if number in self._kept:
                yield self._kept[number]
                continue
            batch = next(read)
            if batch.error is not None:
                raise InputError(batch.error)
            self._room -= _bytes(batch.inputs)
            if self._room >= 0:
                self._kept[number] = batch.inputs
            yield batch.inputs


def _bytes(inputs: Any) -> int:
    tensors = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    return sum(each.nbytes for each in tensors if isinstance(each, Tensor))


def check_probe(given: Any, prepare: Any = None) -> Any:
    """Return what `Monitor` takes as `probe`, its location opened; what `open_probe` could never open is refused.

    UsageError for an invalid probe or preparation, InputError for data that do not exist, or for
    other numbers of inputs and labels.
    """
    prepared(prepare)
    given, rows = _with_rows(given)
    if isinstance(given, str | Path):
        given = open_dataset(str(given))
    if prepare is not None and not isinstance(given, Dataset):
        raise UsageError(f"`prepare=` applies to a data source; inputs from {type(given).__name__} are already prepared")
    if _is_pair(given):
        if len(given[0]) != len(given[1]):
            raise InputError(f"the probe has {counted(len(given[0]), 'input')} and {counted(len(given[1]), 'label')}")
    elif not isinstance(given, Dataset) and not (isinstance(given, data.Dataset) and hasattr(given, "__len__")):
        if rows is not None:
            raise UsageError(f"a number of rows needs labeled data, not {type(given).__name__}; give a Dataset")
        if not hasattr(given, "__iter__"):
            raise UsageError(
                f"a probe is a location, (location, rows), a data set, (X, y) tensors or a loader; got {displayed(given)}"
            )
    return given if rows is None else (given, rows)


def _is_pair(given: Any) -> bool:
    return isinstance(given, tuple) and len(given) == 2 and all(isinstance(each, Tensor | np.ndarray) for each in given)


def open_probe(
    given: Any, module: nn.Module, *, prepare: Any = None, size: int = 256, seed: int = 0, workers: int | None = None
) -> Probe:
    """Open what `check_probe` let pass, for a module whose forward names its inputs.

    A data set gives the rows that have a label; of more than were asked for, a stratified sample, the same for a seed.
    InputError for data that cannot be read.
    """
    given, rows = _with_rows(check_probe(given, prepare))
    if isinstance(given, Dataset):
        return ReadProbe(_drawn(given, rows, seed), prepared(prepare), size, workers)
    if isinstance(given, data.Dataset) and hasattr(given, "__len__"):
        given = _batched(given, _labels_of(given), rows, size, seed)
    elif _is_pair(given):
        inputs, labels = map(torch.as_tensor, given)
        given = _batched(data.TensorDataset(inputs, labels), labels.numpy(force=True), rows, size, seed)
    return _held(given, module)


def prepared(prepare: Any) -> Preparation:
    """Return a preparation: one as it is, that of an encoder, a transform of one item applied to each, pixels by default."""
    if prepare is None:
        return Pixels()
    found: Preparation = getattr(prepare, "prepare", prepare)
    if hasattr(found, "text"):
        return found
    if not callable(prepare):
        raise UsageError(f"`prepare=` takes an encoder or a transform of one item, got {type(prepare).__name__}")
    return EachItem(prepare)


def _with_rows(given: Any) -> tuple[Any, int | None]:
    if not (isinstance(given, tuple) and len(given) == 2 and type(given[1]) is int):
        return given, None
    if given[1] < 2:
        raise UsageError(f"a probe needs at least 2 rows, got {given[1]}")
    return given


def _drawn(dataset: Dataset, rows: int | None, seed: int) -> Dataset:
    """Take the labeled rows of a data set, and of more than `rows` a stratified sample, in their order."""
    labeled = np.flatnonzero(dataset.labels >= 0)
    if not len(labeled):
        raise InputError(f"{dataset.location} has no labeled rows")
    if rows is not None:
        labeled = labeled[stratified_sample(torch.from_numpy(dataset.labels[labeled]), rows, seed).numpy()]
    return rows_of(dataset, labeled)


def _labels_of(dataset: Any) -> Array:
    """Find the labels of a map-style data set of torch: its `targets` or `labels`, otherwise by reading every item."""
    if isinstance(dataset, data.TensorDataset):
        return dataset.tensors[-1].numpy(force=True)
    for name in ("targets", "labels"):
        if (found := getattr(dataset, name, None)) is not None and np.shape(found) == (len(dataset),):
            return found.numpy(force=True) if isinstance(found, Tensor) else np.asarray(found)
    return np.asarray([dataset[row][1] for row in range(len(dataset))])


def _batched(dataset: Any, labels: Array, rows: int | None, size: int, seed: int) -> data.DataLoader[Any]:
    codes = torch.from_numpy(encode("the probe", "labels", labels)[1])
    chosen = torch.arange(len(codes)) if rows is None else stratified_sample(codes, rows, seed)
    return data.DataLoader(data.Subset(dataset, chosen.tolist()), batch_size=size)


def _held(loader: Any, module: nn.Module) -> Probe:
    """Read a loader once; its order, if it is shuffled, is that of this reading."""
    held, labels, ids = [], [], []
    spans: list[range] = []
    for batch in loader:
        inputs, its_labels, its_ids = parts(batch, module)
        rows = count_rows(inputs)
        if not rows:
            continue
        first = spans[-1].stop if spans else 0
        spans.append(range(first, first + rows))
        held.append(inputs)
        labels.append(np.asarray(its_labels.detach().cpu() if isinstance(its_labels, Tensor) else its_labels))
        ids += [str(row) for row in spans[-1]] if its_ids is None else [str(each) for each in its_ids]
        if len(labels[-1]) != rows:
            raise InputError(f"a batch of the probe has {counted(rows, 'row')} and {counted(len(labels[-1]), 'label')}")
    if not held:
        raise InputError("the probe has no rows; an iterator can be read only once")
    names, codes = encode("the probe", "labels", np.concatenate(labels))
    return HeldProbe(held, codes, names, np.array(ids, dtype=object), spans)
