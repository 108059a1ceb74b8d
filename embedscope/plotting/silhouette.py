"""The silhouette of every sample, class by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope.ops.statistics import stratified_mean
from embedscope.plotting import kind
from embedscope.plotting.figure import GRAY, INK, extremes, fitted
from embedscope.plotting.inputs import described, measured_silhouettes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedscope.plotting.figure import Sheet
    from embedscope.plotting.inputs import Embedding

    Array = np.ndarray[Any, Any]

# With more classes, the best and the worst are shown, half of this number each.
MOST_CLASSES = 24

# Share of a panel that their names may take.
_NAMES = 0.32


@dataclass(frozen=True)
class SilhouetteProfile:
    """The silhouettes of an input, sorted.

    Attributes:
        of: the input.
        values: (n,) float64 in [-1, 1], of the rows that are shown, against all rows.
        nearest: (n,) int64, the nearest other class of each.
        mean: over all samples; where a sample is shown, estimated from it class by class.
        below: the share of the samples that are below 0.
        classes: (k,) int64, the best first.
        means: (k,) float64, theirs.
    """

    of: Embedding
    values: Array
    nearest: Array
    mean: float
    below: float
    classes: Array
    means: Array


def draw_silhouettes(sheet: Sheet, profiles: Sequence[SilhouetteProfile]) -> None:
    """Draw the classic picture: samples sorted within their class, classes by their mean, and the overall mean as a line."""
    heading, titles, notes = described("Silhouette", [each.of for each in profiles], drawn=True)
    titles = [
        f"{title}\nmean {each.mean:.3f}\n{100 * each.below:.1f}% below 0" for title, each in zip(titles, profiles, strict=True)
    ]
    most = max(min(len(each.classes), MOST_CLASSES + 1) for each in profiles)
    if most > MOST_CLASSES:
        notes.insert(0, "Only the best and worst classes are shown; gray in the middle: all others, sorted.")
    height = max(0.75 * sheet.width.tallest, sheet.lines(1.15 * most + 5))
    panels = sheet.arrange(
        titles, heading=heading, height=height, names=_NAMES, notes=[*notes, "Dashed: the mean over all samples."]
    )
    low = min(float(each.values.min()) for each in profiles)
    high = max(float(each.values.max()) for each in profiles)
    for axes, each in zip(panels, profiles, strict=True):
        _draw(sheet, axes, each, height)
        axes.set(xlim=(min(-0.05, 1.05 * low), max(0.1, 1.05 * high)), xlabel="silhouette")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)


def _draw(sheet: Sheet, axes: Any, profile: SilhouetteProfile, height: float) -> None:
    names, labels = profile.of.features.class_names, profile.of.labels
    best, worst = extremes(len(profile.classes), MOST_CLASSES)
    hidden = profile.classes[best : len(profile.classes) - worst]
    groups = [(place, labels == place) for place in profile.classes[:best]]
    if len(hidden):
        groups.append((-1, np.isin(labels, hidden)))
        groups += [(place, labels == place) for place in profile.classes[len(profile.classes) - worst :]]
    room = _NAMES * sheet.panel[0]
    # A band is as high as its class is large, and high enough for its name.
    shares = np.array([0.0 if place < 0 else chosen.sum() for place, chosen in groups], dtype=float)
    least = sheet.lines(1.0) / max(height - sheet.lines(5), 0.5)
    heights = np.maximum(shares / max(shares.sum(), 1), least)
    if len(hidden):
        heights[best] = 3 * least
    top, ticks, texts = 0.0, [], []
    for (place, chosen), high in zip(groups, heights, strict=True):
        values = np.sort(profile.values[chosen])[::-1]
        depth = top + high * np.linspace(0.04, 0.96, len(values) + 1).repeat(2)[1:-1]
        color = GRAY if place < 0 else sheet.palette.colors[place]
        axes.fill_betweenx(depth, 0, values.repeat(2), color=color, linewidth=0.3)
        ticks.append(top + high / 2)
        count = f"{len(hidden):,} others" if place < 0 else names[place]
        texts.append(fitted(count, room, 0.833 * sheet.width.font))
        top += high + 0.25 * least
    axes.axvline(profile.mean, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.axvline(0, color=INK, linewidth=0.6)
    axes.set_ylim(top, 0)
    axes.set_yticks(ticks, texts)


@kind("Silhouette", takes="embeddings", draw=draw_silhouettes)
def silhouette(inputs: Sequence[Embedding], *, distance: str = "euclidean") -> list[SilhouetteProfile]:
    """Silhouette of every sample, sorted within its class; classes sorted by their means.

    Exact, against all rows; where not all rows are shown, of those that are. UndefinedError for fewer than two classes.
    """
    return [_profile(each, distance) for each in inputs]


def _profile(each: Embedding, distance: str) -> SilhouetteProfile:
    found = each.silhouettes if distance == "euclidean" else measured_silhouettes(each, distance)
    labels, everyone = torch.from_numpy(each.labels), torch.from_numpy(each.features.labels)
    mean, _ = stratified_mean(torch.from_numpy(found.values), labels, everyone)
    below, _ = stratified_mean(torch.from_numpy((found.values < 0).astype(np.float64)), labels, everyone)
    classes, places = np.unique(each.labels, return_inverse=True)
    means = np.bincount(places, found.values) / np.bincount(places)
    order = np.argsort(-means, kind="stable")
    return SilhouetteProfile(each, found.values, found.nearest, mean, below, classes[order], means[order])
