"""The collapse standard deviation: how much the channels of unit rows vary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.metrics import Result, metric
from embedscope.ops.directions import directions
from embedscope.ops.gathering import gathered

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


@metric(
    better=None,
    bounds=(0, 1),
    invariant=("scale", "row_scale"),
    reference="arXiv:2011.10566",
    needs=directions,
)
def collapse_std(features: Rows, labels: Tensor) -> Result:
    """Standard deviation of the unit rows: mean over channels.

    0 if all rows point the same way. Compare it with 1 / sqrt(D), its value for directions spread over the whole sphere, and
    read it together with `effective_rank`: rows that use few dimensions evenly may reach it too.

    Args:
        features: (N, D), any float dtype; zero rows have no direction and are left out.
        labels: not read, only their device is.

    Returns:
        A value of at least 0, about 1 / sqrt(D) at most; divisor N - 1. `arrays`: "uniform", 1 / sqrt(D). It equals lightly's
        `std_of_l2_normalized` if no row is zero.

    Raises:
        UndefinedError: fewer than two rows that are not zero.

    Reference: Chen and He 2021, arXiv:2011.10566, figure 2.
    """
    found = gathered(directions, features, labels)
    return Result(float(found.deviations().mean()), arrays={"uniform": features.shape[1] ** -0.5}, note=found.note)
