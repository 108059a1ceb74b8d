"""Arrays made elsewhere: `.npz` files and pairs of `.npy` files, with labels of any kind."""

from __future__ import annotations

import math
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope.errors import InputError
from embedscope.store.features import FeatureSet
from embedscope.store.provenance import DataOrigin, Provenance

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

_NAMES = ("X", "y", "ids", "split", "class_names")


def load_arrays(path: str, *, text: bool = False) -> dict[str, Array]:
    """Read `file.npz`, or `X.npy,y.npy`, into arrays by name; "X" and "y" are there and belong together.

    Whatever else an archive holds is left unread, and nothing is ever unpickled. Numbers come in the machine's byte order.
    With `text`, X may be text (N,) too.

    InputError for a file that is not there, not NumPy's, without X or y, empty, of different lengths, or with other than
    numbers in X.
    """
    arrays = {name: _native(array) for name, array in _read(path).items()}
    for name in ("X", "y"):
        if name not in arrays:
            raise InputError(
                f"{path} has no {name}; it holds {', '.join(_names(path)) or 'nothing'}; an archive needs X (N, ...) and y (N,)"
            )
    inputs = arrays["X"]
    is_text = text and inputs.dtype.kind in "US" and inputs.ndim == 1
    if not is_text and (inputs.dtype.kind not in "fiub" or inputs.dtype.itemsize > 8):
        raise InputError(f"{path}: X has to be numbers of at most 64 bits, got {inputs.dtype}")
    if not inputs.size:
        raise InputError(f"{path}: X of shape {inputs.shape} has no rows or no columns")
    if inputs.ndim < 2 and not is_text:
        raise InputError(f"{path}: X has to have rows, as in (N, D), got the shape {inputs.shape}")
    if arrays["y"].ndim == 2 and arrays["y"].shape[0] == len(inputs):
        raise InputError(f"{path}: y has the shape {arrays['y'].shape}; give one label a row, as y.argmax(1) of one-hot labels")
    for name in ("y", "ids", "split"):
        if name in arrays and arrays[name].shape != (len(inputs),):
            raise InputError(f"{path}: X has {len(inputs)} rows, but {name} has shape {arrays[name].shape}")
    ids = text_rows(path, arrays, "ids")
    if ids is not None and len(set(ids)) != len(ids):
        raise InputError(f"{path}: ids have to be unique; {len(ids) - len(set(ids))} of {len(ids)} are repeated")
    return arrays


def _read(path: str) -> dict[str, Array]:
    files = path.split(",")
    single = len(files) == 1
    if single and files[0].lower().endswith(".npy"):
        raise InputError(f"{path}: a .npy holds features without labels; give both as X.npy,y.npy")
    if not single and (len(files) != 2 or not all(file.lower().endswith(".npy") for file in files)):
        raise InputError(f"{path}: expected one .npz, or a pair X.npy,y.npy")
    try:
        if not single:
            return dict(zip("Xy", (np.load(file, allow_pickle=False) for file in files), strict=True))
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path} holds a single array; give features and labels as X.npy,y.npy")
        with archive:
            _check_sizes(path)
            return {name: archive[name] for name in _NAMES if name in archive.files}
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"no such file: {error.filename}") from error
    except Exception as error:  # a stranger's bytes: zip, NumPy's header and its pickles fail in ways of their own
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} cannot be read as NumPy arrays: {type(error).__name__}: {reason}") from error


def _check_sizes(path: str) -> None:
    """Raise InputError for an array whose header promises more than its file holds: NumPy would take the memory first."""
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with zipfile.ZipFile(path) as archive:
        for name in set(archive.namelist()) & {f"{name}.npy" for name in _NAMES}:
            with archive.open(name) as member:
                shape, _, dtype = headers[np.lib.format.read_magic(member)](member)
            promised, held = math.prod(shape) * dtype.itemsize, archive.getinfo(name).file_size
            if promised > held:
                raise InputError(f"{path}: {name} promises {promised:,} bytes and holds {held:,}; it is cut short or damaged")


def _names(path: str) -> list[str]:
    if not path.lower().endswith(".npz"):
        return []
    with np.load(path, allow_pickle=False) as archive:
        return list(archive.files)


def _native(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def encode_labels(path: str, arrays: dict[str, Array]) -> tuple[tuple[str, ...], Array]:
    """Turn the labels "y" into class names (K,) and int64 indices (N,); a negative number is unlabelled, -1.

    Whole numbers index "class_names" where the file has them, otherwise the distinct values are the classes, in order.
    """
    labels = arrays["y"]
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (np.abs(labels) < 2.0**53).all():
        whole = labels.astype(np.int64)
        labels = whole if np.array_equal(whole, labels) else labels
    if labels.dtype.kind not in "iuUSb":
        raise InputError(f"{path}: labels have to be whole numbers or text, got {labels.dtype} such as {labels[0]}")
    if "class_names" in arrays and labels.dtype.kind in "iu":
        given = arrays["class_names"]
        names = tuple(text_rows(path, arrays, "class_names") or ()) if given.ndim == 1 else ()
        if len(set(names)) != len(names) or not names:
            raise InputError(f"{path}: class_names have to be distinct, in one row; got {str(given)[:60]}")
        if labels.max() >= len(names):
            raise InputError(f"{path}: label {labels.max()} has no name among {len(names)} class_names")
        return names, np.maximum(labels.astype(np.int64), -1)
    values, codes = np.unique(labels, return_inverse=True)
    unlabelled = int((values < 0).sum()) if values.dtype.kind == "i" else 0
    texts = text_rows(path, {"y": values}, "y")
    assert texts is not None
    return tuple(texts[unlabelled:]), np.maximum(codes.astype(np.int64) - unlabelled, -1)


def text_rows(path: str, arrays: dict[str, Array], name: str) -> list[str] | None:
    """Take an optional (N,) array as text: numbers as they print, bytes as UTF-8."""
    if name not in arrays:
        return None
    try:
        texts = [value.decode() if isinstance(value, bytes) else str(value) for value in arrays[name].tolist()]
        "".join(texts).encode()
    except UnicodeError as error:
        raise InputError(f"{path}: {name} are no UTF-8 text: {error}") from error
    return texts


def features_from_arrays(name: str, path: str) -> FeatureSet:
    """Read features X (N, D) and labels y (N,), with ids and split where they are there; whole numbers become float32."""
    arrays = load_arrays(path)
    features = arrays["X"]
    if features.ndim != 2:
        raise InputError(f"{path}: X has to be numbers of shape (N, D), got {features.dtype} {features.shape}")
    class_names, labels = encode_labels(path, arrays)
    ids = text_rows(path, arrays, "ids") or [str(row) for row in range(len(features))]
    split = text_rows(path, arrays, "split")
    if features.dtype.kind != "f":
        features = features.astype(np.float32)
    return FeatureSet(
        name=name,
        source=path,
        layer="X",
        features=torch.from_numpy(np.ascontiguousarray(features)),
        labels=labels,
        class_names=class_names,
        ids=np.array(ids, dtype=object),
        split=None if split is None else np.array(split, dtype=object),
        provenance=Provenance(data=DataOrigin(spec=path)),
    )
