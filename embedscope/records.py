"""The frozen records that travel between layers. N rows, D dimensions, C channels, K classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import torch
    from torch import Tensor, nn

    # B items of a data set as they come to a model's preparation: a list of them, or a (B, ...) Tensor.
    Items = Sequence[Any] | Tensor

Better = Literal["higher", "lower"]
T = TypeVar("T")


class Track(Protocol):
    """Wraps an iterable to show how far it is: a progress bar from the command line, nothing in the library."""

    def __call__(
        self, items: Iterable[T], description: str, total: int, *, size: Callable[[T], int] | None = None
    ) -> Iterable[T]:
        """Give the items on, one by one; `total` is their number, or that of the rows where `size` counts those of an item."""
        ...


def untracked(items: Iterable[T], description: str, total: int, *, size: Callable[[T], int] | None = None) -> Iterable[T]:
    """Show nothing: what a Track is in the library."""
    return items


def silent(text: str) -> None:
    """Say nothing: what is told while a function runs goes nowhere in the library."""


class Rows(Protocol):
    """What a metric reads features from: a Tensor, or anything with a shape, a dtype and row slices that give Tensors."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows as they are stored."""
        ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...


@dataclass(frozen=True)
class FeatureSet:
    """Labelled features of one layer, wherever they came from.

    Attributes:
        name: what tables call it.
        source: the file it was read from.
        layer: the layer's name in that file.
        features: (N, D), float32 or float16, possibly still on disk.
        labels: (N,) int64; -1 is unlabelled, otherwise an index into `class_names`.
        class_names: (K,); a class may have no row.
        ids: (N,) str, unique: what a row can be traced back with.
        split: (N,) str such as "train" and "test", or None.
        magnitudes: (N, C) float32, mean of |activation| over positions, or None where the layer has none.
        provenance: how the features were made, as the store's JSON has it.
    """

    name: str
    source: str
    layer: str
    features: Rows
    labels: np.ndarray[Any, np.dtype[np.int64]]
    class_names: tuple[str, ...]
    ids: np.ndarray[Any, Any]
    magnitudes: Rows | None = None
    split: np.ndarray[Any, Any] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """Labelled inputs of a model.

    Attributes:
        inputs: N items; `inputs[i]` is the i-th input as the source gives it: a PIL image, a Tensor or a str.
        labels: (N,) int64; -1 is unlabelled, otherwise an index into `class_names`.
        class_names: (K,).
        ids: (N,) unique.
        split: (N,) or None.
        location: where the inputs lie, as the user named it.
        fingerprint: sha256 over what decides the inputs and their order (hex).
        notes: what the user has to know of how the data were read, a sentence each.
    """

    inputs: Inputs
    labels: np.ndarray[Any, np.dtype[np.int64]]
    class_names: tuple[str, ...]
    ids: Sequence[str]
    split: Sequence[str] | None
    location: str
    fingerprint: str
    notes: tuple[str, ...] = ()


class Inputs(Protocol):
    """Items by position. InputError where an item cannot be read."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@runtime_checkable
class BatchedInputs(Inputs, Protocol):
    """Inputs that lie in memory and are given many at once, which is faster than one by one and needs no worker processes."""

    def batch(self, rows: Sequence[int], /) -> Items:
        """The items of these rows: (B, ...) Tensor, or a list."""
        ...


class Preparation(Protocol):
    """Turns items of a Dataset into what a model takes. Picklable, because worker processes do it."""

    @property
    def text(self) -> str:
        """What it does, with the values used, for the record."""
        ...

    def __call__(self, items: Items, /) -> Any:
        """Prepare a batch: B items, or a (B, ...) Tensor of them -> (B, ...) Tensor, or a mapping of such Tensors by name.

        InputError for items that are of the wrong kind, or differ in shape.
        """
        ...


@dataclass(frozen=True)
class Weights:
    """Where a model's parameters and buffers came from.

    Attributes:
        file: the checkpoint, or None where the model's source filled them.
        sha256: of that file (hex), or None.
        matched: parameters and buffers that were filled, by name.
        missing: those that were not, and hold what the model starts with: not in the file, or of another shape there.
        left_over: names in the file that the model has no place for.
        origin: which part of the file was taken, such as "state_dict, without the prefix model.".
        notes: what the user has to know, a sentence each.
    """

    file: str | None = None
    sha256: str | None = None
    matched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()
    origin: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoder:
    """A model that is ready to run.

    Attributes:
        module: the network, in evaluation mode.
        prepare: turns items of a Dataset into a batch.
        spec: what the user typed.
        code_sha256: hash (hex) of the Python file that the model is from, or None where its library's version stands for it.
        weights: where the parameters came from; None where they are what the model starts with, as its code made them.
        call: runs the module on a batch; None calls it with a Tensor as its argument, a mapping as its keyword arguments.
        embedding: the layer that is the embedding where none is named; None for the input of the last Linear that runs.
        outputs_only: why layers inside of the module cannot be reached, or None where they can.
        batch_size: the only batch size that the module takes, or None for any.
        device: the only kind of device that the module runs on ("cpu", "cuda"), or None for any.
    """

    module: nn.Module
    prepare: Preparation
    spec: str
    weights: Weights | None = None
    call: Callable[[nn.Module, Any], Any] | None = None
    embedding: str | None = None
    outputs_only: str | None = None
    batch_size: int | None = None
    device: str | None = None
    code_sha256: str | None = None


@dataclass(frozen=True)
class Extraction:
    """What an extraction wrote.

    Attributes:
        path: of the store.
        rows: how many.
        layers: layer -> width.
        seconds: it took.
        not_finite: rows with NaN or infinite values in some layer, of those that this run computed.
        skipped: id -> why, of the inputs that could not be read and became no row.
        resumed: rows that an earlier run had written.
        batch_size: rows in a forward pass.
    """

    path: Path
    rows: int
    layers: Mapping[str, int]
    seconds: float
    not_finite: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)
    resumed: int = 0
    batch_size: int | None = None


@dataclass(frozen=True)
class StoredLayer:
    """A dataset of rows in a store: a layer, its magnitudes, or the logits.

    Attributes:
        name: as the file has it, such as "features/conv1".
        shape: (N, D).
        dtype: of the rows.
        pooling: how activations became rows, or None where that is not known.
        type: of the module, or None likewise.
    """

    name: str
    shape: tuple[int, int]
    dtype: str
    pooling: str | None
    type: str | None


@dataclass(frozen=True)
class StoreContents:
    """What a store holds.

    Attributes:
        path: of the file.
        schema_version: of its format.
        complete: whether all rows are there.
        rows: announced.
        done: committed.
        layers: its datasets of rows.
        classes: class name -> how many rows.
        unlabelled: rows without a label.
        splits: split -> how many rows; empty where the data have none.
        skipped: id -> why, of inputs that are no rows because they could not be read.
        resume: the command that finishes an unfinished store, else None.
        provenance: as the file has it.
    """

    path: Path
    schema_version: int
    complete: bool
    rows: int
    done: int
    layers: Sequence[StoredLayer]
    classes: Mapping[str, int]
    unlabelled: int
    splits: Mapping[str, int]
    skipped: Mapping[str, str]
    resume: str | None
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class Measurement:
    """One metric on one embedding.

    Attributes:
        name: of the metric.
        value: None where the metric is undefined on the data; then `note` says why.
        better: which direction is better, or None where neither is.
        bounds: lowest and highest possible value; None is unbounded.
        options: every option of the metric with the value that was used.
        ci95: 95 % interval, or None where none was asked for or none is defined.
        per_class: class name -> value, or None where the metric has no value per sample.
        details: further arrays by name: curves, histograms, values per channel.
        note: what a reader has to know about this value.
    """

    name: str
    value: float | None
    better: Better | None
    bounds: tuple[float | None, float | None]
    options: Mapping[str, Any]
    ci95: tuple[float, float] | None = None
    per_class: Mapping[str, float] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True)
class Samples:
    """What is known of single samples.

    Attributes:
        ids: (n,) of the samples.
        labels: (n,) names of their classes.
        values: metric -> (n,) float64.
        nearest: (n,) names of the nearest other classes, by the first metric that knows, or None.
        split: (n,) or None.
    """

    ids: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    values: Mapping[str, np.ndarray[Any, Any]]
    nearest: np.ndarray[Any, Any] | None
    split: np.ndarray[Any, Any] | None


@dataclass(frozen=True)
class Scores:
    """All metrics on one embedding; the fields but the table of samples are those of `score --json`."""

    name: str
    source: str
    layer: str
    samples: int
    dimensions: int
    classes: int
    device: str
    metrics: Mapping[str, Measurement]
    warnings: Sequence[str] = ()
    table: Samples | None = None


@dataclass(frozen=True)
class Trial:
    """One training of one objective.

    Attributes:
        seed: of the head's start and the order of the batches; the same for every objective.
        epochs: trained.
        best_epoch: whose weights were kept.
        before: metric -> value on the held-out rows as they came in; None where it is undefined.
        after: the same on the embedding that the head gives.
        seconds: spent on training.
        directory: where head, features and log lie, relative to the run directory.
        validation: the criterion on the validation rows in the best epoch, or None where there are none.
    """

    seed: int
    epochs: int
    best_epoch: int
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]
    seconds: float
    directory: str
    validation: float | None = None


@dataclass(frozen=True)
class Candidate:
    """An objective of a sweep, by the validation rows alone.

    Attributes:
        expression: of this point of the grid.
        validation: the criterion trial by trial, in the best epoch of each.
        mean: of these, by which the best one is chosen.
        directories: of its trials, relative to the run directory.
    """

    expression: str
    validation: Sequence[float]
    mean: float
    directories: Sequence[str]


@dataclass(frozen=True)
class Summary:
    """A metric after training, over the trials of an objective, and against the first objective.

    Attributes:
        mean: over trials; None where the metric is undefined.
        std: divisor n - 1; None for a single trial.
        difference: mean of the paired differences to the first objective; None for the first one itself.
        ci95: its 95 % t interval, or None where the trials leave nothing to estimate it from.
        p_value: two-sided, of the paired t test, uncorrected; None likewise.
        p_corrected: the same by Holm's method, for the number of comparisons in the run.
        wilcoxon_p: two-sided, of Wilcoxon's signed-rank test, uncorrected; None where all differences are 0.
    """

    mean: float | None
    std: float | None
    difference: float | None = None
    ci95: tuple[float, float] | None = None
    p_value: float | None = None
    p_corrected: float | None = None
    wilcoxon_p: float | None = None


@dataclass(frozen=True)
class ObjectiveResult:
    """An objective with its trials and what they come to, metric by metric.

    Attributes:
        expression: of the objective; of a sweep, of the one that was best on the validation rows.
        trials: of it.
        summary: metric -> what the trials come to.
        sweep: the expression with lists that made the grid, or None.
        candidates: all objectives of the grid, the chosen one among them; empty where there was none.
        warnings: what a user should know, a sentence each.
    """

    expression: str
    trials: Sequence[Trial]
    summary: Mapping[str, Summary]
    sweep: str | None = None
    candidates: Sequence[Candidate] = ()
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Finetuning:
    """A run of finetune; `run.json` holds these fields."""

    path: Path
    options: Mapping[str, Any]
    data: Mapping[str, Any]
    objectives: Sequence[ObjectiveResult]
    seconds: float
