"""What is measured of the held-out rows, before and after training."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.metrics import f1_score

from embedscope import plugins
from embedscope.errors import UsageError, unknown
from embedscope.evaluation import evaluate
from embedscope.evaluation.evaluating import bound
from embedscope.metrics import bind
from embedscope.ops.class_moments import present_classes
from embedscope.ops.neighbors import nearest_neighbors
from embedscope.ops.votes import winners

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from embedscope.ops.rows import Rows
    from embedscope.store.features import FeatureSet

# What is measured beside the metrics of `score`; all of them are shares, higher is better.
ACCURACIES = ("knn_accuracy", "macro_f1", "accuracy")

NEIGHBORS = 5

# More training rows than this are not searched for neighbors: a million of them would take longer than the training.
MOST_KNOWN = 50_000


def primary_name(primary: str) -> str:
    """Return the metric of the verdict as it is called in results; UsageError for anything that is not measured."""
    spec = plugins.parse(primary)
    spec = replace(spec, name=plugins.canonical(spec.name))
    if spec.name in ACCURACIES:
        if spec != plugins.Spec(spec.name):
            raise UsageError(f"cannot read the primary metric '{primary}': {spec.name} takes no options")
        return spec.name
    known = [*ACCURACIES, *plugins.names("metrics")]
    if spec.name not in [*known, *plugins.aliases("metrics")]:
        raise UsageError(unknown("primary metric", spec.name, known))
    bind(spec)
    return str(spec)


def measured(
    features: FeatureSet, metrics: Sequence[str], primary: str, device: torch.device, memory: int
) -> dict[str, float | None]:
    """Measure the rows themselves as `score` does, with the primary metric too if it is one of `score`.

    Returns key in `Scores.metrics`, or the primary metric as it is written, -> value, None where a metric is undefined.
    `knn_accuracy` is left out: here it is that of the held-out rows among the training rows.
    """
    wanted = [
        each.spec for each in bound([*metrics, *([] if primary in ACCURACIES else [primary])]) if each.name not in ACCURACIES
    ]
    found = evaluate(replace(features, magnitudes=None, logits=None), wanted, device=device, memory=memory)
    names = list(found.metrics)
    if primary not in ACCURACIES:
        (asked,) = bound(primary)
        names[bound(wanted).index(asked)] = primary
    return {name: measurement.value for name, measurement in zip(names, found.metrics.values(), strict=True)}


def searched(codes: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
    """Choose the training rows to search for neighbors: all, or MOST_KNOWN drawn at random; ascending positions."""
    if len(codes) <= MOST_KNOWN:
        return np.arange(len(codes))
    return np.sort(np.random.default_rng(seed).choice(len(codes), MOST_KNOWN, replace=False))


def knn_accuracy(known: Tensor, codes: np.ndarray[Any, Any], rows: Rows, labels: np.ndarray[Any, Any]) -> float:
    """Compute the share of rows (N, D) whose class most of the 5 nearest training rows (M, D) have, by Euclidean distance.

    Of classes with equally many, that of the nearest counts, as in the metric.
    """
    found = nearest_neighbors(known.cpu(), NEIGHBORS, queries=rows, device=torch.device("cpu"))
    classes = present_classes(torch.from_numpy(codes))
    won = classes.labels[winners(found, classes.index, len(classes))].numpy()
    return float((won == labels).mean())


def macro_f1(labels: np.ndarray[Any, Any], predicted: np.ndarray[Any, Any]) -> float:
    """Compute the mean over classes of F1, in [0, 1]; classes that neither has are left out, undefined ones are 0."""
    with _many_classes():
        return float(f1_score(labels, predicted, average="macro", zero_division=0))


@contextmanager
def _many_classes() -> Iterator[None]:
    """Keep scikit-learn from wondering whether labels with few rows each are numbers to regress on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        yield
