"""The class-distance normalized variance: how collapsed pairs of classes are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.class_moments import raw_moments
from embedscope.ops.gathering import gathered
from embedscope.ops.pairwise import squared_distances
from embedscope.text import counted

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


@metric(
    better="lower",
    bounds=(0, None),
    invariant=("translation", "rotation", "scale"),
    reference="arXiv:2112.15121",
    needs=raw_moments,
)
def cdnv(features: Rows, labels: Tensor) -> Result:
    """Class-distance normalized variance: mean spread over distance of class pairs.

    The mean over pairs of classes of (s_i² + s_j²) / (2 |mu_i - mu_j|²). s² is the mean squared distance of the rows of a class
    to its mean; 0 for a class of one row.

    Args:
        features: (N, D), any float dtype.
        labels: (N,) integers; gaps allowed.

    Returns:
        A value of at least 0, lower is more collapsed. `by_class`: "to_others", the mean over the pairs that a class is in.

    Raises:
        UndefinedError: fewer than two classes, every class has one row, or two classes have the same mean.

    Reference: Galanti, György and Hutter 2022, arXiv:2112.15121, definition 1.
    """
    gatherer = gathered(raw_moments, features, labels)
    moments, labels_of = gatherer.moments, gatherer.classes.labels
    count = len(labels_of)
    if count < 2:
        raise UndefinedError("there is only one class, so no pair of classes")
    if float(moments.counts.max()) == 1:
        raise UndefinedError("every class has one row: there is no spread within classes")
    variance = moments.spread / moments.counts
    means = moments.means - moments.means.mean(dim=0)
    squared = squared_distances(means, means).clamp(min=0).fill_diagonal_(torch.inf)
    if not bool(squared.all()):
        raise UndefinedError("two classes have the same mean: no distance to divide by")
    to_others = ((variance[:, None] + variance) / (2 * squared)).sum(dim=1) / (count - 1)
    alone = int((moments.counts == 1).sum())
    note = f"{counted(alone, 'class has', 'classes have')} one row, so no variance" if alone else None
    return Result(
        float(to_others.mean()),
        by_class={"to_others": dict(zip(labels_of.tolist(), to_others.tolist(), strict=True))},
        note=note,
    )
