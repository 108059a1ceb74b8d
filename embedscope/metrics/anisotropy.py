"""Anisotropy: how much all rows point the same way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedscope.arguments import check_flag
from embedscope.metrics import Result, metric
from embedscope.ops import directions
from embedscope.ops.class_moments import raw_moments
from embedscope.ops.gathering import gathered

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from embedscope.ops.class_moments import Classes
    from embedscope.ops.gathering import Gatherer
    from embedscope.ops.rows import Rows


@dataclass(frozen=True)
class _Centered:
    """The rows of `base` less a vector, as float64."""

    base: Rows
    center: Tensor
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def __getitem__(self, rows: slice) -> Tensor:
        return self.base[rows].to(self.center.device, self.dtype) - self.center


def _first_pass(classes: Classes, width: int, device: torch.device, *, centered: bool = False) -> Gatherer:
    return (raw_moments if centered else directions.directions)(classes, width, device)


@metric(
    better=None,
    bounds=(-1, 1),
    invariant=("rotation", "scale", "row_scale"),
    reference="arXiv:1909.00512",
    needs=_first_pass,
)
def anisotropy(features: Rows, labels: Tensor, *, centered: bool = False) -> Result:
    """Mean cosine over all pairs of different rows.

    0 for directions that cancel, 1 if all rows point the same way. Computed in closed form from the sum of the unit rows.

    Args:
        features: (N, D), any float dtype; zero rows have no direction and are left out.
        labels: not read, only their device is.
        centered: subtract the mean of all rows first, which takes a second pass: what is left then is not a common offset.

    Returns:
        A value in [-1 / (N - 1), 1]; neither direction is better: activations that are never negative have positive cosines.

    Raises:
        UndefinedError: fewer than two rows that are not zero.

    Reference: Ethayarajh 2019, arXiv:1909.00512.
    """
    if check_flag("centered", centered):
        moments = gathered(_first_pass, features, labels, centered=True).moments  # type: ignore[attr-defined]
        mean = (moments.counts[:, None] * moments.means).sum(dim=0) / moments.counts.sum()
        found = gathered(directions.directions, _Centered(features, mean, mean.dtype), labels)
    else:
        found = gathered(_first_pass, features, labels, centered=False)  # type: ignore[assignment]
    return Result(found.mean_cosine(), note=found.note)
