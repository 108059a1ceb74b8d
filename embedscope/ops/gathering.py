"""One pass over the rows for everything that can be gathered in one: sums, moments, covariances.

What several metrics need is gathered once. A gatherer takes blocks of rows as they come, in float64, and merges with what the
other processes gathered from theirs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import torch

from embedscope import distributed
from embedscope.errors import InputError
from embedscope.ops.blocks import over_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor

    from embedscope.ops.rows import Rows

# How many rows an error names.
_NAMED = 5


class Gatherer(Protocol):
    """Something that is gathered from rows."""

    def take(self, rows: slice, block: Tensor) -> None:
        """Take in the rows at these positions: (B, D) float64."""
        ...

    def fold(self) -> None:
        """Merge with what the other processes took in; called once, at the end."""
        ...


def gather(
    features: Rows,
    gatherers: Sequence[Gatherer],
    device: torch.device,
    *,
    ids: np.ndarray[Any, Any] | None = None,
    source: str = "",
    kind: str = "",
) -> None:
    """Give every block of the rows to every gatherer: one pass, this process's share.

    An error calls a row by its id, the rows by their `source`, and where that leaves a doubt by their `kind`.

    Raises:
        InputError: rows that hold NaN or infinite values, with their number and the first of their ids.
    """
    wrong: list[int] = []
    for block, rows in over_rows(features, torch.float64, device):
        if not math.isfinite(float(rows.sum())):  # one pass for all rows; which of them, only where it matters
            finite = torch.isfinite(rows).all(dim=1)
            wrong += (block.start + (~finite).nonzero().squeeze(1)).tolist()
        if not wrong:
            for gatherer in gatherers:
                gatherer.take(block, rows)
    wrong = distributed.all_reduce_object(wrong, lambda a, b: a + b)
    if wrong:
        names = ", ".join(f"{row} ({ids[row]})" if ids is not None else str(row) for row in wrong[:_NAMED])
        more = ", …" if len(wrong) > _NAMED else ""
        whose, of = f"{source}: " if source else "", f" of the {kind}" if kind else ""
        raise InputError(f"{whose}{len(wrong)} of {features.shape[0]} rows{of} hold NaN or infinite values: rows {names}{more}")
    for gatherer in gatherers:
        gatherer.fold()
