"""Which batches a process computes, and how all rows come into the store in the order of the data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope import distributed
from embedscope.errors import EmbedscopeError, InputError
from embedscope.extraction.loading import DEAD_WORKER, Batches, is_dead_worker, load
from embedscope.extraction.running import LOGITS, Runner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from threading import Event

    from embedscope.progress import Track
    from embedscope.store import StoreWriter, Unfinished

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Outcome:
    """What one process makes of one batch: rows for the store, positions that could not be read, or an error."""

    features: dict[str, Array] = field(default_factory=dict)
    magnitudes: dict[str, Array] = field(default_factory=dict)
    logits: Array | None = None
    positions: Sequence[int] = ()
    skipped: dict[int, str] = field(default_factory=dict)
    not_finite: int = 0
    error: EmbedscopeError | None = None


class Schedule:
    """The loop over the batches of a run.

    Of several processes each computes every so-manieth batch, and the first one writes. A batch holds the same rows whether or
    not a run was interrupted and however many processes there are, so that its sums are rounded in the same way.

    It starts to read at once, before the store is opened: worker processes that inherited the open file would hold its lock
    for seconds after a kill, and nothing could go on with it.

    Args:
        batches: all of the data.
        runner: whose layers are planned.
        dtype: of the features in the store.
        size: rows in a batch.
        unfinished: the run that this one goes on with, or None.
        workers: processes that read inputs.
        seed: of torch; each batch starts from it and its own first row.

    Attributes:
        skipped: positions that could not be read -> why.
        not_finite: rows with NaN or infinite values in some layer, of those that were computed.
    """

    def __init__(
        self,
        batches: Batches,
        runner: Runner,
        dtype: np.dtype[Any],
        size: int,
        unfinished: Unfinished | None,
        workers: int,
        seed: int,
    ) -> None:
        self._batches, self._runner, self._dtype, self._seed = batches, runner, dtype, seed
        self._store: StoreWriter | None = None
        self._first = 0 if unfinished is None else unfinished.position
        self._skipped_before = () if unfinished is None else unfinished.skipped
        self.skipped: dict[int, str] = {}
        self.not_finite = 0
        count, processes = len(batches.dataset.inputs), distributed.world_size()
        start = self._first - self._first % size
        ranges = [range(row, min(row + size, count)) for row in range(start, count, size)]
        self._steps = [ranges[step : step + processes] for step in range(0, len(ranges), processes)]
        self._inputs = load(batches, ranges[distributed.rank() :: processes], workers=workers)

    def run(self, store: StoreWriter | None, track: Track, stop: Event) -> bool:
        """Compute what is not committed yet, and write it to the store of the first process (None elsewhere).

        False if a stop was requested, once a block is committed.
        """
        self._store = store
        count = len(self._batches.dataset.inputs)
        for position in self._skipped_before:
            reasons = replace(self._batches, skip=True)[[position]].skipped  # reading it once more tells why
            self._skip({position: reasons.get(position, "could not be read when the run started")})
        for _ in track(self._steps, "extracting", _rows(self._steps), size=lambda step: _rows([step])):
            outcome = self._outcome()
            error = distributed.all_reduce_object(outcome.error, lambda one, other: one or other)
            if error is not None:
                raise error
            outcomes = distributed.gather_object(outcome)
            committed = distributed.on_main(lambda found=outcomes: self._write(found)) or False  # type: ignore[misc]
            if distributed.all_reduce_object((stop.is_set(), committed), _either) == (True, True):
                break
        else:
            self.skipped = distributed.all_reduce_object(self.skipped, lambda one, other: one)
            self.not_finite = distributed.all_reduce_object(self.not_finite, lambda one, other: one)
            if len(self.skipped) == count:
                raise InputError(f"none of the {count:,} inputs of {self._batches.dataset.location} can be read")
            return True
        return distributed.all_reduce_object(
            self._store is not None and self._store.done + len(self.skipped) == count, lambda one, other: one
        )

    def _outcome(self) -> _Outcome:
        """Compute the next batch of this process; an error is handed on, for the other processes have to end too."""
        try:
            batch = next(self._inputs, None)
            if batch is None:
                return _Outcome()
            if batch.error is not None:
                return _Outcome(error=InputError(batch.error))
            skipped = {position: reason for position, reason in batch.skipped.items() if position >= self._first}
            if batch.inputs is None:
                return _Outcome(skipped=skipped)
            self._runner.seed(self._seed + batch.rows[0])  # a batch draws the same whoever computes it, and when
            found = self._runner(batch.inputs)
        except EmbedscopeError as error:
            return _Outcome(error=error)
        except RuntimeError as error:
            if not is_dead_worker(error):
                raise
            return _Outcome(error=InputError(DEAD_WORKER))
        new = int(np.searchsorted(np.asarray(batch.rows), self._first))  # what lies before it is committed
        wrong = np.zeros(len(batch.rows) - new, dtype=bool)
        features, magnitudes = {}, {}
        for name, (rows, positions) in found.items():
            with np.errstate(over="ignore"):  # beyond the range of float16 is infinite, which is counted
                features[name] = rows[new:].numpy().astype(np.float32 if name == LOGITS else self._dtype, copy=False)
            wrong |= ~np.isfinite(features[name]).all(axis=1)
            if positions is not None and name != LOGITS:
                magnitudes[name] = positions[new:].numpy()
        logits = features.pop(LOGITS, None)
        return _Outcome(features, magnitudes, logits, batch.rows[new:], skipped, int(wrong.sum()))

    def _write(self, outcomes: Sequence[_Outcome]) -> bool:
        """Hand the rows of all processes to the store; whether a block was committed."""
        if self._store is None:
            return False
        before = self._store.done
        for outcome in outcomes:
            self._skip(outcome.skipped)
            if outcome.features:
                self._store.add(outcome.features, outcome.magnitudes, logits=outcome.logits, positions=outcome.positions)
            self.not_finite += outcome.not_finite
        return self._store.done > before

    def _skip(self, positions: dict[int, str]) -> None:
        self.skipped |= positions
        if self._store is not None:
            for position, reason in positions.items():
                self._store.skip(position, reason)


def _rows(steps: Sequence[Sequence[range]]) -> int:
    return sum(len(rows) for step in steps for rows in step)


def _either(one: tuple[bool, bool], other: tuple[bool, bool]) -> tuple[bool, bool]:
    return one[0] or other[0], one[1] or other[1]
