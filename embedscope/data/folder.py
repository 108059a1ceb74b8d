"""Class folders: `root/<class>/<image>`, or `root/<split>/<class>/<image>`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from embedscope.data.columns import fingerprint
from embedscope.data.dataset import Dataset
from embedscope.data.hf import is_saved
from embedscope.data.idx import holds_idx
from embedscope.errors import InputError
from embedscope.plugins import recognises

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL.Image import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})


@dataclass(frozen=True)
class ImageFiles:
    """Images that are decoded when they are asked for."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        path = self.paths[index]
        return read_image(path, str(path))


def read_image(source: Path | IO[bytes], name: str) -> Image:
    """Decode an image; InputError with its name if that fails, or if it has more pixels than Pillow takes for safe."""
    from PIL import Image

    try:
        with Image.open(source) as image:
            image.load()
            return image.copy()
    except Exception as error:  # a stranger's bytes: every decoder fails in ways of its own
        raise InputError(f"cannot read the image {name}: {error}") from error


def names_and_sizes(names: Sequence[str], files: Sequence[Path]) -> Iterator[str]:
    """Give what the fingerprint of files is made of: their names and sizes in bytes, in order."""
    for name, file in zip(names, files, strict=True):
        yield name
        yield str(file.stat().st_size)


def _may_be_tree(path: Path) -> bool:
    return path.is_dir() and not holds_idx(path) and not is_saved(path)


@recognises(_may_be_tree)
def folder(location: str) -> Dataset:
    """Open a tree of class folders, in sorted order; ids are paths relative to the root.

    The folders under the root are classes; or splits, if all of them are called train, val, test or the like. Files that are
    no images are passed over. A class without images stays a class, and a note says so. InputError for a tree without images.
    """
    root = Path(location)
    if not root.is_dir():
        raise InputError(f"{location} is no folder; expected one of class folders, as in {root / 'cat' / 'one.png'}")
    top = _folders(root)
    splits = bool(top) and all(path.name.lower() in SPLITS for path in top)
    class_folders = [inner for outer in top for inner in _folders(outer)] if splits else top
    class_names = tuple(sorted({_text(path.name) for path in class_folders}))
    files: list[Path] = []
    labels: list[int] = []
    for path in class_folders:
        found = sorted(file for file in path.rglob("*") if _is_image(file))
        files += found
        labels += [class_names.index(_text(path.name))] * len(found)
    if not files:
        reason = "has no images in class folders"
        if any(map(_is_image, root.iterdir())):
            reason = "holds images itself, and no class folders with images"
        raise InputError(
            f"{location} {reason}; put the images of a class into a folder of its name, as in {root / 'cat' / 'one.png'}, or "
            "list them in a .csv with the columns path and label"
        )
    ids = tuple(_text(file.relative_to(root).as_posix()) for file in files)
    return Dataset(
        inputs=ImageFiles(tuple(files)),
        labels=np.array(labels, dtype=np.int64),
        class_names=class_names,
        ids=ids,
        split=tuple(name.split("/")[0].lower() for name in ids) if splits else None,
        location=location,
        fingerprint=fingerprint(names_and_sizes(ids, files)),
        notes=_empty_classes(class_names, set(labels)),
    )


def _empty_classes(class_names: Sequence[str], used: set[int]) -> tuple[str, ...]:
    empty = [name for index, name in enumerate(class_names) if index not in used]
    listed = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
    return (f"{len(empty)} of {len(class_names)} class folders have no images: {listed}",) if empty else ()


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and file.is_file()


def _text(name: str) -> str:
    """Write the bytes of a file name that are no UTF-8 as escapes, so that an id is text."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
