"""Go on with an earlier run only if the rows that are still to come belong to the same numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.errors import InputError, OutputError
from embedscope.extraction.running import LOGITS
from embedscope.store import read_unfinished, stored_provenance
from embedscope.store.files import check_output
from embedscope.text import counted

if TYPE_CHECKING:
    from pathlib import Path

    from embedscope.extraction.loading import Batches
    from embedscope.extraction.running import Runner
    from embedscope.store import Provenance, Unfinished

# By how much rows that are computed again may differ, in units of the largest value of their layer: the same program on another
# machine, or with another number of threads, sums in another order.
_NOISE = 1e-3
_NOISE_IN_HALF = 3e-2

ANEW = "resume with the original settings, or pass `overwrite=True` without `resume=True` to start again"


def written_before(
    output: Path, *, overwrite: bool, resume: bool
) -> tuple[tuple[int, dict[str, int], Provenance] | None, Unfinished | None]:
    """Read what is there to go on with: rows, widths and provenance of a complete store, or what a run left unfinished."""
    unfinished = read_unfinished(output) if resume or not overwrite else None
    if resume and unfinished is None and output.is_file():
        return stored_provenance(output), None
    check_output(output, overwrite=overwrite)
    if unfinished is not None and not resume:
        raise OutputError(
            f"{unfinished.path} holds {unfinished.done:,} of {counted(unfinished.rows, 'row')} of an unfinished run: "
            "`resume=True` continues it, `overwrite=True` starts again"
        )
    return None, unfinished


def check_same(path: Path, begun: Provenance, now: Provenance) -> None:
    """Raise OutputError unless a file holds, or was begun with, what is asked for now."""
    for what, before, after in begun.differences(now):
        raise OutputError(f"{path} was made with a different {what}: {_short(before)}, now {_short(after)}; {ANEW}")


def check_first_rows(unfinished: Unfinished, batches: Batches, runner: Runner, size: int, seed: int) -> None:
    """Compute the first batch of rows again and compare it with what is committed of it; OutputError if they differ.

    What a record can name is compared before; this notices the rest, such as a file that the model reads.
    """
    count = min(size, len(batches.dataset.inputs))
    batch = batches[range(count)]
    if batch.error is not None:
        raise InputError(batch.error)
    if batch.inputs is None:
        return
    runner.seed(seed)  # as for the batch that begins with row 0
    found = runner(batch.inputs)
    if any(position < unfinished.position and position not in unfinished.skipped for position in batch.skipped):
        return  # an input of the batch can no longer be read; rows and inputs do not pair
    place = [row for row, position in enumerate(batch.rows) if position < unfinished.position]
    place = [row for row in place if batch.rows[row] not in unfinished.skipped]
    for name, (rows, _) in found.items():
        stored = unfinished.read(LOGITS if name == LOGITS else f"features/{name}", len(place))
        with np.errstate(over="ignore"):
            now = rows[place[: len(stored)]].numpy().astype(stored.dtype)
        rounded = stored.dtype == np.float16 or runner.autocast is not None
        largest = float(np.abs(stored, dtype=np.float64)[np.isfinite(stored)].max(initial=0))
        allowed = (_NOISE_IN_HALF if rounded else _NOISE) * largest
        close = np.isclose(now.astype(np.float64), stored.astype(np.float64), rtol=0, atol=allowed, equal_nan=True)
        if not close.all():
            row = int(np.flatnonzero(~close.all(axis=1))[0])
            sample = batches.dataset.ids[batch.rows[place[row]]]
            raise OutputError(
                f"{unfinished.path} does not match the current results: {name} of {sample} is different now "
                f"({_first(stored, close)}, now {_first(now, close)}); the model's files or libraries have changed; {ANEW}"
            )


def _first(values: Any, close: Any) -> str:
    return f"{float(values[~close][0]):.6g}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
