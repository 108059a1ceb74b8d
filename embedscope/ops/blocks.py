"""The one place that bounds memory: work on many rows is cut into blocks of rows here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor

    from embedscope.records import Rows

# What one block may take. Large enough that the work in a block hides the call, small enough for any machine.
BLOCK_BYTES = 64 * 2**20


def row_slices(rows: int, row_bytes: int, block_bytes: int = BLOCK_BYTES) -> Iterator[slice]:
    """Cut `rows` into slices whose work takes at most `block_bytes`, at `row_bytes` a row; at least one row each."""
    step = max(1, block_bytes // max(1, row_bytes))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def over_rows(features: Rows, dtype: torch.dtype, device: torch.device | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Read features by blocks of rows, as (slice, (B, D) tensor of `dtype`); the whole is never asked for."""
    rows, width = features.shape
    for block in row_slices(rows, width * dtype.itemsize):
        yield block, features[block].to(device=device, dtype=dtype)
