"""Arrays made elsewhere: `.npz` files and pairs of `.npy` files, with labels of any kind."""

from __future__ import annotations

import math
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.errors import InputError, unknown
from embedscope.store.labels import text_rows
from embedscope.store.limits import check_archive, check_not_empty, check_size
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import IO

    Array = np.ndarray[Any, Any]

_NAMES = ("X", "y", "ids", "split", "class_names")
# The usual names, in any case, of what an archive calls X, y, ids, split and class_names.
USUAL = {
    "X": frozenset({"x", "features", "feats", "embeddings", "embedding", "latents", "vectors", "z"}),
    "y": frozenset({"y", "labels", "label", "targets", "target", "classes"}),
    "ids": frozenset({"ids"}),
    "split": frozenset({"split"}),
    "class_names": frozenset({"class_names"}),
}


def load_arrays(
    files: Sequence[str], *, text: bool = False, keys: Mapping[str, str] | None = None, labeled: bool = True
) -> dict[str, Array]:
    """Read one `.npz`, or the `.npy` of X and that of y, into arrays by name; "X" and "y" are there and belong together.

    Of rows that are not `labeled`, a lone `.npy` will do, and y is -1 throughout.

    Whatever else an archive holds is left unread, and nothing is ever unpickled. Numbers come in the machine's byte order. y of
    (N, 1) becomes (N,). With `text`, X may be text (N,) too. `keys` says what an archive calls an array instead of "X", ...

    InputError for a file that is not there, not NumPy's, without X or y, empty, of different lengths, larger than memory, or
    with other than numbers in X.
    """
    path = ",".join(files)
    arrays = {name: _native(array) for name, array in _read(path, files, keys or {}, labeled=labeled).items()}
    if not labeled:
        arrays["y"] = np.full(arrays["X"].shape[:1], -1)
    return check_arrays(path, arrays, text=text)


def check_arrays(path: str, arrays: dict[str, Array], *, text: bool = False) -> dict[str, Array]:
    """Return arrays whose "X" (N, ...) and "y" (N,) are there and belong together; InputError if they do not."""
    inputs = arrays["X"]
    is_text = text and inputs.dtype.kind in "US" and inputs.ndim == 1
    if not is_text and (inputs.dtype.kind not in "fiub" or inputs.dtype.itemsize > 8):
        raise InputError(f"{path}: X must be numbers of at most 64 bits, got {inputs.dtype}")
    if not inputs.size:
        raise InputError(f"{path}: X of shape {inputs.shape} has no rows or no columns")
    if inputs.ndim < 2 and not is_text:
        raise InputError(f"{path}: X must have rows, as in (N, D), got the shape {inputs.shape}")
    if arrays["y"].shape == (len(inputs), 1):
        arrays["y"] = arrays["y"][:, 0]
    if arrays["y"].ndim == 2 and arrays["y"].shape[0] == len(inputs):
        raise InputError(
            f"{path}: y has the shape {arrays['y'].shape}; give one label per row, such as y.argmax(1) of one-hot labels"
        )
    for name in ("y", "ids", "split"):
        if name in arrays and arrays[name].shape != (len(inputs),):
            raise InputError(f"{path}: X has {counted(len(inputs), 'row')}, but {name} has shape {arrays[name].shape}")
    ids = text_rows(path, arrays, "ids")
    if ids is not None and len(set(ids)) != len(ids):
        raise InputError(f"{path}: ids must be unique; {len(ids) - len(set(ids))} of {len(ids)} are repeated")
    return arrays


def _read(path: str, files: Sequence[str], keys: Mapping[str, str], *, labeled: bool) -> dict[str, Array]:
    single = len(files) == 1
    lone = single and not labeled and files[0].lower().endswith(".npy")
    for file in files:
        check_not_empty(file)
    if single and not lone and files[0].lower().endswith(".npy"):
        raise InputError(f"{path}: a .npy contains features without labels; give both as X.npy,y.npy")
    if not single and (len(files) != 2 or not all(file.lower().endswith(".npy") for file in files)):
        raise InputError(f"{path}: expected one .npz, or a pair X.npy,y.npy")
    try:
        if not single or lone:
            return dict(zip("Xy", map(load_npy, files), strict=False))
        return _load_npz(path, keys, labeled=labeled)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"no such file: {error.filename}") from error
    except Exception as error:  # untrusted bytes: zip, NumPy headers and pickles each fail in their own way
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        if "allow_pickle" in reason or "allow-pickle" in reason:  # NumPy takes any file that it does not know for a pickle
            reason = "it is another kind of file"
        raise InputError(f"{path} cannot be read as NumPy arrays: {reason}") from error


def load_npy(file: str) -> Array:
    """Read one array; InputError for one that promises more than the file holds or memory has, other errors as NumPy's."""
    with open(file, "rb") as stream:
        if stream.read(2) == b"PK":
            raise InputError(f"{file} is an archive (.npz), not a single array")
        stream.seek(0)
        size = _promised(file, stream)
        start = stream.tell()
        held = stream.seek(0, 2) - start
    if size > held:
        raise InputError(f"{file} declares {size:,} bytes but contains {held:,}; it is truncated or damaged")
    check_size(file, "its array", size)
    array: Array = np.load(file, allow_pickle=False)
    return array


def _load_npz(path: str, keys: Mapping[str, str], *, labeled: bool) -> dict[str, Array]:
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise InputError(f"{path} contains a single array; give features and labels as X.npy,y.npy")
    with archive:
        members = {name: keys.get(name, name) for name in _NAMES if labeled or name not in ("y", "class_names")}
        for key in keys.values():
            if key not in archive.files:
                raise InputError(unknown("array", key, archive.files, place=path))
        for name in ("X", "y") if labeled else ("X",):
            if name not in keys and name not in archive.files:
                usual = [key for key in archive.files if key.lower() in USUAL[name]]
                members[name] = usual[0] if len(usual) == 1 else name
            if members[name] not in archive.files:
                raise InputError(
                    f"{path} has no {name}; it holds {', '.join(archive.files[:20]) or 'nothing'}; an archive needs X (N, "
                    f"...) and y (N,); if they have other names, give them, as in {path}(features='emb', label='target')"
                )
        _check_sizes(path, [key for key in members.values() if key in archive.files])
        return {name: archive[key] for name, key in members.items() if key in archive.files}


def _check_sizes(path: str, keys: Sequence[str]) -> None:
    """Raise InputError for arrays that promise more than the file holds or memory has: NumPy would take the memory first."""
    members = {f"{key}.npy" for key in keys}
    check_archive(path, members)
    with zipfile.ZipFile(path) as archive:
        for name in members & set(archive.namelist()):
            with archive.open(name) as member:
                promised = _promised(f"{path}: {name}", member)
            held = archive.getinfo(name).file_size
            if promised > held:
                raise InputError(
                    f"{path}: {name} declares {promised:,} bytes but contains {held:,}; it is truncated or damaged"
                )


def _promised(what: str, stream: IO[bytes]) -> int:
    """Read the header of an array: how many bytes it says that follow; ValueError for none of NumPy's.

    InputError for Python objects, which follow as a pickle of any size.
    """
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in headers:
        raise ValueError(f"header version {version} is for structured arrays")
    shape, _, dtype = headers[version](stream)
    if dtype.hasobject:
        raise InputError(
            f"{what} holds Python objects, which are never unpickled; convert it first, such as labels.astype(str)"
        )
    return math.prod(shape) * dtype.itemsize


def _native(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("="), copy=False)
