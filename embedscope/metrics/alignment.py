"""Alignment: how near the directions of rows of one class are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.class_moments import unit_moments
from embedscope.ops.gathering import gathered
from embedscope.text import counted

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


@metric(
    better="lower",
    bounds=(0, 4),
    invariant=("rotation", "scale", "row_scale"),
    reference="arXiv:2005.10242",
    needs=unit_moments,
)
def alignment(features: Rows, labels: Tensor) -> Result:
    """Mean squared distance between unit rows of the same class.

    The paper pairs views of one sample; here the positives of a row are all other rows of its class, and each row counts the
    same. Read it together with `uniformity`: a collapsed embedding is perfectly aligned.

    Args:
        features: (N, D), any float dtype; zero rows have no direction and are left out.
        labels: (N,) integers; classes with one row are left out.

    Returns:
        A value in [0, 4], lower is better. `by_class`: "to_own_class", the mean for each class that has pairs.

    Raises:
        UndefinedError: no class has two rows that are not zero.

    Reference: Wang and Isola 2020, arXiv:2005.10242, with alpha = 2.
    """
    gatherer = gathered(unit_moments, features, labels)
    moments = gatherer.moments
    left = moments.counts - moments.zeros
    paired = left > 1
    if not bool(paired.any()):
        raise UndefinedError("no class has two nonzero rows")
    # Zero rows were taken as rows at the origin: what they add to the spread is taken away, exactly nothing where none is.
    mean = moments.means * (moments.counts / left.clamp(min=1))[:, None]
    spread = moments.spread - left * moments.zeros / moments.counts * mean.square().sum(dim=1)
    # The squared distances of all ordered pairs sum to 2 n times the spread about the mean.
    by_class = (2 * spread / (left - 1).clamp(min=1)).clamp(min=0)
    value = (left * by_class)[paired].sum() / left[paired].sum()
    zeros, alone = int(moments.zeros.sum()), int((left == 1).sum())
    notes = [f"{counted(zeros, 'zero row is', 'zero rows are')} left out"] if zeros else []
    notes += [f"{counted(alone, 'class')} with one row left out"] if alone else []
    known = zip(gatherer.classes.labels[paired].tolist(), by_class[paired].tolist(), strict=True)
    return Result(float(value), by_class={"to_own_class": dict(known)}, note="; ".join(notes) or None)
