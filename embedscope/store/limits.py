"""What a file may take of the memory, checked before it is read: what it declares may be far more than it holds."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from embedscope.devices import free_memory
from embedscope.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection

# Deflate makes nothing smaller than by this factor: a size that promises more is wrong.
DEFLATE = 1032
# More than this many bytes that unpack from less than a 200th were made to fill memory rather than to be measured.
_WORTH_A_LOOK = 2**30
_SUSPICIOUS = 200


def check_size(path: str, what: str, size: int, *, packed: int | None = None) -> None:
    """Raise InputError if reading `size` bytes at once would take more than half of the memory that is free.

    With `packed`, the bytes they take in the file, likewise for more than 1 GiB that unpacks to 200 times as much.
    """
    if packed is not None and size > max(_WORTH_A_LOOK, packed * _SUSPICIOUS):
        raise InputError(
            f"{path}: {what} unpacks from {packed:,} to {size:,} bytes, like a decompression bomb; if the file is "
            f"genuine, give it as X.npy,y.npy, which are not compressed"
        )
    budget = free_memory(torch.device("cpu")) // 2
    if size > budget:
        raise InputError(
            f"{path}: {what} would take {size:,} bytes of memory, but half of the free memory is {budget:,}; if the file "
            f"is genuine, use a larger machine or a feature store (.h5), which is read in parts"
        )


def check_not_empty(path: str | Path) -> None:
    """Raise InputError for a file of 0 bytes, such as a run that was stopped or a full disk leaves behind."""
    if Path(path).is_file() and not Path(path).stat().st_size:
        raise InputError(f"{path} is empty: it has 0 bytes")


def check_archive(path: str, members: Collection[str] | None = None) -> None:
    """Raise InputError for a zip archive of which the members, or all, declare more than they can hold or memory has."""
    with zipfile.ZipFile(path) as archive:
        total = packed = 0
        for entry in archive.infolist():
            if members is not None and entry.filename not in members:
                continue
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(f"{path}: {entry.filename} uses a compression that NumPy and torch do not write")
            most = entry.compress_size * (1 if entry.compress_type == zipfile.ZIP_STORED else DEFLATE)
            if entry.file_size > most:
                raise InputError(
                    f"{path}: {entry.filename} declares {entry.file_size:,} bytes, more than {entry.compress_size:,} "
                    f"compressed bytes can hold; it is damaged"
                )
            total += entry.file_size
            packed += entry.compress_size
        check_size(path, "what it holds", total, packed=packed)


def repeated(names: Collection[Any]) -> Any:
    """Return a name that is there more than once, or None."""
    seen: set[Any] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
