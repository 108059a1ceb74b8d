"""The contents of a folder tree: images, and entries skipped as hidden, of another kind, or broken links."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from embedscope.errors import InputError
from embedscope.text import decoded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

# Names that systems give to files of their own; anything that begins with a dot is hidden too.
_SYSTEM = frozenset(
    {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
)


@dataclass(frozen=True)
class Found:
    """Results of a walk, as paths relative to its root, each list sorted.

    Attributes:
        images: files that are images by their suffix.
        folders: all folders that were entered.
        others: files of other suffixes.
        hidden: files and folders that are hidden, or a system's own; nothing inside of them was looked at.
        broken: links to nothing, or to a folder that they lie in.
    """

    images: list[PurePath] = field(default_factory=list)
    folders: list[PurePath] = field(default_factory=list)
    others: list[PurePath] = field(default_factory=list)
    hidden: list[PurePath] = field(default_factory=list)
    broken: list[PurePath] = field(default_factory=list)


def walk(root: Path) -> Found:
    """Walk a folder tree, following links; InputError for an unreadable folder."""
    found = Found()
    # Of each folder that is open: its path relative to the root, where it really is, and the entries that are left.
    real = os.path.realpath(root)
    stack = [(PurePath(), real, _entries(root))]
    while stack:
        place, real, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        path = place / entry.name
        if is_hidden(entry.name):
            found.hidden.append(path)
        elif _is_folder(entry):
            real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)
            if any(real == above for _, above, _ in stack):
                found.broken.append(path)
                continue
            found.folders.append(path)
            stack.append((path, real, _entries(Path(entry.path))))
        elif not entry.is_file():
            (found.broken if entry.is_symlink() else found.others).append(path)
        else:
            (found.images if path.suffix.lower() in SUFFIXES else found.others).append(path)
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link into what may not be read
        raise InputError(f"{decoded(entry.path)} cannot be read: {error.strerror}") from error


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return iter(sorted(entries, key=lambda entry: entry.name))
    except OSError as error:
        raise InputError(f"{decoded(str(folder))} cannot be read: {error.strerror}") from error


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden or a system file, by its name."""
    return name.startswith(".") or name.lower() in _SYSTEM


def listed(paths: Sequence[PurePath | str], most: int = 3) -> str:
    """Return the first few paths as text."""
    return ", ".join(decoded(str(path)) for path in paths[:most]) + (", ..." if len(paths) > most else "")


def left_out(found: Found) -> tuple[str, ...]:
    """Return notes on what a walk skipped: counts and first names."""
    kinds = Counter(path.suffix.lower() or "without a suffix" for path in found.others)
    suffixes = ", ".join(f"{decoded(suffix)}: {count}" for suffix, count in kinds.most_common(5))
    counted = (
        (found.hidden, "hidden or system files and folders", ""),
        (found.others, "files that are not images", f"; {suffixes}"),
        (found.broken, "broken links", ""),
    )
    return tuple(f"left out: {what} ({len(paths)}{kinds}): {listed(paths)}" for paths, what, kinds in counted if paths)
