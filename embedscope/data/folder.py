"""Class folders: `root/<class>/<image>`, or `root/<split>/<class>/<image>`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING

import numpy as np

from embedscope.data.columns import fingerprint
from embedscope.data.dataset import Dataset
from embedscope.data.hf import is_saved
from embedscope.data.idx import holds_idx
from embedscope.data.walking import left_out, listed, walk
from embedscope.errors import InputError, UsageError, unknown
from embedscope.plugins import recognises
from embedscope.text import decoded

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from PIL.Image import Image

# How folders of a split are called: the name that is recorded, and what may follow it, as in training_set.
_SPLIT = re.compile(r"(train|training|val|valid|validation|dev|test|testing)(?:[-_ ]?(?:set|data|split))?", re.IGNORECASE)
# Folders that hold the images of all classes, as a rule.
_CONTAINERS = frozenset({"images", "image", "imgs", "img", "jpegimages"})
# How Pillow says that a file has 16 bits per channel, and the modes that hold 8 of them.
_SIXTEEN_BITS = re.compile(r";16")
_EIGHT_BITS = frozenset({"RGB", "RGBA", "RGBX", "CMYK", "LA", "L"})


@dataclass(frozen=True)
class ImageFiles:
    """Images that are decoded on access."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        path = self.paths[index]
        return read_image(path, decoded(str(path)))


def read_image(source: Path | IO[bytes], name: str) -> Image:
    """Decode an image; InputError with its name if that fails, or if it exceeds Pillow's safe number of pixels."""
    from PIL import Image

    try:
        with Image.open(source) as image:
            if any(_SIXTEEN_BITS.search(str(tile[3])) for tile in image.tile) and image.mode in _EIGHT_BITS:
                raise InputError(
                    f"the image {name} has several 16-bit channels, which Pillow reads as 8 bits; save it with 8 bits"
                )
            image.load()
            return image.copy()
    except InputError:
        raise
    except Exception as error:  # untrusted bytes: every decoder fails in its own way
        raise InputError(f"cannot read the image {name}: {decoded(str(error))}") from error


def names_and_sizes(names: Sequence[str], files: Sequence[Path]) -> Iterator[str]:
    """Return the parts of the fingerprint of files: their names and sizes in bytes, in order."""
    for name, file in zip(names, files, strict=True):
        yield name
        yield str(file.stat().st_size)


def _may_be_tree(path: Path) -> bool:
    return path.is_dir() and not holds_idx(path) and not is_saved(path)


@recognises(_may_be_tree)
def folder(location: str, *, splits: Sequence[str] | None = None, exclude: Sequence[str] | None = None) -> Dataset:
    """Open a tree of class folders; ids are paths relative to the root.

    Files are in sorted order.

    The folders under the root are classes; or splits, if folders called train, val, test or the like (training_set, ...) hold
    class folders. Hidden files, files that are not images, broken links, images outside of class folders, and folders beside
    the splits that hold no images are left out, and notes count them. A class folder without images stays a class.

    Args:
        location: the root.
        splits: which folders under the root are splits, the others being left out; [] for none, so that all are classes.
        exclude: names of folders that are not classes; [] says that all are, whatever they are called.

    Raises:
        InputError: a tree without images in class folders, or one that can be understood in several ways.
        UsageError: options that are not lists of names.
    """
    root, shown = Path(location), decoded(location)
    if not root.is_dir():
        raise InputError(f"{shown} is not a folder; expected a folder of class folders, as in {Path(shown, 'cat', 'one.png')}")
    for option, value in (("splits", splits), ("exclude", exclude)):
        if value is not None and not (isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)):
            raise UsageError(f"{option} must be a list of folder names, as in {shown}({option}=['test']), got {value!r}")
    found = walk(root)
    excluded = frozenset(exclude or ())
    tops = [path.name for path in found.folders if len(path.parts) == 1 and path.name not in excluded]
    images = [path for path in found.images if not excluded & set(path.parts[:2])]
    chosen = _splits(shown, tops, images) if splits is None else _given(shown, tops, splits)
    depth = 1 if chosen else 0  # of class folders
    inside = [path for path in images if len(path.parts) > depth + 1 and (not chosen or path.parts[0] in chosen)]
    classes = {
        path.name
        for path in found.folders
        if len(path.parts) == depth + 1 and (not chosen or path.parts[0] in chosen) and path.name not in excluded
    }
    if not inside:
        raise InputError(
            f"{shown} {_lacking(images, chosen)}; put the images of each class into a folder named after it, as in "
            f"{Path(shown, 'cat', 'one.png')}, or list them in a .csv with the columns path and label"
        )
    if exclude is None:
        _check_classes(shown, inside, depth)
    names = tuple(sorted(map(decoded, classes)))
    index = {name: place for place, name in enumerate(names)}
    labels = np.array([index[decoded(path.parts[depth])] for path in inside], dtype=np.int64)
    files = tuple(root / path for path in inside)
    ids = tuple(decoded(path.as_posix()) for path in inside)
    kept = set(inside)
    outside = [path for path in found.images if path not in kept]
    notes = left_out(found)
    if outside:
        notes += (f"left out: images outside the class folders ({len(outside)}): {listed(outside)}",)
    if beside := [name for name in tops if chosen and name not in chosen]:
        notes += (f"left out: folders next to the splits ({len(beside)}): {listed(beside)}",)
    return Dataset(
        inputs=ImageFiles(files),
        labels=labels,
        class_names=names,
        ids=ids,
        split=tuple(_split_name(path.parts[0]) for path in inside) if chosen else None,
        location=location,
        fingerprint=fingerprint(names_and_sizes(ids, files)),
        notes=_empty_classes(names, set(labels.tolist())) + notes,
    )


def _splits(location: str, tops: Sequence[str], images: Sequence[PurePath]) -> list[str]:
    """Return the folders under the root that are splits; InputError if other folders with images remain."""
    known = [name for name in tops if _SPLIT.fullmatch(name)]
    with_classes = {path.parts[0] for path in images if len(path.parts) > 2}
    if not with_classes.intersection(known):  # images of a class called "train", say; or nothing but splits without classes
        return known if len(known) == len(tops) else []
    holding = {path.parts[0] for path in images if len(path.parts) > 1}
    others = [name for name in tops if name in holding and name not in known]
    if others:
        raise InputError(
            f"{location} has folders named like splits ({listed(known)}) next to others with images ({listed(others)}); "
            f"name the splits, as in {location}(splits={known}), or {location}(splits=[]) if all are classes"
        )
    return known


def _given(location: str, tops: Sequence[str], splits: Sequence[str]) -> list[str]:
    for name in splits:
        if name not in tops:
            raise InputError(unknown("folder", name, tops, place=location))
    return list(splits)


def _split_name(folder: str) -> str:
    """Return the recorded name of a split folder, such as training for Training_Set."""
    match = _SPLIT.fullmatch(folder)
    return decoded(match[1] if match else folder).lower()


def _lacking(images: Sequence[PurePath], splits: Collection[str]) -> str:
    if any(path.parts[0] in splits for path in images):
        return f"has images directly in the splits {listed(sorted(splits))}, without class folders"
    if any(len(path.parts) == 1 for path in images):
        return "contains images directly, but no class folders with images"
    return "has no images in class folders"


def _check_classes(location: str, images: Sequence[PurePath], depth: int) -> None:
    """Raise InputError if a folder with all classes would become a class."""
    first = {path.parts[0] for path in images}
    below = {path.parts[1] for path in images if len(path.parts) > 2}
    if depth == 0 and len(first) == 1 and len(below) > 1 and all(len(path.parts) > 2 for path in images):
        raise InputError(
            f"{location} has a single class folder, and all images are in its subfolders; give "
            f"{Path(location, decoded(first.pop()))}, or {location}(exclude=[]) if that is the only class"
        )
    inner = {name: {path.parts[1] for path in images if path.parts[0] == name and len(path.parts) > 2} for name in first}
    if depth == 0 and len(first) > 1 and len(below) > 1 and all(names == below for names in inner.values()):
        tops = sorted(map(decoded, first))
        raise InputError(
            f"{location}: {listed(tops)} contain the same folders ({listed(sorted(below))}) as if they were splits; name "
            f"the splits, as in {location}(splits={tops[:5]}), or {location}(exclude=[]) if these are classes"
        )
    for path in images:
        if path.parts[depth].lower() in _CONTAINERS:
            name = decoded(path.parts[depth])
            raise InputError(
                f"{Path(location, *map(decoded, path.parts[: depth + 1]))} is named like a folder of all images, not like "
                f"a class; exclude it with {location}(exclude=['{name}']), or keep all folders as classes with "
                f"{location}(exclude=[])"
            )


def _empty_classes(class_names: Sequence[str], used: set[int]) -> tuple[str, ...]:
    empty = [name for index, name in enumerate(class_names) if index not in used]
    return (f"{len(empty)} of {len(class_names)} class folders have no images: {listed(empty, 5)}",) if empty else ()
