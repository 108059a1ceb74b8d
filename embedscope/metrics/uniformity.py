"""Uniformity: how evenly the directions of the rows cover the sphere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from embedscope.arguments import check_number
from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.potentials import mean_potentials
from embedscope.text import counted

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


def uniformity_pseudo_values(features: Rows, labels: Tensor, result: Result, *, fixed: bool, t: float) -> Tensor:
    """Return the value plus the influence of each row on the log of a mean over pairs: (N, D) -> (N,) float64."""
    potentials, zero = result.state
    values = torch.full((len(zero),), result.value, dtype=torch.float64, device=zero.device)
    values[~zero] += 2 * (potentials / potentials.mean() - 1)
    return values


@metric(
    better="lower",
    bounds=(None, 0),
    invariant=("rotation", "scale", "row_scale"),
    reference="arXiv:2005.10242",
    pseudo_values=uniformity_pseudo_values,
)
def uniformity(features: Rows, labels: Tensor, *, t: float = 2.0) -> Result:
    """Log mean Gaussian potential of all pairs of unit rows.

    ln mean exp(-t |x - y|²), exact over all pairs of different rows, whatever their labels: the paper's, and the loss
    `uniformity`.

    Args:
        features: (N, D), any float dtype; zero rows have no direction and are left out.
        labels: not read, only their device is.
        t: > 0, per squared distance.

    Returns:
        A value in [-4 t, 0], lower is more uniform; 0 if all directions are equal, about -t for two opposite clusters, and near
        -2 t for independent directions in many dimensions.

    Raises:
        UndefinedError: fewer than two rows that are not zero.

    Reference: Wang and Isola 2020, arXiv:2005.10242.
    """
    check_number("t", t, above=0)
    potentials, zero = mean_potentials(features, t, labels.device)
    if len(potentials) < 2:
        raise UndefinedError("fewer than two rows are nonzero")
    zeros = int(zero.sum())
    note = f"{counted(zeros, 'zero row is', 'zero rows are')} left out" if zeros else None
    mean = float(potentials.mean())
    if mean <= 0:
        raise UndefinedError(f"with t = {t:g}, the potential of every pair underflows to 0")
    return Result(min(math.log(mean), 0.0), note=note, state=(potentials, zero))
