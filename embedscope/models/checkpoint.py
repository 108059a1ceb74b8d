"""Weights from a file into a module: safely, and never in part without a word."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from embedscope.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class LoadedCheckpoint:
    """The sha256 of the file (hex), and the names of the parameters and buffers that it filled."""

    sha256: str
    matched: tuple[str, ...]


def load_checkpoint(module: nn.Module, path: str) -> LoadedCheckpoint:
    """Fill a module from a `.safetensors` file or a state dict saved by torch, in place.

    All of the module's parameters and buffers have to be in the file, in their shapes, and nothing else: what is missing would
    stay random and be measured in silence. InputError says what is missing, left over or of another shape. Nothing is
    unpickled but tensors (`weights_only=True`).
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"no such checkpoint: {path}")
    weights = _read(file)
    expected = module.state_dict()
    missing = [name for name in expected if name not in weights]
    left_over = [name for name in weights if name not in expected]
    reshaped = [
        f"{name} {tuple(weights[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    faults = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("left over", left_over), ("of another shape", reshaped))
        if names
    ]
    if faults:
        matched = len(expected) - len(missing) - len(reshaped)
        raise InputError(f"{path} fills {matched} of {len(expected)} tensors of the model: {', '.join(faults)}")
    module.load_state_dict(weights)
    with file.open("rb") as stream:
        return LoadedCheckpoint(hashlib.file_digest(stream, "sha256").hexdigest(), tuple(expected))


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, on what kind of file this is; it is refused or read all the same
            if path.suffix == ".safetensors":
                weights: Any = safetensors.torch.load_file(path)
            else:
                weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling a stranger's bytes may raise anything; torch's own advice is to load it unsafely
        raise InputError(
            f"{path} cannot be read as a checkpoint: it is no .safetensors file and no state dict of plain tensors "
            f"({type(error).__name__})"
        ) from error
    plain = isinstance(weights, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided
        for name, value in weights.items()
    )
    if not plain:
        raise InputError(f"{path} is no state dict of tensors; save model.state_dict() as .safetensors or with torch.save")
    found: dict[str, Tensor] = weights
    return found
