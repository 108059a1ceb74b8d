"""The checkpoints of a training, in their order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedscope.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")

_INDEX = (".safetensors.index.json", ".bin.index.json")

# Files that trainers write next to the weights.
_ASIDE = ("optimizer", "scheduler", "scaler", "training_args", "rng_state")


@dataclass(frozen=True)
class Stage:
    """A checkpoint and its place in the training.

    Attributes:
        path: of the file.
        step: from its name, or its position.
        name: what tables call it.
    """

    path: str
    step: int
    name: str


def in_order(paths: Sequence[str]) -> list[Stage]:
    """Put checkpoints into the natural order of their names: ckpt-9 before ckpt-10.

    The step of each is the last number in its name; positions are taken, in that order, unless all have one of their own.
    `name=path` names one. A folder stands for the checkpoints in it, or for one in each of its folders, as trainers write
    them. InputError for a path that is not there, or given twice.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for step in (10, 9):
    ...         Path(folder, f"ckpt-{step}.pt").touch()
    ...     [stage.step for stage in in_order([f"{folder}/ckpt-10.pt", f"{folder}/ckpt-9.pt"])]
    [9, 10]
    """
    named = [(name, file) for given in paths for name, path in [_named(given)] for file in _files(path)]
    if repeated := [path for place, (_, path) in enumerate(named) if path in [other for _, other in named[:place]]]:
        raise InputError(f"the checkpoint {repeated[0]} is given twice")
    named.sort(key=lambda each: _natural(each[1]))
    steps = [_step(path) for _, path in named]
    distinct = None not in steps and len(set(steps)) == len(steps)
    stems = [name or Path(path).name.partition(".")[0] for name, path in named]
    folders = [Path(path).parent.name for _, path in named]  # checkpoint-500/model.safetensors
    tells = len(set(folders)) == len(folders)
    names = [
        stem if stems.count(stem) == 1 else folder if tells and folder else path
        for stem, folder, (_, path) in zip(stems, folders, named, strict=True)
    ]
    return [
        Stage(path, int(step or 0) if distinct else place, name)
        for place, ((_, path), step, name) in enumerate(zip(named, steps, names, strict=True))
    ]


def _named(given: str) -> tuple[str, str]:
    name, separator, path = given.partition("=")
    return (name, path) if separator and not Path(given).exists() and "/" not in name else ("", given)


def _files(path: str) -> list[str]:
    """List the checkpoints that a path stands for."""
    place = Path(path)
    if place.is_file():
        return [path]
    if not place.is_dir():
        raise InputError(f"no such checkpoint: {path}")
    inside = _checkpoints(place) or [
        file for folder in sorted(place.iterdir()) if folder.is_dir() for file in _checkpoints(folder)
    ]
    if not inside:
        raise InputError(f"{path} has no checkpoint: no file name ends with {', '.join(_SUFFIXES)}")
    return [str(file) for file in inside]


def _checkpoints(folder: Path) -> list[Path]:
    """List the files of weights in a folder; an index stands for its shards."""
    found = [
        file
        for file in folder.iterdir()
        if (file.suffix in _SUFFIXES or file.name.endswith(_INDEX)) and not file.stem.startswith(_ASIDE) and file.is_file()
    ]
    return sorted(file for file in found if not re.search(r"-\d+-of-\d+$", file.stem))


def _natural(path: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", path) if part]


def _step(path: str) -> int | None:
    """Find the last number in the name of a file, or of its folder: checkpoint-500/model.safetensors."""
    for name in (Path(path).name.partition(".")[0], Path(path).parent.name):
        if numbers := re.findall(r"\d+", name):
            return int(numbers[-1])
    return None
