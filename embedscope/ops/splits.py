"""Which rows teach and which are tested, where a metric fits or votes with one split and measures the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from embedscope.errors import UndefinedError, UsageError, unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def taught_and_tested(
    splits: Sequence[str] | None, train: str, anchors: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the positions of the rows of the split `train`, and those of all others: two ascending (n,) int64.

    Args:
        splits: (N,), the split of each row; None if the rows have none.
        train: name of the split that teaches.
        anchors: None; a sample of the rows cannot be measured so.
        device: of the positions.

    Raises:
        UndefinedError: no splits, no row of another split, or a sample of rows.
        UsageError: no row has the split.
    """
    if splits is None:
        raise UndefinedError(f"train='{train}' needs rows with splits, and these have none")
    if anchors is not None:
        raise UndefinedError(f"train='{train}' measures all rows of the other splits; omit `sample=`")
    names = np.asarray(splits, dtype=object)
    if not (teaches := names == train).any():
        raise UsageError(unknown("split", train, sorted({str(name) for name in names})))
    if teaches.all():
        raise UndefinedError(f"all rows are of the split {train}; train='{train}' measures those of the others")
    return tuple(torch.from_numpy(np.flatnonzero(each)).to(device) for each in (teaches, ~teaches))  # type: ignore[return-value]


def of_tested(values: Tensor, tested: Tensor, count: int) -> Tensor:
    """Put (n,) values of tested rows in the places of all N: (N,) float64, NaN for rows that taught."""
    found = torch.full((count,), torch.nan, dtype=torch.float64, device=values.device)
    found[tested] = values.double()
    return found
