"""What features are to the mathematics: anything with a shape, a dtype and row slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Rows(Protocol):
    """What a metric reads features from: a Tensor, or anything with a shape, a dtype and row slices that give Tensors."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows as they are stored."""
        ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...
