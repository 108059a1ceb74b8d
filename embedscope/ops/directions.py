"""Mean and spread of the directions of rows, from one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedscope import distributed
from embedscope.errors import UndefinedError
from embedscope.ops.class_moments import unit_rows, zero_rows
from embedscope.text import counted

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.class_moments import Classes


@dataclass(frozen=True)
class _Moments:
    count: int
    zeros: int
    mean: Tensor  # (D,)
    squares: Tensor  # (D,), sums of squared deviations


class Directions:
    """Gathers the mean and the variance per channel of unit rows; zero rows have no direction, and are counted."""

    def __init__(self, width: int, device: torch.device) -> None:
        nothing = torch.zeros(width, dtype=torch.float64, device=device)
        self._moments = _Moments(0, 0, nothing, nothing)

    def take(self, rows: slice, block: Tensor) -> None:
        """Take in (B, D) rows."""
        zero = zero_rows(block)
        rows_left = unit_rows(block[~zero])
        if not len(rows_left):
            part = _Moments(0, int(zero.sum()), torch.zeros_like(self._moments.mean), torch.zeros_like(self._moments.mean))
        else:
            mean = rows_left.mean(dim=0)
            part = _Moments(len(rows_left), int(zero.sum()), mean, (rows_left - mean).square().sum(dim=0))
        self._moments = _merged(self._moments, part)

    def fold(self) -> None:
        """Merge with the other processes."""
        self._moments = distributed.all_reduce_object(self._moments, _merged)

    @property
    def note(self) -> str | None:
        """What a reader needs to know, if rows were left out."""
        zeros = self._moments.zeros
        return f"{counted(zeros, 'zero row is', 'zero rows are')} left out" if zeros else None

    def mean_cosine(self) -> float:
        """Return the mean cosine of all pairs of different rows, in [-1, 1]; UndefinedError for fewer than two rows."""
        count = self._some()
        # Of |sum|² = n + sum of the cosines of both orders, written with the spread: equal rows then give exactly 1.
        return 1 - float(self._moments.squares.sum()) / (count - 1)

    def deviations(self) -> Tensor:
        """Return the standard deviation (divisor N - 1) of each channel of the unit rows: (D,)."""
        return (self._moments.squares / (self._some() - 1)).sqrt()

    def _some(self) -> int:
        if self._moments.count < 2:
            raise UndefinedError("fewer than two rows are nonzero")
        return self._moments.count


def directions(classes: Classes, width: int, device: torch.device) -> Directions:
    """Make a gatherer for rows of this width."""
    return Directions(width, device)


def _merged(a: _Moments, b: _Moments) -> _Moments:
    """Merge the moments of two sets of rows (Chan et al. 1979, doi:10.1007/978-3-642-51461-6_3)."""
    count = a.count + b.count
    gap, share = b.mean - a.mean, b.count / max(count, 1)
    return _Moments(count, a.zeros + b.zeros, a.mean + gap * share, a.squares + b.squares + gap.square() * (a.count * share))
