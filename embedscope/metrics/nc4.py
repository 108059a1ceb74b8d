"""Neural collapse 4: how often the classifier decides as the nearest class mean would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedscope import distributed
from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.blocks import over_rows
from embedscope.ops.class_moments import raw_moments
from embedscope.ops.gathering import gathered
from embedscope.ops.heads import check_logits
from embedscope.ops.pairwise import squared_distances

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


def nc4_pseudo_values(features: Rows, labels: Tensor, result: Result, *, fixed: bool) -> Tensor:
    """Return whether the two agree on each row, (N,) float64: the class means move too little to count."""
    values: Tensor = result.state
    return values


@metric(
    better="higher",
    bounds=(0, 1),
    invariant=("translation", "rotation", "scale"),
    reference="doi:10.1073/pnas.2015509117",
    needs=raw_moments,
    pseudo_values=nc4_pseudo_values,
)
def nc4(features: Rows, labels: Tensor, *, logits: Rows | None = None) -> Result:
    """Agreement of the classifier with the nearest class mean (NC4).

    The share of rows that both assign to the same class; the paper's NC4 is the share of the others. Class means are of these
    rows; distances are Euclidean.

    Args:
        features: (N, D), any float dtype; read twice.
        labels: (N,) integers; gaps allowed.
        logits: (N, K), a column for each class that occurs, in ascending order of the labels.

    Returns:
        A value in [0, 1], higher is more collapsed. `arrays`: "classifier_accuracy" and "nearest_mean_accuracy", against the
        labels.

    Raises:
        UndefinedError: no logits, or not one per class; fewer than two classes.

    Reference: Papyan, Han and Donoho 2020, doi:10.1073/pnas.2015509117.
    """
    gatherer = gathered(raw_moments, features, labels)
    means, index = gatherer.moments.means, gatherer.classes.index
    logits = check_logits(logits, len(means))
    if len(means) < 2:
        raise UndefinedError("there is only one class: the two always agree")
    center = means.mean(dim=0)
    found = torch.zeros(3, len(labels), dtype=torch.float64, device=means.device)
    for place, rows in over_rows(features, torch.float64, means.device):
        nearest = squared_distances(rows - center, means - center).argmin(dim=1)
        predicted = logits[place].to(means.device).argmax(dim=1)
        found[:, place] = torch.stack([nearest == predicted, predicted == index[place], nearest == index[place]]).double()
    distributed.all_reduce([found])
    agreement, classifier, nearest_mean = found.mean(dim=1).tolist()
    return Result(agreement, arrays={"classifier_accuracy": classifier, "nearest_mean_accuracy": nearest_mean}, state=found[0])
