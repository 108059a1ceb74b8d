"""Files of weights, read safely: `.safetensors`, what torch saved, TorchScript, and checkpoints in several files."""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch

from embedscope.errors import InputError
from embedscope.models._pickled import holds_code, plain_values, scripted_tensors, unsafe_names
from embedscope.store.limits import check_not_empty

if TYPE_CHECKING:
    from collections.abc import Sequence

_INDEX = ".index.json"


def read_weights(path: Path, unsafe_pickle: bool) -> Any:
    """Read a checkpoint: tensors, in whatever containers the file has them; of an index, those of all its shards.

    InputError if it is not there, cut short, a folder, a distributed checkpoint, or could run code while loading.
    """
    if not path.is_file():
        raise InputError(_about_folder(path) if path.is_dir() else f"no such checkpoint: {path}")
    if path.suffix == ".distcp":
        raise InputError(_about_distributed(path, path.parent))
    if path.name.endswith(_INDEX):
        check_not_empty(path)
        tensors: dict[str, Any] = {}
        for shard, names in _shards(path).items():
            held = _read_one(path.parent / shard, unsafe_pickle)
            absent = [name for name in names if not isinstance(held, dict) or name not in held]
            if absent:
                raise InputError(f"{path} maps {shown(absent)} to {shard}, which does not contain them")
            tensors |= {name: held[name] for name in names}
        return tensors
    return _read_one(path, unsafe_pickle)


def sha256_of(path: str) -> str:
    """Hash a file (hex); of an index of shards the index and all of them, in the order of their names."""
    file = Path(path)
    parts = [file, *(file.parent / shard for shard in sorted(_shards(file)))] if file.name.endswith(_INDEX) else [file]
    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


def shown(names: Sequence[str], count: int = 3) -> str:
    """List the first names, with an ellipsis for more."""
    return ", ".join(name[:200] for name in names[:count]) + (", …" if len(names) > count else "")


def _shards(index: Path) -> dict[str, list[str]]:
    """Read an index: shard -> the names of its tensors. Shards lie beside the index, and nowhere else."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards: dict[str, list[str]] = {}
        for name, file in places.items():
            shards.setdefault(file, []).append(name)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{index} cannot be read as the index of a sharded checkpoint; expected JSON with a weight_map of tensor to file"
        ) from error
    for file in shards:
        if not isinstance(file, str) or Path(file).name != file or "\\" in file or file.endswith(_INDEX):
            raise InputError(f"{index} names the shard {str(file)[:80]!r}; shards must be in the same folder as their index")
        if not (index.parent / file).is_file():
            raise InputError(f"{index} names {len(shards)} shards, but {file} is missing; all of them are needed")
    return shards


def _read_one(path: Path, unsafe_pickle: bool) -> Any:
    check_not_empty(path)
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{path} cannot be read as a checkpoint: it is truncated or not a .safetensors file ({_first_line(error)})"
            ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, on what kind of file this is; it is refused or read all the same
        try:
            if holds_code(path):
                if unsafe_pickle:
                    return torch.jit.load(path, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
                return scripted_tensors(path)
            if unsafe_pickle:
                return torch.load(path, map_location="cpu", weights_only=False)
            with plain_values():
                return torch.load(path, map_location="cpu", weights_only=True)
        except InputError:
            raise
        except Exception as error:  # unpickling untrusted bytes may raise anything
            raise _unreadable(path, error, unsafe_pickle) from error


def _unreadable(path: Path, error: Exception, unsafe_pickle: bool) -> InputError:
    if unsafe_pickle:
        return InputError(f"{path} cannot be read as a checkpoint ({type(error).__name__}: {_first_line(error)})")
    wanted = unsafe_names(path)
    if wanted:
        return InputError(
            f"{path} contains more than tensors: loading it would run {shown(wanted, 5)}; if you trust its author, pass "
            "`unsafe_pickle=True`; otherwise ask for model.state_dict() as .safetensors"
        )
    if "Unsupported operand" in str(error) and zipfile.is_zipfile(path):
        return InputError(
            f"{path} was saved with a pickle protocol other than torch's default, which cannot be read without running "
            "code; save it again by torch.save without pickle_protocol, or pass `unsafe_pickle=True` if you trust its author"
        )
    return InputError(
        f"{path} cannot be read as a checkpoint: it is truncated, or neither a .safetensors file nor saved by torch "
        f"({type(error).__name__})"
    )


def _about_folder(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir())
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        return _about_distributed(path, path)
    inside = [name for name in names if name.endswith((_INDEX, ".safetensors", ".pt", ".pth", ".ckpt", ".bin"))]
    inside.sort(key=lambda name: not name.endswith(_INDEX))
    return f"{path} is a folder; give the weights file" + (f", such as {path / inside[0]}" if inside else "")


def _about_distributed(path: Path, folder: Path) -> str:
    return (
        f"{path} is a distributed checkpoint; convert it to a single file first: "
        f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} weights.pt"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
