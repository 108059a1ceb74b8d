"""torchvision data sets on disk: `torchvision:FashionMNIST(root='data')`."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.data.columns import fingerprint, gaps, number_rows
from embedscope.data.dataset import Dataset
from embedscope.data.folder import names_and_sizes, read_image
from embedscope.data.walking import is_hidden
from embedscope.errors import InputError, UsageError, unknown
from embedscope.plugins import imported
from embedscope.store.labels import encode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from PIL.Image import Image

# Where torchvision's classes keep the labels, or pairs of file and label.
_LABELS = ("targets", "labels", "_labels", "_samples", "samples")
_FILES = ("_samples", "samples", "_image_files", "_images", "images")
_TRANSFORMS = ("transform", "target_transform", "transforms")


@dataclass(frozen=True)
class FirstItems:
    """Inputs of torchvision data sets, one after the other, unchanged."""

    parts: tuple[Any, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> Any:
        place = index
        for part in self.parts:
            if 0 <= place < len(part):
                try:
                    return part[place][0]
                except Exception as error:  # untrusted bytes: every decoder fails in its own way
                    raise InputError(f"cannot read row {place} of {type(part).__name__}: {error}") from error
            place -= len(part)
        raise IndexError(index)


def torchvision(location: str, **options: Any) -> Dataset:
    """Open a torchvision.datasets class with its own options, such as root and split.

    Nothing is downloaded but with download=True. A class with train=True or False gives both, if neither is asked for. Class
    names are those that it has, otherwise the label numbers. UsageError for a class or an option that there is not, InputError
    for data that are not there or have other targets than a class a row.
    """
    library = imported("torchvision.datasets", extra="vision")
    base = library.VisionDataset
    known = {name: value for name, value in vars(library).items() if inspect.isclass(value) and issubclass(value, base)}
    del known["VisionDataset"]
    if location not in known:
        raise UsageError(unknown("data set", location, sorted(known), place="torchvision"))
    parameters = _parameters(known[location])
    _check_options(location, parameters, options)
    if "download" in parameters:  # some classes would, unless they are told not to
        options = {"download": False, **options}
    calls = {"": options}
    if "train" in parameters and not {"train", "what"} & options.keys():  # QMNIST's what stands for train
        calls = {"train": {**options, "train": True}, "test": {**options, "train": False}}
    parts = {split: _opened(location, known[location], call) for split, call in calls.items()}
    labels = [value for part in parts.values() for value in _targets(location, part)]
    class_names, codes = _encode(location, next(iter(parts.values())), labels)
    ids, split = number_rows({name: len(part) for name, part in parts.items()})
    return Dataset(
        inputs=FirstItems(tuple(parts.values())),
        labels=codes,
        class_names=class_names,
        ids=ids,
        split=split,
        location=location,
        fingerprint=fingerprint(_contents(location, options, parts, codes)),
        notes=gaps(codes),
    )


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Return a class's parameters by name, including those of base classes that receive its **kwargs."""
    found: dict[str, inspect.Parameter] = {}
    for parent in kind.__mro__:
        own = [value for name, value in inspect.signature(parent.__init__).parameters.items() if name != "self"]  # type: ignore[misc]
        variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        found = {**{value.name: value for value in own if value.kind not in variable}, **found}
        if not any(value.kind is inspect.Parameter.VAR_KEYWORD for value in own):
            break
    return found


def _check_options(location: str, parameters: Mapping[str, inspect.Parameter], options: Mapping[str, Any]) -> None:
    allowed = {name: value for name, value in parameters.items() if name not in _TRANSFORMS}
    for option in options:
        if option in _TRANSFORMS:
            raise UsageError(f"torchvision:{location} takes no {option}: image preparation is set by the model")
        if option not in allowed:
            raise UsageError(unknown("option", option, allowed, place=f"torchvision:{location}"))
    needed = [name for name, value in allowed.items() if value.default is inspect.Parameter.empty and name not in options]
    if needed:
        example = ", ".join(f"{name}=..." for name in needed)
        raise UsageError(f"torchvision:{location} needs {' and '.join(needed)}, as in torchvision:{location}({example})")


def _load(path: str | Path) -> Image:
    """Read an image like torchvision's default loader, except for more than 8 bits, which that loader clips to white."""
    image = read_image(Path(path), str(path))
    return image if image.mode.startswith(("I", "F")) else image.convert("RGB")


def _is_sample(path: str, *, root: Path) -> bool:
    """Return whether a file in a tree is an image and not hidden, nor in a hidden folder."""
    suffixes = imported("torchvision.datasets.folder", extra="vision").IMG_EXTENSIONS
    return path.lower().endswith(suffixes) and not any(map(is_hidden, Path(path).relative_to(root).parts))


def _opened(location: str, kind: type, options: Mapping[str, Any]) -> Any:
    parameters = _parameters(kind)
    if "loader" in parameters:
        options = {"loader": _load, **options}
    if {"is_valid_file", "root"} <= parameters.keys():
        options = {"is_valid_file": functools.partial(_is_sample, root=Path(options["root"]).expanduser()), **options}
    try:
        with contextlib.redirect_stdout(sys.stderr):  # some classes print; stdout is for data
            part = kind(**options)
            count = len(part)
    except Exception as error:  # user files: every class fails in its own way
        reason = " ".join(str(error).split())
        where = f" in root={options['root']!r}" if "root" in options else ""
        raise InputError(f"torchvision:{location} cannot be opened{where}: {type(error).__name__}: {reason}") from error
    if not count:
        raise InputError(f"torchvision:{location} has no rows with {dict(options)}")
    return part


def _targets(location: str, part: Any) -> list[int | None]:
    """Return the labels of all rows, from the class's attributes if possible, otherwise from the rows."""
    for name in _LABELS:
        values = getattr(part, name, None)
        if values is None or len(values) != len(part):
            continue
        if name.endswith("samples"):
            values = [row[1] if isinstance(row, tuple | list) and len(row) == 2 else row for row in values]
        try:
            return [_number(value) for value in (values.tolist() if hasattr(values, "tolist") else values)]
        except (TypeError, ValueError):
            continue
    try:
        return [_number(part[row][1]) for row in range(len(part))]
    except Exception as error:  # untrusted bytes, or targets that are boxes or captions
        raise InputError(f"torchvision:{location} has rows without a class number, or unreadable rows: {error}") from error


def _number(value: Any) -> int | None:
    """Return a label as an integer, or None; TypeError or ValueError for anything else."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if getattr(value, "ndim", None) == 0 and int(value) == value:
        return int(value)
    raise TypeError(f"a target is {type(value).__name__} {str(value)[:40]}, not a class number")


def _encode(location: str, part: Any, labels: list[int | None]) -> tuple[tuple[str, ...], np.ndarray[Any, np.dtype[np.int64]]]:
    index = getattr(part, "class_to_idx", None) or {}
    names = getattr(part, "classes", None) or sorted(index, key=index.__getitem__)
    if not names or max((label for label in labels if label is not None), default=-1) >= len(names):
        return encode(f"torchvision:{location}", "targets", labels)
    texts = [", ".join(name) if isinstance(name, tuple) else str(name) for name in names]  # ImageNet's are synonyms
    distinct = tuple(f"{text} ({place})" if texts.count(text) > 1 else text for place, text in enumerate(texts))
    return distinct, np.array([-1 if label is None else max(label, -1) for label in labels], dtype=np.int64)


def _contents(
    location: str, options: Mapping[str, Any], parts: Mapping[str, Any], codes: np.ndarray[Any, np.dtype[np.int64]]
) -> Iterator[str | np.ndarray[Any, Any]]:
    """Return the parts of the fingerprint: the options, the labels, and the class's arrays or files, if any."""
    yield f"{location} {sorted((name, str(value)) for name, value in options.items() if name not in ('root', 'download'))}"
    yield codes
    for split, part in parts.items():
        yield f"{split} {len(part)}"
        data = getattr(part, "data", None)
        if hasattr(data, "numpy") or isinstance(data, np.ndarray):
            yield np.asarray(data)
        for name in _FILES:
            entries = getattr(part, name, None)
            if not isinstance(entries, list | tuple) or len(entries) != len(part):
                continue
            paths = [entry[0] if isinstance(entry, tuple | list) else entry for entry in entries]
            if all(isinstance(path, str | Path) and Path(path).is_file() for path in paths):
                files = [Path(path) for path in paths]
                yield from names_and_sizes([file.name for file in files], files)
                break
