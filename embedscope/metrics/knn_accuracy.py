"""The accuracy of a vote among nearest neighbors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.arguments import check_choice, check_number
from embedscope.metrics import Result, metric
from embedscope.ops.class_moments import present_classes
from embedscope.ops.neighbors import nearest_neighbors
from embedscope.ops.rows import gathered
from embedscope.ops.shared_neighbors import by_options, shared_neighbors
from embedscope.ops.splits import of_tested, taught_and_tested
from embedscope.ops.votes import VOTES, winners

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from embedscope.ops.rows import Rows


@metric(
    better="higher",
    bounds=(0, 1),
    invariant=("rotation", "scale", "row_scale"),
    reference="arXiv:2104.14294",
    neighbors=by_options,
    extrapolates=False,
)
def knn_accuracy(
    features: Rows,
    labels: Tensor,
    *,
    k: int = 20,
    vote: str = "dino",
    temperature: float = 0.07,
    distance: str = "cosine",
    train: str | None = None,
    anchors: Tensor | None = None,
    splits: Sequence[str] | None = None,
) -> Result:
    """Leave-one-out accuracy of a vote of the k nearest neighbors.

    With `train`, the rows of that split vote on those of all others.

    Args:
        features: (N, D), any float dtype, any device.
        labels: (N,) integers; gaps allowed.
        k: how many neighbors vote; N - 1 if there are fewer.
        vote: the weight of a neighbor at distance d: "dino", exp(-d / temperature), which for cosines is the vote of DINO and
            of instance discrimination; "uniform", 1; "distance", 1 / d.
        temperature: of the "dino" vote, > 0.
        distance: "cosine" or "euclidean".
        train: name of the split whose rows vote, and are not measured; leave-one-out among all rows if None.
        anchors: (M,) ascending positions of the samples to measure, against all rows; all samples if None.
        splits: (N,), the split of each row, for `train`.

    Returns:
        A value in [0, 1], higher is better; `per_sample` (N,) or (M,) float64, 1 for a sample whose class wins, 0 otherwise and
        NaN for rows of `train`.
        Of classes with equal votes, the one with the nearest neighbor wins. The only member of its class is always wrong.

    Raises:
        UndefinedError: fewer than two rows; with `train`, no splits, no row of another split, or anchors.
        UsageError: k is not a whole number from 1; a temperature that is not positive; an unknown vote, distance or split.

    Reference: Wu et al. 2018, arXiv:1805.01978; Caron et al. 2021, arXiv:2104.14294.
    """
    k, distance = by_options(k=k, distance=distance)
    vote, temperature = check_choice("vote", vote, VOTES), check_number("temperature", temperature, above=0)
    classes = present_classes(labels)
    if train is not None:
        taught, tested = taught_and_tested(splits, train, anchors, labels.device)
        known, asked = gathered(features, taught), gathered(features, tested)
        found = nearest_neighbors(known, k, distance=distance, queries=asked, device=labels.device)
        won = winners(found, classes.index[taught], len(classes), vote=vote, temperature=temperature)
        correct = (won == classes.index[tested]).double()
        return Result(float(correct.mean()), of_tested(correct, tested, len(labels)))
    found = shared_neighbors(features, k, distance=distance, device=labels.device, anchors=anchors)
    own = classes.index if anchors is None else classes.index[anchors]
    correct = (winners(found, classes.index, len(classes), vote=vote, temperature=temperature) == own).double()
    alone = int((classes.counts == 1).sum())
    note = f"samples alone in their class count as wrong: {alone}" if alone else None
    return Result(float(correct.mean()), correct, note=note)
