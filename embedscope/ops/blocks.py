"""Memory limits, the split of rows between processes, and progress of passes, all in one place.

Work on many rows is cut into blocks here. `limits` sets, for everything inside it, how much memory a pass may take beside its
input and its result, and what shows its progress.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from embedscope import devices, distributed
from embedscope.progress import Track, silent, untracked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import torch
    from torch import Tensor

    from embedscope.ops.rows import Rows

T = TypeVar("T")

# What one block takes unless the limit is lower: large enough that its work hides the call, small enough to stay in a cache and
# below the size from which the allocator takes fresh pages each time, which costs more than the work.
BLOCK_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Limits:
    """Memory that a pass may take (bytes), what shows its progress, and what announces long passes."""

    memory: int = 2**31
    track: Track = untracked
    say: Callable[[str], None] = silent


_LIMITS: ContextVar[Limits] = ContextVar("limits", default=Limits())  # noqa: B039 (frozen)


def allowance(device: torch.device, wanted: int | None) -> int:
    """Return the bytes that a run may take on a device: those requested, or this process's part of half of what is free."""
    return devices.free_memory(device) // 2 // distributed.local_world_size() if wanted is None else wanted


@contextmanager
def limits(*, memory: int, track: Track = untracked, say: Callable[[str], None] = silent) -> Iterator[None]:
    """Bound the memory of every pass inside, show its progress, and announce those that will take long."""
    token = _LIMITS.set(Limits(memory, track, say))
    try:
        yield
    finally:
        _LIMITS.reset(token)


def memory() -> int:
    """Return how many bytes a pass may take besides its input and its result."""
    return _LIMITS.get().memory


def announce(text: str) -> None:
    """Announce how long the next pass will take, if there is a listener."""
    _LIMITS.get().say(text)


def tracked(items: Iterable[T], description: str, total: int) -> Iterable[T]:
    """Show progress over items if it was requested."""
    return _LIMITS.get().track(items, description, total)


def row_slices(rows: int, row_bytes: int, block_bytes: int | None = None, start: int = 0) -> list[slice]:
    """Cut the rows from `start` to `rows` into slices whose work takes at most `block_bytes`; at least one row each.

    Without `block_bytes`, it is BLOCK_BYTES or an eighth of the memory limit, whichever is less: a pass holds several blocks.
    """
    if block_bytes is None:
        block_bytes = min(BLOCK_BYTES, memory() // 8)
    step = max(1, block_bytes // max(1, row_bytes))
    return [slice(first, min(first + step, rows)) for first in range(start, rows, step)]


def over_all_rows(
    features: Rows, dtype: torch.dtype, device: torch.device, *, copies: int, description: str
) -> Iterator[tuple[slice, Tensor]]:
    """Read all rows by blocks in every process, with room for `copies` copies of a block; otherwise like `over_rows`."""
    rows, width = features.shape
    blocks = row_slices(rows, width * dtype.itemsize * copies)
    for block in tracked(blocks, description, len(blocks)):
        yield block, features[block].to(device=device, dtype=dtype)


def over_rows(
    features: Rows, dtype: torch.dtype, device: torch.device | None = None, description: str = "reading"
) -> Iterator[tuple[slice, Tensor]]:
    """Read this process's share of the rows by blocks, as (slice, (B, D) tensor of `dtype`); never the whole at once."""
    rows, width = features.shape
    mine = distributed.share(rows)
    blocks = row_slices(mine.stop, width * dtype.itemsize, start=mine.start)
    for block in tracked(blocks, description, len(blocks)):
        yield block, features[block].to(device=device, dtype=dtype)
