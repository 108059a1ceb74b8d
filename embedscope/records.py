"""The frozen records that travel between layers. N rows, D dimensions, C channels, K classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import torch
    from torch import Tensor, nn

Better = Literal["higher", "lower"]
T = TypeVar("T")


class Track(Protocol):
    """Wraps an iterable to show how far it is: a progress bar from the command line, nothing in the library."""

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterable[T]:
        """Give the items on, one by one; `total` is their number."""
        ...


def untracked(items: Iterable[T], description: str, total: int) -> Iterable[T]:
    """Show nothing: what a Track is in the library."""
    return items


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
        inputs: N items; `inputs[i]` is the i-th input as the source gives it: a Tensor or a PIL image.
        labels: (N,) int64; -1 is unlabelled, otherwise an index into `class_names`.
        class_names: (K,).
        ids: (N,) unique.
        split: (N,) or None.
        location: where the inputs lie, as the user named it.
        fingerprint: sha256 over what decides the inputs and their order (hex).
    """

    inputs: Inputs
    labels: np.ndarray[Any, np.dtype[np.int64]]
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    split: tuple[str, ...] | None
    location: str
    fingerprint: str


class Inputs(Protocol):
    """Items by position."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Encoder:
    """A model that is ready to run.

    Attributes:
        module: the network, in evaluation mode.
        transform: turns an item of a Dataset into the Tensor that the module takes, without the batch axis.
        transform_text: what the transform does, for the record.
        spec: what the user typed.
        checkpoint: the file that the weights came from, if any.
        checkpoint_sha256: its hash (hex), if any.
        matched: parameters and buffers that the checkpoint filled, by name.
    """

    module: nn.Module
    transform: Callable[[Any], Tensor]
    transform_text: str
    spec: str
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None
    matched: tuple[str, ...] = ()


@dataclass(frozen=True)
class Extraction:
    """What an extraction wrote.

    Attributes:
        path: of the store.
        rows: how many.
        layers: layer -> width.
        seconds: it took.
        not_finite: rows with NaN or infinite values in some layer.
    """

    path: Path
    rows: int
    layers: Mapping[str, int]
    seconds: float
    not_finite: int = 0


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
    """

    seed: int
    epochs: int
    best_epoch: int
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]
    seconds: float
    directory: str


@dataclass(frozen=True)
class Summary:
    """A metric after training, over the trials of an objective, and against the first objective.

    Attributes:
        mean: over trials; None where the metric is undefined.
        std: divisor n - 1; None for a single trial.
        difference: mean of the paired differences to the first objective; None for the first one itself.
        ci95: its 95 % t interval, or None where the trials leave nothing to estimate it from.
        p_value: two-sided, of the paired t test, uncorrected; None likewise.
    """

    mean: float | None
    std: float | None
    difference: float | None = None
    ci95: tuple[float, float] | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class ObjectiveResult:
    """An objective with its trials and what they come to, metric by metric."""

    expression: str
    trials: Sequence[Trial]
    summary: Mapping[str, Summary]


@dataclass(frozen=True)
class Finetuning:
    """A run of finetune; `run.json` holds these fields."""

    path: Path
    options: Mapping[str, Any]
    data: Mapping[str, Any]
    objectives: Sequence[ObjectiveResult]
    seconds: float
