"""What an interrupted run left of a store, and whether it can be gone on with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedscope.errors import InputError, OutputError
from embedscope.store import digests, opening
from embedscope.store.files import partial_path
from embedscope.store.provenance import Provenance

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    Array = np.ndarray[Any, Any]

DONE = "rows/done"
COMMITTED = "rows/committed"
ANNOUNCED = "rows/announced"
SKIPPED = "rows/skipped"


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
    provenance: Provenance

    def read(self, name: str, count: int) -> Array:
        """Read the first rows of a data set such as "features/conv1": (count, D), of at most `done` rows."""
        with opening.opened_to_resume(self.path) as file:
            rows: Array = opening.dataset(file, name, whole=False)[: min(count, self.done)]
        return rows


def read_unfinished(path: Path) -> Unfinished | None:
    """Read what an interrupted run left of the store `path`, or None if there is nothing; every committed row is checked.

    OutputError if another process is writing it, it is damaged, or an earlier version of embedscope began it.
    """
    partial = partial_path(path.resolve())
    if not partial.exists():
        return None
    try:
        with opening.opened_to_resume(partial) as file:
            done, position = (int(number) for number in opening.small(file, COMMITTED, "i"))
            # What lies beyond belongs to rows that were not committed, and may be readable the next time.
            listed = opening.small(file, SKIPPED, "i") if opening.has(file, SKIPPED) else ()
            skipped = sorted({int(each) for each in listed if 0 <= each < position})
            if position - len(skipped) != done:
                raise ValueError(f"{done} rows are committed of {position} inputs with {len(skipped)} skipped")
            found = Unfinished(
                path=partial,
                rows=int(opening.small(file, ANNOUNCED, "i")),
                done=done,
                position=position,
                skipped=tuple(skipped),
                provenance=Provenance.parse(
                    str(opening.texts(file, "provenance", opening.LONGEST_PROVENANCE)[()]), str(partial)
                ),
            )
            known = digests.read(file, done)
            if known is None:
                raise OutputError(f"{partial} was started by an earlier version of embedscope; {_ANEW}")
            for name in known.names:
                check_rows(file, known, name, done)
            return found
    except opening.DAMAGE as error:
        if opening.is_locked(error):
            raise OutputError(f"{partial} is locked by another process that writes it; wait until it is closed") from error
        reason = str(error).partition("\n")[0]
        raise OutputError(f"{partial} is damaged and cannot be resumed ({reason}); {_ANEW}") from error
    except InputError as error:
        raise OutputError(f"{partial} cannot be resumed: {error}; {_ANEW}") from error


_ANEW = "`overwrite=True` without `resume=True` starts again"


def check_rows(file: Any, known: digests.Digests, name: str, count: int) -> None:
    """Read the first `count` rows of a data set and compare them with their digests; InputError for what differs."""
    found, blocks = opening.dataset(file, name, whole=False), known.of(name)
    start = 0
    for stop, wanted in zip(known.stops.tolist(), blocks if blocks is not None else (), strict=True):
        if start >= count:
            break
        if stop > count or digests.of_rows(name, found[start:stop]) != wanted.tobytes():
            raise InputError(f"{file.filename} is damaged: rows {start:,} to {stop - 1:,} of /{name} are not what was written")
        start = stop
    if start < count:
        raise InputError(f"{file.filename} is damaged: rows of /{name} from {start:,} on have no digest")
