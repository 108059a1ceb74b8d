"""The records of a feature store. N rows, D dimensions, C channels, K classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embedscope.store.provenance import Provenance
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from embedscope.ops.rows import Rows


@dataclass(frozen=True, eq=False, repr=False)
class FeatureSet:
    """Labeled features of one layer, from any source; compared by identity.

    Attributes:
        name: shown in tables.
        source: the file it was read from.
        layer: the layer's name in that file.
        features: (N, D), float32 or float16, possibly still on disk; float64 too if they were made elsewhere.
        labels: (N,) int64; -1 is unlabeled, otherwise an index into `class_names`.
        class_names: (K,); a class may have no row.
        ids: (N,) str, unique, for tracing rows back.
        logits: (N, L) float32, classifier outputs for the rows, or None if they were not kept.
        split: (N,) str such as "train" and "test", or None.
        magnitudes: (N, C) float32, mean of |activation| over positions, or None if the layer has none.
        provenance: how the features were made.
    """

    name: str
    source: str
    layer: str
    features: Rows
    labels: np.ndarray[Any, np.dtype[np.int64]]
    class_names: tuple[str, ...]
    ids: np.ndarray[Any, Any]
    magnitudes: Rows | None = None
    logits: Rows | None = None
    split: np.ndarray[Any, Any] | None = None
    provenance: Provenance = field(default_factory=Provenance)

    def __repr__(self) -> str:
        rows, width = self.features.shape
        dtype = str(self.features.dtype).removeprefix("torch.")
        classes = counted(len(self.class_names), "class")
        return f"FeatureSet {self.name!r}: {rows} x {width} {dtype}, {classes}, layer {self.layer} of {self.source}"


@dataclass(frozen=True)
class StoredLayer:
    """A dataset of rows in a store: a layer, its magnitudes, or the logits.

    Attributes:
        name: in the file, such as "features/conv1".
        shape: (N, D).
        dtype: of the rows.
        pooling: how activations were pooled, or None if unknown.
        type: of the module, or None if unknown.
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
        rows: declared.
        done: committed.
        layers: its datasets of rows.
        classes: class name -> number of rows.
        unlabelled: rows without a label.
        splits: split -> number of rows; empty if the data have none.
        skipped: id -> reason, for inputs without a row because they could not be read.
        resume: the command that finishes an unfinished store, else None.
        provenance: how the features were made.
    """

    path: Path
    schema_version: int
    complete: bool
    rows: int
    done: int
    layers: Sequence[StoredLayer] = field(hash=False)
    classes: Mapping[str, int] = field(hash=False)
    unlabelled: int
    splits: Mapping[str, int] = field(hash=False)
    skipped: Mapping[str, str] = field(hash=False)
    resume: str | None
    provenance: Provenance
