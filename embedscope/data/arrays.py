"""Arrays: a `.npz` with inputs X (N, ...) and labels y (N,), and optionally class_names, ids and split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from embedscope.data import data_source
from embedscope.records import Dataset
from embedscope.store.arrays import encode_labels, load_arrays, text_rows


@dataclass(frozen=True)
class ArrayRows:
    """Rows of an array, as tensors."""

    array: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.array[index]))


@data_source(recognises=lambda path: path.suffix == ".npz")
def arrays(location: str) -> Dataset:
    """Open a `.npz` of inputs and labels.

    X is given to the model row by row; y holds whole numbers (a negative one is unlabelled) or text. Ids are row numbers if
    there are none. InputError for a file without X or y, or of different lengths.
    """
    held = load_arrays(location)
    class_names, labels = encode_labels(location, held)
    ids, split = text_rows(location, held, "ids"), text_rows(location, held, "split")
    return Dataset(
        inputs=ArrayRows(held["X"]),
        labels=labels,
        class_names=class_names,
        ids=tuple(map(str, range(len(labels)))) if ids is None else tuple(ids),
        split=None if split is None else tuple(split),
        location=location,
        fingerprint=hashlib.sha256(held["X"].tobytes() + held["y"].tobytes()).hexdigest(),
    )
