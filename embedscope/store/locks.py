"""A lock beside an output: `NAME.lock` says which process writes it, whatever locks the file system or HDF5 have.

It names host, process and when that process started, so that the lock of a process that was killed is recognized and taken
over. The lock of another machine cannot be checked; it counts as left behind once it was not refreshed for an hour.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedscope.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A writer refreshes its lock with every block, at least every 20 seconds or so.
_ABANDONED = 3600.0

_TRIES = 100


@dataclass(frozen=True)
class Holder:
    """The process that writes an output.

    Attributes:
        host: its machine.
        pid: its number there.
        started: when it started, in the kernel's clock ticks since boot; None where that is not known.
        where: boot and process namespace that the number belongs to, or None likewise.
        token: tells one lock from another.
    """

    host: str
    pid: int
    started: int | None
    where: str | None
    token: str

    def __str__(self) -> str:
        """`pid P on HOST`."""
        return f"pid {self.pid} on {self.host}"


def lock_path(path: Path) -> Path:
    """Where the lock of an output lies."""
    return path.with_name(f"{path.name}.lock")


def other_writer(path: Path) -> Holder | None:
    """Return the other process that writes the output `path` at this moment, or None."""
    found = _read(lock_path(path))
    if found is None or _ended(found, lock_path(path)) or (found.pid, found.where) == (os.getpid(), _where()):
        return None
    return found


@contextmanager
def held(path: Path) -> Iterator[Callable[[], None]]:
    """Hold the lock of the output `path`; call what is given with every block that is written.

    Folders that are missing on the way are made, and removed again if nothing came to lie in them.

    OutputError if another process, or another call in this one, is writing the output; and from the call for a lock that was
    lost to another process.
    """
    path = path.resolve()
    lock = lock_path(path)
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = _myself()
    _acquire(lock, path, mine)

    def refresh() -> None:
        if _read(lock) != mine:
            raise OutputError(f"{path} is being written by another process, which took over {lock}; this one stops")
        os.utime(lock)

    try:
        yield refresh
    finally:
        with contextlib.suppress(OSError):
            if _read(lock) == mine:
                lock.unlink()
            for folder in made:
                folder.rmdir()


def busy(path: Path, holder: Holder) -> str:
    """Word the message for an output that is being written."""
    unsure = "" if holder.where == _where() else f" (if that process has ended, delete {lock_path(path)})"
    return f"{path} is being written by {holder}; wait for it to finish, or choose another name{unsure}"


def _acquire(lock: Path, path: Path, mine: Holder) -> None:
    for _ in range(_TRIES):
        if _made(lock, mine):
            return
        try:
            seen = lock.read_bytes()
        except FileNotFoundError:
            continue
        holder = _parse(seen)
        if holder is None and time.time() - lock.stat().st_mtime < 1:  # between the making of the file and its text
            time.sleep(0.1)
        elif holder is not None and not _ended(holder, lock):
            raise OutputError(busy(path, holder))
        else:
            _take_away(lock, seen)
    raise OutputError(f"{lock} exists and cannot be taken over; delete it if no process is writing {path}")


def _made(lock: Path, mine: Holder) -> bool:
    """Make the lock with its text in one step; False if there is one."""
    text = json.dumps(asdict(mine))
    draft = lock.with_name(f"{lock.name}.{mine.token}")
    try:
        draft.write_text(text, encoding="utf-8")
        try:
            os.link(draft, lock)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            return _made_in_two_steps(lock, text)
    finally:
        draft.unlink(missing_ok=True)
    return True


def _made_in_two_steps(lock: Path, text: str) -> bool:
    try:
        with lock.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def _take_away(lock: Path, seen: bytes) -> None:
    """Remove a lock that was left behind, unless another process has just replaced it by its own."""
    away = lock.with_name(f"{lock.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        lock.rename(away)
        if away.read_bytes() != seen:
            with contextlib.suppress(FileExistsError):
                os.link(away, lock)
        away.unlink()


def _read(lock: Path) -> Holder | None:
    try:
        return _parse(lock.read_bytes())
    except OSError:
        return None


def _parse(text: bytes) -> Holder | None:
    try:
        found = Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None
    return found if isinstance(found.pid, int) and found.pid > 0 else None


def _ended(holder: Holder, lock: Path) -> bool:
    """Whether the process of a lock is known to have ended."""
    here = _where()
    if here is not None and holder.where == here:
        return _started(holder.pid) != holder.started
    if here is None and holder.host == socket.gethostname() and os.name == "posix":
        try:
            os.kill(holder.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
    with contextlib.suppress(OSError):
        return time.time() - lock.stat().st_mtime > _ABANDONED
    return True


def _myself() -> Holder:
    return Holder(socket.gethostname(), os.getpid(), _started(os.getpid()), _where(), uuid.uuid4().hex)


def _where() -> str | None:
    """Boot and process namespace, within which a process number means one process; None where /proc does not say."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> int | None:
    """When a process started, by the kernel's clock; None for one that has ended, or where /proc does not say."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else int(rest[18])
