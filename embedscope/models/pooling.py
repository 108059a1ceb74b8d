"""From the activations of a layer to one row per sample."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedscope.arguments import check_choice
from embedscope.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

POOLINGS = ("auto", "gap", "mean", "cls", "flatten", "none")


@dataclass(frozen=True)
class Pooling:
    """How the activations of one layer become features.

    Attributes:
        name: "gap" (mean over the positions of maps), "mean" (over tokens; padding, where a mask says so, left out), "cls" (the
            first token), "flatten" or "none" (there are no positions).
        shape: of the activations of one sample.
        positions: the axes of a batch that are positions, () for none.
    """

    name: str
    shape: tuple[int, ...]
    positions: tuple[int, ...]

    @property
    def magnitudes(self) -> bool:
        """Whether there are positions to average |activation| over; the one token of "cls" leaves none."""
        return bool(self.positions) and self.name != "cls"

    @property
    def channels(self) -> int:
        """C, one for every magnitude."""
        return math.prod(self.shape) // math.prod([self.shape[axis - 1] for axis in self.positions] or [1])

    def __call__(self, activations: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Pool a batch: (B, *shape) -> features (B, D) and magnitudes (B, C) or None, float32, or float64 as it came.

        `mask` (B, T) is true for tokens that are not padding; it is read if the layer's positions are those T tokens. The
        result never shares memory with the activations, which a later layer may change in place.
        """
        values = activations if activations.dtype == torch.float64 else activations.float()
        if not self.positions:
            return values.reshape(len(values), -1).clone(), None
        tokens = self.positions == (1,) and values.ndim == 3
        if mask is not None and tokens and mask.shape == values.shape[:2]:
            return self._masked(values, mask)
        if self.name == "cls":
            return values[:, 0].clone(), None
        if values.requires_grad and values is activations:  # backward needs them as they are, and an in-place ReLU may follow
            values = values.clone()
        magnitudes = torch.linalg.vector_norm(values, ord=1, dim=self.positions) / math.prod(
            values.shape[axis] for axis in self.positions
        )
        if self.name == "flatten":
            return values.flatten(1).clone(), magnitudes
        return values.mean(self.positions), magnitudes

    def _masked(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        kept = mask.to(values.dtype)[..., None]  # (B, T, 1)
        if self.name == "cls":
            first = mask.int().argmax(1)  # padding may come first
            return values[torch.arange(len(values), device=values.device), first].clone(), None
        count = kept.sum(1).clamp_min(1)
        magnitudes = (values.abs() * kept).sum(1) / count
        if self.name == "flatten":
            return (values * kept).flatten(1), magnitudes
        return (values * kept).sum(1) / count, magnitudes


def plan(layer: str, wanted: str, shape: Sequence[int], *, channels_last: bool) -> Pooling:
    """Choose how to pool activations of one sample's `shape`.

    "auto" is "none" without positions, "gap" for maps and "mean" for tokens. "gap" and "mean" are the same mean over
    positions; of two axes, where it is not sure which are positions, "gap" says (C, L), and "mean" and "cls" say (T, C).
    UsageError for a pooling that the shape does not allow.
    """
    check_choice("pooling", wanted, POOLINGS)
    shape = tuple(shape)
    if not all(shape):
        raise InputError(f"layer {layer} gives {shape} per sample, which is empty")
    if len(shape) <= 1:
        if wanted in ("gap", "mean", "cls"):
            raise UsageError(f"layer {layer} gives {shape}: there are no positions for '{wanted}'; use auto, flatten or none")
        return Pooling("none", shape, ())
    tokens = len(shape) == 2 and channels_last
    if wanted == "none":
        raise UsageError(f"layer {layer} gives {shape} per sample, which is not a vector; use gap, mean, cls or flatten")
    if wanted == "cls" and not tokens:
        raise UsageError(f"layer {layer} gives maps {shape}, which have no class token; use gap or flatten")
    first = 1 if channels_last else 2
    positions = tuple(range(first, first + len(shape) - 1))
    name = wanted if wanted in ("cls", "flatten") else "mean" if tokens else "gap"
    return Pooling(name, shape, positions)
