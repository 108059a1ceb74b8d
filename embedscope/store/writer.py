"""Write a feature store so that what bears its name is always complete, and what was committed is never lost."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from embedscope.errors import EmbedscopeError, InputError, OutputError
from embedscope.store import digests, opening
from embedscope.store.blocks import Blocks
from embedscope.store.files import check_output, partial_path, publish
from embedscope.store.format import LIBVER
from embedscope.store.reader import verify
from embedscope.store.skeleton import Skeleton
from embedscope.store.unfinished import SKIPPED, read_unfinished
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from embedscope.store.provenance import Provenance

    Array = np.ndarray[Any, Any]


class StoreWriter:
    """Writer of a feature store; use as a context manager, and `add` rows in order.

    Labels, ids and provenance are written first, rows as they arrive, in blocks. Leaving the context with all rows added sets
    `complete`, reads everything back, compares it with digests of the input, and renames the file to its final name. On an
    error, the partial file is removed or, if `resumable`, kept if any block was committed and can be read back.

    Callers that may compete for an output hold its lock, see locks.py.

    Args:
        path: of the finished store.
        labels: (N,) int64, -1 for unlabeled.
        class_names: (K,).
        ids: (N,) unique.
        split: (N,) or None.
        provenance: how the rows were made.
        overwrite: replace an existing store; otherwise OutputError, before anything is written.
        most_rows: maximum number of rows per block, if rows take long to compute; None bases it on their size.
        resumable: keep committed rows when an error ends the context.
        resume: continue the existing unfinished store, whose rows, labels and ids must match.
        committed: called after every committed block.

    Attributes:
        rows: declared.
        done: committed rows.

    Raises:
        InputError: ids that are not unique, or text that UTF-8 cannot hold or that is too long for a name.
        OutputError: the output exists, the file system refuses, another process is writing it, or the file does not read back
            as written.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        labels: Array,
        class_names: Sequence[str],
        ids: Sequence[str],
        split: Sequence[str] | None,
        provenance: Provenance,
        overwrite: bool = False,
        most_rows: int | None = None,
        resumable: bool = False,
        resume: bool = False,
        committed: Callable[[], None] | None = None,
    ) -> None:
        self.path = Path(path)
        check_output(self.path, overwrite=overwrite)
        texts = {"class_names": class_names, "ids": ids, "split": split}
        self._skeleton = Skeleton(
            np.asarray(labels, dtype=np.int64),
            {name: list(values) for name, values in texts.items() if values is not None},
            provenance.text(),
        )
        self._skeleton.check()
        self.rows = len(labels)
        self.done = 0
        self._resumable, self._resume, self._most_rows, self._committed = resumable, resume, most_rows, committed
        self._skipped: dict[int, str] = {}
        self._final = self.path.resolve()  # what a symbolic link points to is replaced, not the link
        self._partial = partial_path(self._final)

    def __enter__(self) -> StoreWriter:
        try:
            self._final.parent.mkdir(parents=True, exist_ok=True)
            if not self._resume:
                self._create()
            self._file = h5py.File(self._partial, "r+", libver=LIBVER, locking=opening.LOCKING)
            self._blocks = Blocks(self._file, self.rows, self._most_rows)
            self.done = self._blocks.done
            self._skips = self._file[SKIPPED]
            listed = [each for each in self._skips[:].tolist() if 0 <= each < self._blocks.position]
            self._skips.resize(len(listed), axis=0)
            self._skips[:] = listed
            if self._resume:
                self._skeleton.provenance = str(self._file["provenance"].asstr()[()])  # of the run that began it
                self._skeleton.restore(self._file)
            self._file.flush()
        except (OSError, RuntimeError) as error:
            if opening.is_locked(error):
                raise OutputError(
                    f"{self._partial} is locked by another process that is writing it; wait until it is closed"
                ) from error
            if not self._resume:
                self._remove()
            raise OutputError(f"cannot write {self.path}: {_reason(error)}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.keep()
            return
        try:
            self._finish()
        except (OSError, RuntimeError) as failed:  # HDF5 reports a full disk as either
            raise OutputError(f"cannot write {self.path}: {_reason(failed)}{self._kept()}") from failed
        except BaseException:
            self.keep()
            raise

    def add(
        self,
        features: Mapping[str, Array],
        magnitudes: Mapping[str, Array] | None = None,
        *,
        logits: Array | None = None,
        positions: Sequence[int] | None = None,
    ) -> None:
        """Append the next rows of every layer.

        Args:
            features: layer -> (B, D) float32 or float16.
            magnitudes: layer -> (B, C) float32, for the layers that have any.
            logits: (B, K) float32, if the store keeps them.
            positions: (B,) of the inputs that the rows are of, ascending; None if no input is skipped.
        """
        arrays = {opening.plain(f"features/{layer}"): np.asarray(array) for layer, array in features.items()}
        arrays |= {opening.plain(f"magnitudes/{layer}"): np.asarray(array) for layer, array in (magnitudes or {}).items()}
        if logits is not None:
            arrays["logits"] = np.asarray(logits)
        try:
            self._blocks.add(arrays, positions)
            self._commit()
        except (OSError, RuntimeError) as error:
            raise OutputError(f"cannot write {self.path}: {_reason(error)}{self._kept()}") from error

    def skip(self, position: int, reason: str) -> None:
        """Leave the input at a position out: it could not be read."""
        self._skipped[position] = reason
        if position >= self._blocks.position:
            self._skips.resize(len(self._skips) + 1, axis=0)
            self._skips[-1] = position

    def keep(self) -> int:
        """End here, and return how many rows a run can resume from: they are read again and compared before this is reported.

        The file is removed if there are none, or it is not resumable.
        """
        if self._file:
            self._close()
            kept = None
            if self._resumable and self.done:
                with contextlib.suppress(EmbedscopeError):
                    kept = read_unfinished(self._final)
            self.done = 0 if kept is None else kept.done
            if not self.done:
                self._remove()
        return self.done

    def _create(self) -> None:
        """Write what is known before the first row; the file gets its temporary name when that can be read again."""
        started = self._partial.with_name(self._partial.name + ".new")
        try:
            self._skeleton.create(started)
            _check_unlocked(self._partial)
            started.replace(self._partial)
        finally:
            started.unlink(missing_ok=True)

    def _commit(self) -> None:
        if self._blocks.commit(len(self._skipped)):
            self.done = self._blocks.done
            if self._committed is not None:
                self._committed()

    def _finish(self) -> None:
        rows = self.rows - len(self._skipped)
        self._commit()
        if self.done != rows:
            raise ValueError(f"{self.path}: {rows} rows were declared, but {self.done} were added")
        names = self._blocks.names
        again = sum(len(value) + 64 for values in self._skeleton.texts.values() for value in values) if self._skipped else 0
        self._blocks.reserve(2**16 + 4096 * len(names) + 4 * again)
        if self._skipped:
            self._skeleton.shorten(self._file, self._skipped, names)
        lengths = {name: len(self._file[name]) for name in ("labels", "ids", *names)}
        if set(lengths.values()) != {rows}:
            raise ValueError(f"{self.path}: {rows} rows in total, but {lengths}")
        self._file[digests.GROUP].attrs.update(self._skeleton.without(self._skipped).digests())
        self._file.attrs["complete"] = True
        self._blocks.flush()
        self._file.close()
        try:
            verify(self._partial)
        except InputError as error:
            self._remove()
            raise OutputError(f"{self.path} was removed because it does not read back as written: {error}") from error
        publish(self._partial, self._final)

    def _close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # closing flushes, which a disk may refuse
            self._file.close()

    def _kept(self) -> str:
        """End after a write that failed, and say what is left."""
        if self._file and hasattr(os, "memfd_create"):
            # HDF5 tries again what it could not write, and crashes when the program ends if it cannot. From here on it writes
            # to memory; the file stays as a kill would have left it.
            sink = os.memfd_create("discarded")
            os.dup2(sink, self._file.id.get_vfd_handle())
            os.close(sink)
        done = self.keep()
        return f"; {counted(done, 'row is', 'rows are')} kept; `resume=True` continues from there" if done else ""

    def _remove(self) -> None:
        with contextlib.suppress(OSError):  # its folder cannot be reached, which another error says
            self._partial.unlink(missing_ok=True)


def _check_unlocked(partial: Path) -> None:
    """Raise the error of HDF5 if another process is writing an unfinished store; a damaged one is nobody's."""
    try:
        if partial.exists():
            h5py.File(partial, "r+", locking=opening.LOCKING).close()
    except OSError as error:
        if opening.is_locked(error):
            raise


def _reason(error: BaseException) -> str:
    """What went wrong in few words; HDF5 adds addresses and the time."""
    number = getattr(error, "errno", None)
    text = str(error)
    if number is None and (found := re.search(r"errno = (\d+)", text)):
        number = int(found[1])
    return os.strerror(number) if number else text.partition("\n")[0]
