"""Class folders: `root/<class>/<image>`, or `root/<split>/<class>/<image>`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedscope.data import data_source
from embedscope.errors import InputError
from embedscope.records import Dataset

if TYPE_CHECKING:
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
        from PIL import Image

        try:
            with Image.open(self.paths[index]) as image:
                image.load()
                return image.copy()
        except Exception as error:  # a stranger's bytes: every decoder fails in ways of its own
            raise InputError(f"cannot read the image {self.paths[index]}: {error}") from error


@data_source(recognises=Path.is_dir)
def folder(location: str) -> Dataset:
    """Open a tree of class folders, in sorted order; ids are paths relative to the root.

    The folders under the root are classes; or splits, if all of them are called train, val, test or the like. Files that are
    no images are passed over. InputError for a tree without images.
    """
    root = Path(location)
    top = _folders(root)
    splits = bool(top) and all(path.name.lower() in SPLITS for path in top)
    class_folders = [inner for outer in top for inner in _folders(outer)] if splits else top
    class_names = tuple(sorted({_text(path.name) for path in class_folders}))
    files: list[Path] = []
    labels: list[int] = []
    for path in class_folders:
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        files += found
        labels += [class_names.index(_text(path.name))] * len(found)
    if not files:
        raise InputError(f"{location} has no images in class folders, as in {root / 'cat' / 'one.png'}")
    ids = tuple(_text(file.relative_to(root).as_posix()) for file in files)
    digest = hashlib.sha256()
    for name, file in zip(ids, files, strict=True):
        digest.update(f"{name}\0{file.stat().st_size}\0".encode())
    return Dataset(
        inputs=ImageFiles(tuple(files)),
        labels=np.array(labels, dtype=np.int64),
        class_names=class_names,
        ids=ids,
        split=tuple(name.split("/")[0].lower() for name in ids) if splits else None,
        location=location,
        fingerprint=digest.hexdigest(),
    )


def _text(name: str) -> str:
    """Write the bytes of a file name that are no UTF-8 as escapes, so that an id is text."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
