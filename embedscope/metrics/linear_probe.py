"""The linear probe: how well a linear classifier does on rows that it was not fitted to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedscope import distributed
from embedscope.arguments import check_seed, check_whole
from embedscope.metrics import Result, metric
from embedscope.ops.class_moments import present_classes
from embedscope.ops.probes import out_of_sample, predicted
from embedscope.ops.splits import of_tested, taught_and_tested
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from embedscope.ops.class_moments import Classes
    from embedscope.ops.rows import Rows


def linear_probe_pseudo_values(
    features: Rows,
    labels: Tensor,
    result: Result,
    *,
    fixed: bool,
    folds: int,
    C: float | None,
    seed: int,
    train: str | None,
) -> Tensor:
    """Return whether each row was predicted: the error of a mean over test rows, with the probes as they are."""
    assert result.per_sample is not None
    tested = ~result.per_sample.isnan()
    away = torch.where(tested, result.per_sample - result.value, 0.0)
    return result.value + away * (len(tested) / tested.sum())  # rows that only teach add nothing to the mean and its error


@metric(
    better="higher",
    bounds=(0, 1),
    invariant=("translation", "scale", "channel_scale"),
    reference="arXiv:1610.01644",
    pseudo_values=linear_probe_pseudo_values,
)
def linear_probe(
    features: Rows,
    labels: Tensor,
    *,
    folds: int = 5,
    C: float | None = None,
    seed: int = 0,
    train: str | None = None,
    anchors: Tensor | None = None,
    splits: Sequence[str] | None = None,
) -> Result:
    """Cross-validated accuracy of a linear classifier on the frozen features.

    With `train`, the usual protocol of linear probing: one probe, fitted to the rows of that split, predicts those of all
    others. Without, cross-fitted: each row is predicted by a probe that was fitted to the other folds, of channels standardized
    there. All rows that are measured then take part, whatever their split.

    Args:
        features: (N, D), any float dtype.
        labels: (N,) integers; gaps allowed.
        folds: at least 2, drawn class by class. The only row of a class is always wrong.
        C: inverse strength of the penalty, as in scikit-learn; chosen from 1e-4 to 10 by the loss on a fifth of the training
            rows of each fold if None.
        seed: of the folds, which are drawn by position, and of the rows that choose C.
        train: name of the split that the probe is fitted to, validation rows included; cross-fitted if None.
        anchors: (M,) ascending positions of the samples to measure, by probes of all rows; all samples if None.
        splits: (N,), the split of each row, for `train`.

    Returns:
        A value in [0, 1], higher is better; `per_sample` (N,) or (M,) float64, 1 if the row is predicted right and NaN for rows
        of `train`; `nearest`, the label of the most probable other class, without `train`; `arrays`: "C", the median over
        folds. Many rows, dimensions and classes are fitted by a sample of the training rows; the note then says how many.

    Raises:
        UndefinedError: fewer than two classes; with `train`, no splits, no row of another split, or anchors.
        UsageError: no row has the split `train`.

    Reference: Alain and Bengio 2016, arXiv:1610.01644.
    """
    folds, seed = check_whole("folds", folds, low=2), check_seed(seed, "seed")
    classes = present_classes(labels)
    if train is not None:
        return _of_split(features, classes, *taught_and_tested(splits, train, anchors, labels.device), C=C, seed=seed)
    right = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
    other = torch.zeros(len(labels), dtype=torch.int64, device=labels.device)
    fitted: set[tuple[int, int, float]] = set()
    for fold, positions, probabilities, probe in out_of_sample(features, classes, folds=folds, seed=seed, C=C):
        own = classes.index[positions]
        right[positions] = (probabilities.argmax(dim=1) == own).double()
        other[positions] = probabilities.scatter(1, own[:, None], -1).argmax(dim=1)
        fitted.add((fold, probe.rows, probe.C))
    distributed.all_reduce([right])
    distributed.all_reduce([other])
    fits = distributed.all_reduce_object(fitted, lambda a, b: a | b)
    most, smallest_fold = max(rows for _, rows, _ in fits), -(-len(labels) // min(folds, len(labels)))
    available = len(labels) - smallest_fold
    notes = [f"fitted to {most:,} of {available:,} training rows per fold"] if most < available else []
    few = int((classes.counts < folds).sum())
    notes += [f"{counted(few, 'class has', 'classes have')} fewer rows than the {folds} folds"] if few else []
    if splits is not None and len(names := sorted({str(name) for name in splits})) > 1:
        first = "train" if "train" in names else names[0]
        notes.append(f"cross-fitted over all splits; linear_probe(train='{first}') fits {first} and measures the others")
    nearest = classes.labels[other]
    if anchors is not None:
        right, nearest = right[anchors], nearest[anchors]
    strengths = torch.tensor([strength for *_, strength in fits], dtype=torch.float64)
    return Result(float(right.mean()), right, nearest, arrays={"C": float(strengths.median())}, note="; ".join(notes) or None)


def _of_split(features: Rows, classes: Classes, taught: Tensor, tested: Tensor, *, C: float | None, seed: int) -> Result:
    probabilities, probe = predicted(features, classes, taught, tested, C=C, seed=seed)
    own = classes.index[tested]
    right = (probabilities.argmax(dim=1) == own).double()
    notes = [f"fitted to {probe.rows:,} of {len(taught):,} training rows"] if probe.rows < len(taught) else []
    new = len(set(own.tolist()) - set(classes.index[taught].tolist()))
    notes += [f"{counted(new, 'class has', 'classes have')} no training row"] if new else []
    return Result(
        float(right.mean()),
        of_tested(right, tested, len(classes.index)),
        arrays={"C": probe.C},
        note="; ".join(notes) or None,
    )
