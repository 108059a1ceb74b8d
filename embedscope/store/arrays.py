"""Arrays made elsewhere: `.npz` files and pairs of `.npy` files, with labels of any kind."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope.errors import InputError
from embedscope.records import FeatureSet

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]


def load_arrays(path: str) -> dict[str, Array]:
    """Read `file.npz`, or `X.npy,y.npy`, into arrays by name; "X" and "y" are there and belong together.

    Never unpickles. InputError for a file that is not there, not NumPy's, without X or y, empty, or of different lengths.
    """
    arrays = _read(path)
    for name in ("X", "y"):
        if name not in arrays:
            raise InputError(f"{path} has no {name}; it holds {', '.join(arrays) or 'nothing'}")
    rows = len(arrays["X"]) if arrays["X"].ndim else 0
    if not rows:
        raise InputError(f"{path} has no rows")
    for name in ("y", "ids", "split"):
        if name in arrays and arrays[name].shape != (rows,):
            raise InputError(f"{path}: X has {rows} rows, but {name} has shape {arrays[name].shape}")
    return arrays


def _read(path: str) -> dict[str, Array]:
    files = path.split(",") if path.endswith(".npy") else [path]
    if files[0].endswith(".npy") and len(files) != 2:
        raise InputError(f"{path}: a .npy holds features without labels; give both as X.npy,y.npy")
    try:
        if len(files) == 2:
            return dict(zip("Xy", (np.load(file, allow_pickle=False) for file in files), strict=True))
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError as error:
        raise InputError(f"no such file: {error.filename}") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as NumPy arrays: {error}") from error


def encode_labels(path: str, arrays: dict[str, Array]) -> tuple[tuple[str, ...], Array]:
    """Turn the labels "y" into class names (K,) and int64 indices (N,); a negative number is unlabelled, -1.

    Whole numbers index "class_names" where the file has them, otherwise the distinct values are the classes, in order.
    """
    labels = arrays["y"]
    if labels.dtype.kind == "f" and np.array_equal(labels, np.round(labels)):
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iuUSb":
        raise InputError(f"{path}: labels have to be whole numbers or text, got {labels.dtype}")
    if "class_names" in arrays and labels.dtype.kind in "iu":
        names = tuple(map(str, arrays["class_names"].tolist()))
        if labels.max() >= len(names):
            raise InputError(f"{path}: label {labels.max()} has no name among {len(names)} class_names")
        return names, np.maximum(labels.astype(np.int64), -1)
    values, codes = np.unique(labels, return_inverse=True)
    unlabelled = int((values < 0).sum()) if values.dtype.kind == "i" else 0
    texts = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values.astype(str)
    return tuple(texts[unlabelled:].tolist()), np.maximum(codes.astype(np.int64) - unlabelled, -1)


def text_rows(arrays: dict[str, Array], name: str) -> Array | None:
    """Take an optional (N,) array as text."""
    return arrays[name].astype(str).astype(object) if name in arrays else None


def features_from_arrays(name: str, path: str) -> FeatureSet:
    """Read features X (N, D) and labels y (N,), with ids and split where they are there; whole numbers become float32."""
    arrays = load_arrays(path)
    features = arrays["X"]
    if features.ndim != 2 or features.dtype.kind not in "fiub":
        raise InputError(f"{path}: X has to be numbers of shape (N, D), got {features.dtype} {features.shape}")
    class_names, labels = encode_labels(path, arrays)
    ids = text_rows(arrays, "ids")
    if features.dtype.kind != "f":
        features = features.astype(np.float32)
    return FeatureSet(
        name=name,
        source=path,
        layer="X",
        features=torch.from_numpy(np.ascontiguousarray(features)),
        labels=labels,
        class_names=class_names,
        ids=np.arange(len(features)).astype(str).astype(object) if ids is None else ids,
        split=text_rows(arrays, "split"),
        provenance={"data": {"spec": path}},
    )
