"""Write a feature store so that what bears its name is always complete, and what was committed is never lost."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from embedscope.errors import InputError, OutputError
from embedscope.store.files import check_output, partial_path, publish
from embedscope.store.format import SCHEMA, SCHEMA_VERSION, block_rows, chunk_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    Array = np.ndarray[Any, Any]

_TEXT = h5py.string_dtype("utf-8")
_DONE = "rows/done"
_HELD = "{} is being written by another process; wait for it, or choose another name"
_COMMITTED = "rows/committed"
_ANNOUNCED = "rows/announced"
_SKIPPED = "rows/skipped"


@dataclass(frozen=True)
class Unfinished:
    """What an unfinished store holds.

    Attributes:
        path: of the file, `NAME.partial`.
        rows: announced.
        done: committed.
        position: of the first input that is neither a committed row nor skipped before one.
        skipped: positions, below that, of inputs that could not be read.
        provenance: as it was written at the start.
    """

    path: Path
    rows: int
    done: int
    position: int
    skipped: tuple[int, ...]
    provenance: Mapping[str, Any]


def read_unfinished(path: Path) -> Unfinished | None:
    """Read what an interrupted run left of the store `path`, or None if there is nothing.

    OutputError if another process is writing it, or it is damaged.
    """
    partial = partial_path(path.resolve())
    if not partial.exists():
        return None
    try:
        with h5py.File(partial, "r") as file:
            done, position = (int(number) for number in file[_COMMITTED][:])
            # What lies beyond belongs to rows that were not committed, and may be readable the next time.
            skipped = sorted({int(each) for each in file[_SKIPPED][:] if 0 <= each < position})
            if position - len(skipped) != done:
                raise ValueError(f"{done} rows are committed of {position} inputs with {len(skipped)} skipped")
            return Unfinished(
                path=partial,
                rows=int(file[_ANNOUNCED][()]),
                done=done,
                position=position,
                skipped=tuple(skipped),
                provenance=json.loads(file["provenance"].asstr()[()]),
            )
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if _is_locked(error):
            raise OutputError(_HELD.format(partial)) from error
        reason = str(error).partition("\n")[0]
        raise OutputError(
            f"{partial} is damaged and cannot be resumed ({reason}); `overwrite=True` without `resume=True` starts again"
        ) from error


class StoreWriter:
    """A store in the making; use as a context manager, and `add` rows in order.

    Labels, ids and provenance are written at once, rows as they come, by blocks. Leaving the context with all rows added checks
    the file, sets `complete` and gives it its name. Leaving it on an error removes what was written; or, where `resumable`,
    keeps it if any block was committed.

    Args:
        path: of the finished store.
        labels: (N,) int64, -1 for unlabelled.
        class_names: (K,).
        ids: (N,) unique.
        split: (N,) or None.
        provenance: anything that JSON can hold.
        overwrite: replace a store of that name; otherwise OutputError, before anything is written.
        most_rows: that may be committed at once, where rows take long to compute; None leaves it to their size.
        resumable: keep what was committed when an error ends the context.
        resume: go on with the unfinished store that is there, whose rows, labels and ids have to be these.

    Attributes:
        done: rows that are committed.

    Raises:
        InputError: ids that are not unique, or text that UTF-8 cannot hold.
        OutputError: the output exists, the file system refuses, or another process is writing it.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        labels: Array,
        class_names: Sequence[str],
        ids: Sequence[str],
        split: Sequence[str] | None,
        provenance: Mapping[str, Any],
        overwrite: bool = False,
        most_rows: int | None = None,
        resumable: bool = False,
        resume: bool = False,
    ) -> None:
        self.path = Path(path)
        check_output(self.path, overwrite=overwrite)
        distinct = len(set(ids))
        if distinct != len(labels) or len(ids) != len(labels):
            raise InputError(f"ids have to be unique, one a row: {distinct} distinct ids for {len(labels)} rows")
        texts = {"class_names": class_names, "ids": ids, "split": split}
        for name, values in texts.items():
            for value in values if values is not None else ():
                if "\0" in value or not _encodable(value):
                    raise InputError(f"{name} hold {value!r}, which a store cannot: text has to be UTF-8 without NUL")
        self.rows = len(labels)
        self.done = 0
        self._labels = np.asarray(labels, dtype=np.int64)
        self._texts = {name: values for name, values in texts.items() if values is not None}
        self._provenance = json.dumps(provenance)
        self._resumable, self._resume, self._most_rows = resumable, resume, most_rows
        self._position = 0
        self._positions: list[int] = []
        self._pending: dict[str, list[Array]] = {}
        self._waiting = 0
        self._block = 0
        self._skipped: dict[int, str] = {}
        self._final = self.path.resolve()  # what a symbolic link points to is replaced, not the link
        self._partial = partial_path(self._final)

    def __enter__(self) -> StoreWriter:
        try:
            self._final.parent.mkdir(parents=True, exist_ok=True)
            if not self._resume:
                self._create()
            self._file = h5py.File(self._partial, "r+")
            self.done, self._position = (int(number) for number in self._file[_COMMITTED][:])
            self._listed = [each for each in self._file[_SKIPPED][:].tolist() if 0 <= each < self._position]
            self._file[_SKIPPED].resize(len(self._listed), axis=0)
            self._file[_SKIPPED][:] = self._listed
            if self._resume:
                self._undo_leaving_out()
        except (OSError, RuntimeError) as error:
            if _is_locked(error):
                raise OutputError(_HELD.format(self._partial)) from error
            if not self._resume:
                self._remove()
            raise OutputError(f"cannot write {self.path}: {error}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._finish()
        except BaseException as failed:
            self._abandon()
            if isinstance(failed, OSError | RuntimeError):  # HDF5 reports a full disk as either
                raise OutputError(f"cannot write {self.path}: {failed}{self._kept()}") from failed
            raise
        if error is not None:
            self._abandon()

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
            logits: (B, K) float32, where the store keeps them.
            positions: (B,) of the inputs that the rows are of, ascending; None where no input is skipped.
        """
        arrays = {f"features/{layer}": np.asarray(array) for layer, array in features.items()}
        arrays |= {f"magnitudes/{layer}": np.asarray(array) for layer, array in (magnitudes or {}).items()}
        if logits is not None:
            arrays["logits"] = np.asarray(logits)
        try:
            if not self._block:
                self._prepare(arrays)
            for name, array in arrays.items():
                self._pending[name].append(array)
            count = len(next(iter(arrays.values())))
            start = self.done + self._waiting
            self._positions += range(start, start + count) if positions is None else positions
            self._waiting += count
            self._commit()
        except (OSError, RuntimeError) as error:
            raise OutputError(f"cannot write {self.path}: {error}{self._kept()}") from error

    def skip(self, position: int, reason: str) -> None:
        """Leave the input at a position out: it could not be read."""
        self._skipped[position] = reason
        if position >= self._position:
            stored = self._file[_SKIPPED]
            stored.resize(len(stored) + 1, axis=0)
            stored[-1] = position

    def _create(self) -> None:
        """Write what is known before the first row; the file gets its temporary name when that can be read again."""
        started = self._partial.with_name(self._partial.name + ".new")
        try:
            with h5py.File(started, "w") as file:
                file.attrs.update(schema=SCHEMA, schema_version=SCHEMA_VERSION, complete=False)
                file["labels"] = self._labels
                for name, values in self._texts.items():
                    _write_texts(file, name, values)
                file.create_dataset("provenance", data=self._provenance, dtype=_TEXT)
                file[_ANNOUNCED] = np.int64(self.rows)
                file[_DONE] = np.int64(0)
                file[_COMMITTED] = np.zeros(2, dtype=np.int64)
                file.create_dataset(_SKIPPED, shape=(0,), maxshape=(None,), dtype=np.int64, chunks=(1024,), fillvalue=-1)
            _check_unlocked(self._partial)
            started.replace(self._partial)
        finally:
            started.unlink(missing_ok=True)

    def _prepare(self, arrays: Mapping[str, Array]) -> None:
        """Make a dataset an array, or check that those of an unfinished store are like them."""
        self._block = block_rows(sum(array.shape[1] * array.dtype.itemsize for array in arrays.values()), self._most_rows)
        for name, array in arrays.items():
            width = array.shape[1]
            if self.done and (name not in self._file or self._file[name].shape[1:] != (width,)):
                raise InputError(
                    f"{self._partial} has no /{name} {width} wide to go on with; pass `overwrite=True` to start again"
                )
            if not self.done:
                if name in self._file:
                    del self._file[name]
                rows = min(chunk_rows(width, array.dtype.itemsize), self._block, max(self.rows, 1))
                self._file.create_dataset(name, (self.rows, width), array.dtype, chunks=(rows, width), fletcher32=True)
            self._pending[name] = []
        if self.done:
            self._drop_uncommitted(list(arrays))

    def _drop_uncommitted(self, names: Sequence[str]) -> None:
        """Forget what a killed run wrote beyond its last block: a short last chunk would be read before it is written again."""
        self._block = max(int(self._file[name].chunks[0]) for name in names)  # all are powers of two, or the whole
        for name in names:
            if self.done % self._file[name].chunks[0] == 0:
                self._file[name].resize(self.done, axis=0)
                self._file[name].resize(self.rows, axis=0)

    def _commit(self) -> None:
        """Write the blocks that are full, and the last one when no more rows can come: rows, flush, counter, flush."""
        last = self.done + self._waiting + len(self._skipped) >= self.rows
        whole = self._waiting if last else self._waiting - self._waiting % self._block
        if not whole:
            return
        for name, blocks in self._pending.items():
            rows = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
            self._file[name][self.done : self.done + whole] = rows[:whole]
            self._pending[name] = [rows[whole:].copy()]
        self._file.flush()
        self.done += whole
        self._waiting -= whole
        self._position = self._positions[whole - 1] + 1
        self._positions = self._positions[whole:]
        self._file[_COMMITTED][...] = (self.done, self._position)  # both in one write, so that no kill parts them
        self._file[_DONE][()] = self.done
        self._file.flush()

    def _finish(self) -> None:
        rows = self.rows - len(self._skipped)
        if self._pending:
            self._commit()
        if self.done != rows:
            raise ValueError(f"{self.path}: {rows} rows were announced, and {self.done} were added")
        names = _row_datasets(self._file)
        if self._skipped:
            self._leave_out(names, rows)
        lengths = {name: len(self._file[name]) for name in ("labels", "ids", *names)}
        if set(lengths.values()) != {rows}:
            raise ValueError(f"{self.path}: {rows} rows in all, but {lengths}")
        self._file.attrs["complete"] = True
        self._file.close()
        with h5py.File(self._partial, "r") as check:  # reads one block of every layer through its checksum
            for name in names:
                check[name][: check[name].chunks[0]]
        publish(self._partial, self._final)

    def _leave_out(self, names: Iterable[str], rows: int) -> None:
        """Shorten everything to the rows that are there, and list those that are not.

        A kill in the middle leaves what can be done again from the start: nothing that resuming reads is touched.
        """
        kept = np.ones(self.rows, dtype=bool)
        kept[list(self._skipped)] = False
        for name in names:
            self._file[name].resize(rows, axis=0)
        self._file.pop("labels", None)
        self._file["labels"] = self._labels[kept]
        for name in ("ids", "split"):
            if name in self._texts:
                self._file.pop(name, None)
                _write_texts(self._file, name, [value for value, keep in zip(self._texts[name], kept, strict=True) if keep])
        self._file.pop("skipped", None)
        positions = sorted(self._skipped)
        _write_texts(self._file, "skipped/ids", [self._texts["ids"][position] for position in positions])
        _write_texts(self._file, "skipped/reasons", [_plain(self._skipped[position]) for position in positions])

    def _undo_leaving_out(self) -> None:
        """Bring a file back to all inputs: a run that was killed while it finished may have shortened a part of it."""
        self._file.pop("skipped", None)
        if "labels" not in self._file or len(self._file["labels"]) != self.rows:
            self._file.pop("labels", None)
            self._file["labels"] = self._labels
        for name in {"ids", "split"} & set(self._texts):
            if name not in self._file or len(self._file[name]) != self.rows:
                self._file.pop(name, None)
                _write_texts(self._file, name, self._texts[name])
        for name in _row_datasets(self._file):
            if len(self._file[name]) != self.rows:
                self._file[name].resize(self.rows, axis=0)

    def _kept(self) -> str:
        return f"; {self.done:,} rows are kept: `resume=True` continues with them" if self._resumable and self.done else ""

    def _abandon(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # closing flushes, which a full disk refuses
            self._file.close()
        if not (self._resumable and self.done):
            self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):  # its folder cannot be reached, which another error says
            self._partial.unlink(missing_ok=True)


def _write_texts(file: h5py.File, name: str, values: Sequence[str]) -> None:
    """Write UTF-8 in slices: HDF5 would copy all of a million texts at once."""
    dataset = file.create_dataset(name, shape=(len(values),), dtype=_TEXT)
    step = 2**16
    for start in range(0, len(values), step):
        dataset[start : start + step] = np.array(values[start : start + step], dtype=object)


def _row_datasets(file: h5py.File) -> list[str]:
    names = [f"{group}/{name}" for group in ("features", "magnitudes") for name in file.get(group, ())]
    return [*names, *["logits"] * ("logits" in file)]


def _check_unlocked(partial: Path) -> None:
    """Raise the error of HDF5 if another process is writing an unfinished store; a damaged one is nobody's."""
    try:
        if partial.exists():
            h5py.File(partial, "r+").close()
    except OSError as error:
        if _is_locked(error):
            raise


def _is_locked(error: BaseException) -> bool:
    return isinstance(error, BlockingIOError) or "unable to lock" in str(error)


def _plain(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
