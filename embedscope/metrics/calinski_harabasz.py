"""The Calinski-Harabasz index: the spread between classes over that within them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.class_moments import raw_moments
from embedscope.ops.gathering import gathered

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


@metric(
    better="higher",
    bounds=(0, None),
    invariant=("translation", "rotation", "scale"),
    reference="doi:10.1080/03610927408827101",
    needs=raw_moments,
    interval=False,  # it grows with the number of samples
)
def calinski_harabasz(features: Rows, labels: Tensor) -> Result:
    """Spread of the class means divided by the spread within classes.

    (N, D), (N,) -> a value of at least 0, higher is better: tr(B) / (K - 1) over tr(W) / (N - K). It equals scikit-learn's
    `calinski_harabasz_score`. B counts each class mean as often as the class has rows, about the mean of all rows. It grows
    with N.
    UndefinedError for fewer than two classes, if every class has one row, or if all rows equal their class mean.
    Calinski and Harabasz 1974, doi:10.1080/03610927408827101.
    """
    moments = gathered(raw_moments, features, labels).moments
    classes, rows = len(moments.counts), float(moments.counts.sum())
    if classes < 2:
        raise UndefinedError("there is only one class, so no spread between classes")
    within = float(moments.spread.sum())
    if within <= 0:
        raise UndefinedError("all rows equal their class mean: there is no spread within classes to divide by")
    mean = (moments.counts[:, None] * moments.means).sum(dim=0) / rows
    between = float((moments.counts * (moments.means - mean).square().sum(dim=1)).sum())
    return Result(between / within * (rows - classes) / (classes - 1))
