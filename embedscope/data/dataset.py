"""The record of labeled inputs that every data source returns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Labeled inputs of a model; compared by identity.

    Attributes:
        inputs: N items; `inputs[i]` is the i-th input as the source gives it: a PIL image, a Tensor or a str.
        labels: (N,) int64; -1 is unlabeled, otherwise an index into `class_names`.
        class_names: (K,).
        ids: (N,) unique.
        split: (N,) or None.
        location: where the inputs are, as the user wrote it.
        fingerprint: sha256 over what decides the inputs and their order (hex).
        notes: one sentence for each thing that the user should know about how the data were read.
    """

    inputs: Inputs
    labels: np.ndarray[Any, np.dtype[np.int64]]
    class_names: tuple[str, ...]
    ids: Sequence[str]
    split: Sequence[str] | None
    location: str
    fingerprint: str
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Dataset {self.location!r}: {counted(len(self.inputs), 'input')}, {counted(len(self.class_names), 'class')}"


class Inputs(Protocol):
    """Items by position; InputError for an unreadable one."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@runtime_checkable
class BatchedInputs(Inputs, Protocol):
    """Inputs in memory that are read in batches, which is faster than one by one and needs no worker processes."""

    def batch(self, rows: Sequence[int], /) -> Sequence[Any] | Tensor:
        """The items of these rows: (B, ...) Tensor, or a list."""
        ...


@dataclass(frozen=True)
class Chosen:
    """Some of the inputs of a data set, by position."""

    inputs: Inputs
    positions: Sequence[int]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Any:
        return self.inputs[self.positions[index]]


@dataclass(frozen=True)
class ChosenBatched(Chosen):
    """Some of the inputs of a data set that are read in batches."""

    inputs: BatchedInputs

    def batch(self, rows: Sequence[int]) -> Sequence[Any] | Tensor:
        """The items of these rows."""
        return self.inputs.batch([self.positions[row] for row in rows])


def rows_of(dataset: Dataset, positions: np.ndarray[Any, Any]) -> Dataset:
    """Return the rows of a data set at ascending positions (n,)."""
    if len(positions) == len(dataset.inputs):
        return dataset
    inputs, chosen = dataset.inputs, positions.tolist()
    return replace(
        dataset,
        inputs=ChosenBatched(inputs, chosen) if isinstance(inputs, BatchedInputs) else Chosen(inputs, chosen),
        labels=dataset.labels[positions],
        ids=[dataset.ids[position] for position in chosen],
        split=None if dataset.split is None else [dataset.split[position] for position in chosen],
    )
