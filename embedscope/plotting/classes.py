"""Relations of classes: their share of the channels, and which are confused."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope.evaluation.class_findings import Sides, confusions
from embedscope.metrics.class_kl import class_kl
from embedscope.plotting import kind
from embedscope.plotting.figure import GRAY, INK, extremes, fitted, series
from embedscope.plotting.inputs import described
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedscope.plotting.figure import Sheet
    from embedscope.plotting.inputs import Embedding

    Array = np.ndarray[Any, Any]

# Rows of a list of classes or of pairs of classes.
MOST_ROWS = 14

# The matrix has names up to the first, and is drawn as dots instead of cells beyond the second.
MOST_NAMED = 26
MOST_CELLS = 120


@dataclass(frozen=True)
class ClassRelations:
    """The classes of an input.

    Attributes:
        of: the input.
        classes: (k,) int64, those that have rows, ascending.
        label_share: (k,) float64, of the samples that are of each class; sums to 1.
        feature_share: (k,) float64, of the channels' mass that each class has; sums to 1.
        divergence: direction -> KL in nats; "target_to_feature" is KL(labels || features).
        pairs: (p, 2) int64, a class and another one that is nearest to some of its samples (of those that are shown).
        nearest: (p,) int64, to how many samples of the first.
        misplaced: (p,) int64, how many are nearer to the other than to their own (a silhouette below 0).
        share: (p,) float64, `nearest` over the samples of the first class.
        finding: what stands out among the pairs, in words; None if nothing does.
    """

    of: Embedding
    classes: Array
    label_share: Array
    feature_share: Array
    divergence: Mapping[str, float]
    pairs: Array
    nearest: Array
    misplaced: Array
    share: Array
    finding: str | None = None


def draw_classes(sheet: Sheet, relations: Sequence[ClassRelations]) -> None:
    """Draw for each input the two histograms, the matrix of nearest other classes, and the most confused pairs."""
    heading, titles, notes = described("Classes", [each.of for each in relations], drawn=True)
    rows = max(min(max(len(each.classes), len(each.pairs)), MOST_ROWS) for each in relations)
    height = max(0.72 * sheet.width.tallest, sheet.lines(1.2 * rows + 5))
    darkest = max(float(each.share.max()) for each in relations)
    longest = max(int(each.nearest[each.misplaced > 0].max(initial=1)) for each in relations)
    views = [
        (each, draw, f"{title}\n{what}")
        for title, each in zip((title.replace("\n", " ") for title in titles), relations, strict=True)
        for draw, what in (
            (_draw_shares, f"data, channels, KL {each.divergence['target_to_feature']:.3f}"),
            (partial(_draw_matrix, darkest=darkest), "nearest other class"),
            (partial(_draw_pairs, longest=longest), "most confused"),
        )
    ]
    panels = sheet.arrange(
        [title for _, _, title in views],
        heading=heading,
        height=height,
        most=3 if sheet.width.columns > 2 else 1,
        notes=[
            *(f"{each.of.name}: {each.finding}." for each in relations if each.finding),
            *notes,
            "Data, channels: the ring is a class's share of the samples, the dot its share of the activation (KL in nats).",
            "Most confused: samples of the first class whose nearest other class is the second, in color if they are "
            "nearer to it than to their own. Pairs without any such sample are left out.",
        ],
    )
    for axes, (each, draw, _) in zip(panels, views, strict=True):
        draw(sheet, axes, each)


def _draw_shares(sheet: Sheet, axes: Any, each: ClassRelations) -> None:
    ratio = each.feature_share / each.label_share
    order = np.argsort(ratio, kind="stable")
    start, end = extremes(len(order), MOST_ROWS)
    kept = [*order[:start], *order[len(order) - end :]]
    gap = start if end else len(kept)
    places = np.array([row + (row >= gap) for row in range(len(kept))])
    axes.hlines(places, each.label_share[kept], each.feature_share[kept], color=GRAY, linewidth=1)
    axes.plot(each.label_share[kept], places, "o", color=INK, markerfacecolor="white", markersize=3.5, markeredgewidth=0.8)
    axes.plot(each.feature_share[kept], places, "o", color=series(1)[0], markersize=3.5)
    names = [each.of.features.class_names[each.classes[row]] for row in kept]
    if end:
        axes.annotate(
            f"{counted(len(order) - len(kept), 'class')} between",
            (0.5, gap),
            xycoords=("axes fraction", "data"),
            ha="center",
            va="center",
            fontsize="small",
            color="#666666",
        )
    axes.set_yticks(places, [fitted(name, 0.33 * sheet.panel[0], 0.833 * sheet.width.font) for name in names])
    axes.set(ylim=(max(places) + 0.6, -0.6), xlabel="share", xlim=(0, None))
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    axes.grid(True, axis="x")


def _draw_matrix(sheet: Sheet, axes: Any, each: ClassRelations, *, darkest: float) -> None:
    count = len(each.classes)
    own, other = np.searchsorted(each.classes, each.pairs.T)
    if count > MOST_NAMED:
        order = _neighbors_together(count, own, other, each.share)
        place = np.argsort(order)
        own, other = place[own], place[other]
    if count > MOST_CELLS:
        axes.scatter(other, own, s=4 * each.share, color=INK, linewidths=0, alpha=0.7)
        axes.set(xlim=(-1, count), ylim=(count, -1))
        axes.set_aspect("equal")
    else:
        matrix = np.zeros((count, count))
        matrix[own, other] = each.share
        axes.imshow(matrix, cmap="Grays", vmin=0, vmax=darkest, interpolation="nearest", origin="upper")
    axes.spines[["top", "right"]].set_visible(True)
    axes.set_anchor("N")
    if count <= MOST_NAMED:
        names = [
            fitted(each.of.features.class_names[label], 0.3 * sheet.panel[0], 0.7 * sheet.width.font) for label in each.classes
        ]
        # Names that are long stand at the rows only, with numbers that stand at the columns too.
        long = max(map(len, names)) > 2
        size = 0.7 * sheet.width.font
        axes.set_xticks(range(count), [str(place + 1) for place in range(count)] if long else names, fontsize=size)
        axes.set_yticks(
            range(count), [f"{name}  {place + 1}" for place, name in enumerate(names)] if long else names, fontsize=size
        )
        axes.tick_params(length=0)
        if count <= 10:
            for row, column, share in zip(own, other, each.share, strict=True):
                if share >= 0.005:
                    axes.text(
                        column,
                        row,
                        f"{100 * share:.0f}",
                        ha="center",
                        va="center",
                        fontsize=0.6 * sheet.width.font,
                        color="white" if share > 0.5 * darkest else INK,
                    )
            axes.set_xlabel("nearest other class, % of the row", fontsize="small")
    else:
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(f"{count:,} classes, clustered", fontsize="small")


def _neighbors_together(count: int, own: Array, other: Array, share: Array) -> Array:
    """Order classes so that those that are near one another are side by side: leaves of an average linkage, (k,)."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    likeness = np.zeros((count, count))
    likeness[own, other] = share
    apart = 1.0 - (likeness + likeness.T) / 2
    np.fill_diagonal(apart, 0.0)
    order: Array = leaves_list(linkage(squareform(apart, checks=False), "average"))
    return order


def _draw_pairs(sheet: Sheet, axes: Any, each: ClassRelations, *, longest: int) -> None:
    order = np.lexsort((-each.nearest, -each.misplaced))
    order = order[each.misplaced[order] > 0][:MOST_ROWS]
    if not len(order):
        axes.annotate("no sample is nearer to another class", (0.01, 0), xycoords=("axes fraction", "data"), va="center")
    names = each.of.features.class_names
    size = 0.833 * sheet.width.font
    half = 0.32 * sheet.panel[0]
    places = np.arange(len(order))
    axes.barh(places, each.nearest[order], height=0.8, color="#e6e6e6")
    axes.barh(places, each.misplaced[order], height=0.8, color="#ffcf80")
    for place, (own, other) in zip(places, each.pairs[order], strict=True):
        text = f"{fitted(names[own], half, size)} → {fitted(names[other], half, size)}"
        axes.annotate(text, (0.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=size)
    axes.set(ylim=(MOST_ROWS - 0.4, -0.6), yticks=[], xlabel="samples")
    axes.set_xlim(0, 1.05 * longest)
    axes.locator_params(axis="x", integer=True, nbins=5)


@kind("Classes", takes="embeddings", draw=draw_classes)
def classes(inputs: Sequence[Embedding], *, activation: str = "abs") -> list[ClassRelations]:
    """Share of the channels and of the data by class, and which classes are confused.

    Shares are over all rows, from the magnitudes of a layer, if any (arXiv:2202.07073 eqs. 4, 6); nearest other classes
    are those of the silhouette, of the rows that are shown. UndefinedError for fewer than two classes, or dead channels only.
    """
    return [_relations(each, activation) for each in inputs]


def _relations(each: Embedding, activation: str) -> ClassRelations:
    features, found = each.features, each.silhouettes
    rows = features.features if features.magnitudes is None else features.magnitudes
    measured = class_kl(rows, torch.from_numpy(features.labels), activation=activation)
    present = np.array(list(measured.by_class["label_histogram"]), dtype=np.int64)
    size = len(features.class_names)
    codes, places = np.unique(each.labels * size + found.nearest, return_inverse=True)
    of_class = np.bincount(each.labels, minlength=size)
    pairs = np.stack([codes // size, codes % size], axis=1)
    names = np.array(features.class_names, dtype=object)
    standing_out = confusions(Sides.of(names[each.labels], names[found.nearest], found.values))
    return ClassRelations(
        of=each,
        classes=present,
        label_share=np.array(list(measured.by_class["label_histogram"].values())),
        feature_share=np.array(list(measured.by_class["feature_histogram"].values())),
        divergence=measured.arrays["directions"],
        pairs=pairs,
        nearest=np.bincount(places),
        misplaced=np.bincount(places, found.values < 0).astype(np.int64),
        share=np.bincount(places) / of_class[pairs[:, 0]],
        finding=standing_out[0].text if standing_out else None,
    )
