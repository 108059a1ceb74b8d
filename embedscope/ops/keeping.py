"""Results that several runs on the same rows share, such as the metrics and the issues of one command.

Rows are told apart by what they hold, not by which object they are: each run reads them anew. Within one run,
`ops.shared_neighbors` shares without reading.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import torch

from embedscope.ops import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedscope.ops.rows import Rows

_KEPT: ContextVar[dict[Any, Any] | None] = ContextVar("kept", default=None)


@contextmanager
def keeping() -> Iterator[None]:
    """Keep what is found inside until the end of the block."""
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def kept(size: int) -> dict[Any, Any] | None:
    """Return the kept results by key; None if nothing is kept, or a result of `size` bytes is too large to keep."""
    return _KEPT.get() if size <= blocks.memory() // 8 else None


def fingerprint(*arrays: Rows) -> bytes:
    """Return 16 bytes that tell arrays apart by their dtype, their shape and what they hold."""
    found = blake2b(digest_size=16)
    for each in arrays:
        found.update(f"{each.dtype} {tuple(each.shape)}".encode())
        row = each.dtype.itemsize * (each.shape[1] if len(each.shape) > 1 else 1)
        for span in blocks.row_slices(each.shape[0], row):
            found.update(each[span].contiguous().cpu().view(torch.uint8).numpy().data)
    return found.digest()
