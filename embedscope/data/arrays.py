"""Arrays: a `.npz` with inputs X (N, ...) and labels y (N,), and optionally class_names, ids and split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope.data.columns import Texts, fingerprint, gaps
from embedscope.data.dataset import Dataset
from embedscope.plugins import recognises
from embedscope.store.arrays import load_arrays
from embedscope.store.labels import encode_labels, text_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ArrayRows:
    """Rows of an array, as tensors."""

    array: Array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> torch.Tensor:
        return _tensor(np.asarray(self.array[index]))

    def batch(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the rows as (B, ...): a view for a contiguous range, otherwise a copy."""
        if isinstance(rows, range) and rows.step == 1:
            return _tensor(self.array[rows.start : rows.stop])
        return _tensor(self.array[np.asarray(rows, dtype=np.intp)])


def _tensor(array: Array) -> torch.Tensor:
    """Return a tensor that shares the array's memory, or a copy if the array is read-only or has foreign byte order."""
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


@recognises(lambda path: path.suffix.lower() == ".npz" and path.is_file())
def arrays(location: str) -> Dataset:
    """Open a `.npz` of inputs and labels.

    X is given to the model row by row, as numbers (N, ...) or text (N,); y holds whole numbers (a negative one is unlabeled)
    or text. Ids are row numbers if there are none. InputError for a file without X or y, or of different lengths.
    """
    held = load_arrays([location], text=True)
    class_names, labels = encode_labels(location, held)
    ids, split = text_rows(location, held, "ids"), text_rows(location, held, "split")
    is_text = held["X"].dtype.kind in "US"
    return Dataset(
        inputs=Texts(tuple(text_rows(location, held, "X") or ())) if is_text else ArrayRows(held["X"]),
        labels=labels,
        class_names=class_names,
        ids=tuple(map(str, range(len(labels)))) if ids is None else tuple(ids),
        split=None if split is None else tuple(split),
        location=location,
        fingerprint=fingerprint([str(held["X"].dtype), str(held["X"].shape), held["X"], held["y"]]),
        notes=gaps(labels),
    )
