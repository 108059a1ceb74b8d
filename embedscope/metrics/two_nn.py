"""The intrinsic dimension by the two nearest neighbors of each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from embedscope.arguments import check_number
from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.shared_neighbors import shared_neighbors
from embedscope.text import counted

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


def _two(**_: Any) -> tuple[int, str]:
    return 2, "euclidean"


@metric(
    better=None,
    bounds=(0, None),
    invariant=("translation", "rotation", "scale"),
    reference="doi:10.1038/s41598-017-11873-y",
    interval=False,
    neighbors=_two,
)
def two_nn(features: Rows, labels: Tensor, *, discard: float = 0.1) -> Result:
    """Intrinsic dimension from the distances to the two nearest neighbors (TwoNN).

    The slope through the origin of -ln(1 - i / n) on ln(r2 / r1), ratios in ascending order i = 1, 2, ….

    Args:
        features: (N, D), any float dtype; Euclidean distances.
        labels: not read, only their device is.
        discard: share in (0, 1) of the rows, those with the largest ratios, that the slope leaves out; 0.1 as in the paper.

    Returns:
        A value above 0; neither direction is better. Rows with a duplicate have r1 = 0 and are left out and counted. It equals
        scikit-dimension's `TwoNN`.

    Raises:
        UndefinedError: fewer than three rows, fewer than two ratios are left, or all of them are 1.

    Reference: Facco et al. 2017, doi:10.1038/s41598-017-11873-y.
    """
    check_number("discard", discard, above=0, high=1)
    if features.shape[0] < 3:
        raise UndefinedError("two neighbors need at least three rows")
    nearest = shared_neighbors(features, 2, distance="euclidean", device=labels.device).distances
    nearest = nearest[nearest[:, 0] > 0]
    ratios = (nearest[:, 1] / nearest[:, 0]).log().sort().values
    count = len(ratios)
    kept = int(count * (1 - discard))
    if kept < 2:
        raise UndefinedError(
            f"{counted(count, 'row has', 'rows have')} no duplicate, which leaves {max(kept, 0)} for a slope that takes at "
            "least two"
        )
    x = ratios[:kept]
    y = -torch.log1p(-torch.arange(1, kept + 1, dtype=x.dtype, device=x.device) / count)
    squares = float(x.square().sum())
    if squares <= 0:
        raise UndefinedError("the two nearest neighbors are equally far from every row: the dimension is unbounded")
    duplicates = features.shape[0] - count
    note = f"{counted(duplicates, 'row with a duplicate is', 'rows with duplicates are')} left out" if duplicates else None
    return Result(float((x * y).sum()) / squares, note=note)
