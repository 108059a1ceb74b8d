"""Outputs: refused before any work if they may not be written, and named only when they are complete."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from embedscope.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def partial_path(path: Path) -> Path:
    """Where an output lies while it is being written: beside its final place, so that renaming is atomic."""
    return path.with_name(path.name + ".partial")


def publish(written: Path, path: Path) -> None:
    """Give a file that is complete its name, and have both on the disk before returning."""
    with written.open("r+b") as stream:
        os.fsync(stream.fileno())
    written.replace(path)
    if os.name == "posix":  # elsewhere a directory cannot be opened, and the file system sees to it
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def allot(descriptor: int, start: int, size: int) -> None:
    """Have the file system set `size` bytes aside from `start` on, if it can; OSError if there is no room for them."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, start, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # a file system that cannot
            raise


def check_output(path: Path, *, overwrite: bool, inputs: Iterable[str | Path | None] = ()) -> None:
    """Raise OutputError if something of that name is there and may not be replaced, or is one of the inputs."""
    try:
        if path.is_dir():
            raise OutputError(f"output {path} is a folder; give a file name")
        if not path.exists():
            check_place(path)
            return
        if not path.is_file():
            raise OutputError(f"output {path} is a pipe or a device; give a file name")
        for given in inputs:
            if given is not None and Path(given).exists() and path.samefile(given):
                raise OutputError(f"output {path} is the input {given}; choose another name")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    if not overwrite:
        raise OutputError(f"output {path} exists; choose another name or pass `overwrite=True`")


def check_place(path: Path) -> None:
    """Raise OutputError if a file or a folder of that name could not be made: its parent is not a writable folder."""
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OutputError(f"cannot write {path}: {parent} is not a writable folder")


@contextmanager
def finished(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, which takes the place of `path` on leaving; an error leaves nothing behind.

    Each writer has a temporary path of its own, so that two which write the same output do not mix: the later one stays.
    OutputError for whatever the file system refuses.
    """
    path = path.resolve()  # what a symbolic link points to is replaced, not the link
    partial = path.with_name(f"{path.name[:50]}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        publish(partial, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # its folder cannot be reached, which the error above says
            partial.unlink(missing_ok=True)
