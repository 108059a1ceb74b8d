"""Channels with the same value in every row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedscope.ops import blocks

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


def constant_channels(features: Rows) -> Tensor:
    """Return the positions of the channels that have one value in all rows, zero or another: (N, C) -> (n,) int64, ascending.

    Rows are compared as they are stored, so that no rounding makes a channel vary. With one row, all channels are constant.

    >>> constant_channels(torch.tensor([[0.0, 1.0, 2.0], [0.0, 3.0, 2.0]]))
    tensor([0, 2])
    """
    first = features[:1]
    constant = torch.ones(features.shape[1], dtype=torch.bool, device=first.device)
    for block in blocks.row_slices(features.shape[0], features.shape[1] * features.dtype.itemsize * 2):
        constant &= (features[block] == first).all(dim=0)
    return constant.nonzero().squeeze(1)
