"""Nearest neighbors: accuracy of their vote, and how often rows are neighbors of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope.arguments import check_choice, check_whole
from embedscope.errors import UndefinedError
from embedscope.metrics.hubness import hubness
from embedscope.metrics.knn_accuracy import knn_accuracy
from embedscope.ops.neighbors import DISTANCES
from embedscope.ops.shared_neighbors import shared_neighbors, sharing
from embedscope.plotting import kind
from embedscope.plotting.figure import INK, series
from embedscope.plotting.inputs import described

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from embedscope.ops.rows import Rows
    from embedscope.plotting.figure import Sheet
    from embedscope.plotting.inputs import Embedding

    Array = np.ndarray[Any, Any]

# What is measured: these numbers of neighbors, as far as there are as many rows.
_STEPS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)

# The k that titles name, that of `knn_accuracy`, and the one that occurrences are counted for, that of `hubness`.
_USUAL = 20
_COUNTED = 10


@dataclass(frozen=True)
class NeighborProfile:
    """What the nearest neighbors of an input say.

    Attributes:
        of: the input.
        steps: (m,) int64 ascending, numbers of neighbors.
        accuracy: (m,) float64 in [0, 1], leave-one-out accuracy of the vote of that many, as the metric `knn_accuracy`.
        by_class: (K, m) float64, the same of the samples of each class that has any.
        counted: the k of `occurrences`.
        occurrences: (N,) int64, how often each row is among the k nearest of another.
        skewness: of these, the metric `hubness`; None where all are equal.
    """

    of: Embedding
    steps: Array
    accuracy: Array
    by_class: Array
    counted: int
    occurrences: Array
    skewness: float | None

    @property
    def usual(self) -> int:
        """Place in `steps` of the number of neighbors that titles name."""
        return int(np.abs(self.steps - _USUAL).argmin())


def draw_neighbors(sheet: Sheet, profiles: Sequence[NeighborProfile]) -> None:
    """Draw two panels per input: accuracy against k with the spread over classes, and the distribution of occurrences."""
    heading, titles, notes = described("Nearest neighbors", [each.of for each in profiles], drawn=False)
    colors = series(len(profiles))
    order, columns = _arranged(len(profiles), sheet.columns(len(profiles)))
    said = (_measured, _hubs)
    texts = [f"{titles[place]}\n{said[part](profiles[place])}" for place, part in order]
    panels = sheet.arrange(
        texts,
        heading=heading,
        aspect=0.75,
        most=columns,
        notes=[
            *notes,
            "Accuracy: vote of the k nearest other samples. Band: from the 10th to the 90th percentile of the classes; "
            "dotted: the lowest class.",
            f"Occurrences: how many other rows have a row among their {profiles[0].counted} nearest; dashed: the mean. "
            "Antihubs have none.",
        ],
    )
    low = min(float(each.by_class.min()) for each in profiles)
    most = max(int(each.occurrences.max()) for each in profiles)
    for axes, (place, part) in zip(panels, order, strict=True):
        if part:
            _draw_occurrences(axes, profiles[place], colors[place], most)
        else:
            _draw_accuracy(axes, profiles[place], colors[place], low)


def _arranged(count: int, columns: int) -> tuple[list[tuple[int, int]], int]:
    """Order the panels (input, part), and say how many stand side by side: accuracies above occurrences where rows fill."""
    if count == 1 or count % columns:
        return [(place, part) for place in range(count) for part in (0, 1)], 2
    starts = range(0, count, columns)
    return [(place, part) for start in starts for part in (0, 1) for place in range(start, start + columns)], columns


def _measured(each: NeighborProfile) -> str:
    return f"accuracy {each.accuracy[each.usual]:.3f} at k = {each.steps[each.usual]}"


def _hubs(each: NeighborProfile) -> str:
    skewness = "no skewness" if each.skewness is None else f"skewness {each.skewness:.2f}"
    return f"{skewness}, {(each.occurrences == 0).mean():.1%} antihubs"


def _draw_accuracy(axes: Any, each: NeighborProfile, color: str, low: float) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    lower, upper = np.percentile(each.by_class, (10, 90), axis=0)
    axes.fill_between(each.steps, lower, upper, color=color, alpha=0.2, linewidth=0)
    axes.plot(each.steps, each.by_class.min(axis=0), color=color, linewidth=0.8, linestyle=(0, (1, 2)))
    axes.plot(each.steps, each.accuracy, "-o", color=color, markersize=2.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([step for step in (1, 3, 10, 30, 100, 300, 1000) if step <= each.steps[-1]]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda step, place: f"{step:.0f}")
    axes.set(xlabel="k", ylabel="accuracy", ylim=(max(0.0, low - 0.05 * (1 - low) - 0.01), 1.01))
    axes.grid(True, axis="y")


def _draw_occurrences(axes: Any, each: NeighborProfile, color: str, most: int) -> None:
    width = max(1, -(-(most + 1) // 40))
    edges = np.arange(0, most + width + 1, width) - 0.5
    counts, _ = np.histogram(each.occurrences, bins=edges)
    axes.stairs(counts / len(each.occurrences), edges, color=color, fill=True, alpha=0.85)
    axes.axvline(float(each.occurrences.mean()), color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda share, place: f"{100 * share:g}%")
    axes.set(xlabel=f"occurrences among the {each.counted} nearest", ylabel="rows", xlim=(-0.5, edges[-1]))
    axes.locator_params(axis="x", nbins=5, integer=True)


@kind("Neighbors", takes="embeddings", draw=draw_neighbors)
def neighbors(inputs: Sequence[Embedding], *, k: int = 100, distance: str = "cosine") -> list[NeighborProfile]:
    """Accuracy of the vote of 1 to k nearest neighbors, and hubness.

    Of all rows, by one search. The values are those of the metrics `knn_accuracy` and `hubness`.
    """
    k = check_whole("k", k, low=1)
    check_choice("distance", distance, DISTANCES)
    return [_profile(each, k, distance) for each in inputs]


def _profile(each: Embedding, k: int, distance: str) -> NeighborProfile:
    rows, labels = each.features.features, torch.from_numpy(each.features.labels)
    largest = min(k, len(labels) - 1)
    steps = np.array(sorted({step for step in _STEPS if step < largest} | {largest}))
    counted = min(_COUNTED, largest)
    with sharing([(rows, largest, distance, True)], None):
        correct = np.stack([_correct(rows, labels, int(step), distance) for step in steps])  # (m, N)
        near = shared_neighbors(rows, counted, distance=distance, device=labels.device).indices
        try:
            skewness = hubness(rows, labels, k=counted, distance=distance).value
        except UndefinedError:
            skewness = None
    classes = [correct[:, each.features.labels == label].mean(axis=1) for label in np.unique(each.features.labels)]
    occurrences = torch.bincount(near.flatten(), minlength=len(labels)).numpy()
    return NeighborProfile(each, steps, correct.mean(axis=1), np.stack(classes), counted, occurrences, skewness)


def _correct(rows: Rows, labels: Tensor, k: int, distance: str) -> Array:
    found = knn_accuracy(rows, labels, k=k, distance=distance).per_sample
    assert found is not None
    return found.numpy()
