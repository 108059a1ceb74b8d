"""Hubness: whether a few rows are the nearest neighbors of very many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.class_moments import class_sums, present_classes
from embedscope.ops.shared_neighbors import by_options, shared_neighbors

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


@metric(
    better="lower",
    bounds=(None, None),
    invariant=("rotation", "scale", "row_scale"),
    reference="doi:10.1145/1553374.1553485",
    neighbors=by_options,
    # A third moment that depends on N: what leaving out groups extrapolates to can miss the value itself by far.
    interval=False,
)
def hubness(features: Rows, labels: Tensor, *, k: int = 10, distance: str = "cosine") -> Result:
    """Skewness of N_k, how often a row is among the k nearest neighbors of others.

    About 0 where every row is the neighbor of about k others; above 1 or 2, a few rows (hubs) are neighbors of very many, and
    many (antihubs) of none, as happens in many dimensions. Labels only serve the values by class.

    Args:
        features: (N, D), any float dtype, any device.
        labels: (N,) integers.
        k: how many neighbors; N - 1 if there are fewer.
        distance: "cosine" or "euclidean".

    Returns:
        The population skewness, unbounded, lower is better; `arrays` has how many rows are `hubs` (N_k >= 2 k) and `antihubs`
        (N_k = 0); `by_class["mean_occurrence"]`, the mean N_k of the rows of each class.

    Raises:
        UndefinedError: fewer than two rows; all N_k are equal, as where k is N - 1.
        UsageError: k is not a whole number from 1; an unknown distance.

    Reference: Radovanović et al. 2010, JMLR 11, 2487-2531.
    """
    k, distance = by_options(k=k, distance=distance)
    found = shared_neighbors(features, k, distance=distance, device=labels.device)
    k = found.indices.shape[1]
    counts = torch.bincount(found.indices.flatten(), minlength=len(labels)).double()
    if float(counts.min()) == float(counts.max()):
        raise UndefinedError(f"every row is among the {k} nearest neighbors of equally many others: N_k has no skewness")
    gaps = counts - counts.mean()
    skewness = gaps.pow(3).mean() / gaps.square().mean().pow(1.5)
    classes = present_classes(labels)
    means = class_sums(counts, classes.index, len(classes)) / classes.counts
    return Result(
        float(skewness),
        arrays={"hubs": int((counts >= 2 * k).sum()), "antihubs": int((counts == 0).sum())},
        by_class={"mean_occurrence": dict(zip(classes.labels.tolist(), means.tolist(), strict=True))},
    )
