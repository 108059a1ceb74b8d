"""Tensors made elsewhere: `.pt` and `.safetensors` with features and labels, or a pair of files of one tensor each."""

from __future__ import annotations

import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope.errors import InputError, explained, unknown
from embedscope.store.arrays import USUAL, load_npy
from embedscope.store.limits import check_archive, check_size
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Array = np.ndarray[Any, Any]

SUFFIXES = (".pt", ".pth", ".safetensors")
_NEEDED = {"X": "features", "y": "label"}  # and the options that name them


def load_tensors(files: Sequence[str], keys: Mapping[str, str]) -> dict[str, Array]:
    """Read one file of several tensors, or one of features and one of labels (`.npy` too), into arrays by name.

    Nothing is unpickled but tensors and plain values. `keys` says what the file calls "X", "y", "ids", "split", "class_names".

    InputError for a file that cannot be read, holds other things than tensors and texts, or lacks features or labels.
    """
    if len(files) > 2:
        raise InputError(f"{','.join(files)}: expected one file, or a pair X.pt,y.pt")
    if len(files) == 2:
        return {name: _only(file) for name, file in zip("Xy", files, strict=True)}
    path = files[0]
    held = _load(path)
    if not isinstance(held, dict):
        raise InputError(f"{path} contains features without labels; give both as X.pt,y.pt, or save {{'X': ..., 'y': ...}}")
    names = [name for name in held if isinstance(name, str)]
    found: dict[str, Array] = {}
    for role, usual in USUAL.items():
        key = keys.get(role)
        candidates = [name for name in names if name.lower() in usual]
        if key is not None and key not in names:
            raise InputError(unknown("tensor", key, names, place=path))
        if key is None and len(candidates) != 1:
            if role in _NEEDED:
                what = "several could be the" if candidates else "none has a common name for"
                problem = f"{what} {_NEEDED[role]}"
                raise InputError(
                    f"{path}: {problem}; it holds {', '.join(names[:20]) or 'nothing'}; specify one, as in "
                    f"{path}(features='X', label='y')"
                )
            continue
        found[role] = _array(path, key or candidates[0], held[key or candidates[0]])
    return found


def _only(file: str) -> Array:
    if file.lower().endswith(".npy"):
        return load_npy(file)
    if Path(file).suffix.lower() not in SUFFIXES:
        raise InputError(f"{file} is not a .npy, .pt or .safetensors file; give a pair of such files, X.pt,y.pt")
    held = _load(file)
    if isinstance(held, dict):
        if len(held) != 1:
            raise InputError(
                f"{file} holds {counted(len(held), 'tensor')}; a pair consists of one file of features and one of labels"
            )
        held = next(iter(held.values()))
    return _array(file, "its tensor", held)


def _load(path: str) -> Any:
    """Read a file as torch or safetensors wrote it."""
    advice = "expected a file written by torch.save or safetensors"
    if path.lower().endswith(".safetensors"):
        from safetensors import safe_open

        with explained(f"{path} cannot be read", advice), safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    with explained(f"{path} cannot be read", advice):
        if not zipfile.is_zipfile(path):
            raise InputError(f"{path} is not an archive as written by torch.save since version 1.6; save it again")
        check_archive(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:  # whose message is about a switch of torch.load
            raise InputError(
                f"{path} contains objects other than tensors and plain values, which are not unpickled; save "
                f"{{'X': ..., 'y': ...}}"
            ) from error


def _array(path: str, name: str, value: Any) -> Array:
    """Turn a tensor, or a list of texts or numbers, into an array of the same values."""
    if isinstance(value, list | tuple) and value and all(isinstance(each, str | int | float) for each in value):
        array = np.empty(len(value), dtype=object)
        array[:] = value
        return array
    if not isinstance(value, torch.Tensor):
        raise InputError(f"{path}: {name} is a {type(value).__name__}; expected a tensor, or a list of texts")
    if value.layout != torch.strided or value.is_quantized or value.device.type == "meta" or value.is_nested:
        raise InputError(f"{path}: {name} is sparse, quantized, nested or without data; save it as a plain tensor")
    if value.is_complex():
        raise InputError(f"{path}: {name} is {str(value.dtype).removeprefix('torch.')}; expected real numbers")
    check_size(path, name, value.numel() * value.element_size())
    if value.is_floating_point() and value.dtype not in (torch.float16, torch.float32, torch.float64):
        value = value.float()  # of 8 bits or bfloat16, which float32 holds
    plain: Array = value.detach().resolve_neg().contiguous().numpy()
    return plain
