"""What lies below a folder: images, and what is left out because it is hidden, of another kind, or a broken link."""

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
    """What a walk met, as paths relative to where it began, each list in order.

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
    """Look through a folder and all below it, links to folders included; InputError for one that cannot be read."""
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
        elif entry.is_dir():
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


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return iter(sorted(entries, key=lambda entry: entry.name))
    except OSError as error:
        raise InputError(f"{decoded(str(folder))} cannot be read: {error.strerror}") from error


def is_hidden(name: str) -> bool:
    """Whether a file or a folder is hidden, or a system's own, by its name."""
    return name.startswith(".") or name.lower() in _SYSTEM


def listed(paths: Sequence[PurePath | str], most: int = 3) -> str:
    """Name the first of several paths."""
    return ", ".join(decoded(str(path)) for path in paths[:most]) + (", ..." if len(paths) > most else "")


def left_out(found: Found) -> tuple[str, ...]:
    """Say in sentences what a walk left out, how much of each, and the first names."""
    kinds = Counter(path.suffix.lower() or "without a suffix" for path in found.others)
    suffixes = ", ".join(f"{decoded(suffix)}: {count}" for suffix, count in kinds.most_common(5))
    counted = (
        (found.hidden, "hidden or system files and folders", ""),
        (found.others, "files that are not images", f"; {suffixes}"),
        (found.broken, "broken links", ""),
    )
    return tuple(f"left out: {what} ({len(paths)}{kinds}): {listed(paths)}" for paths, what, kinds in counted if paths)
