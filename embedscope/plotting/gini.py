"""Which channel responds to which class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope.metrics.gini import gini as impurity
from embedscope.plotting import kind
from embedscope.plotting.figure import fitted, series
from embedscope.plotting.inputs import described
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedscope.plotting.figure import Sheet
    from embedscope.plotting.inputs import Embedding

    Array = np.ndarray[Any, Any]

# With more classes, the number of channels they own is drawn by rank and without names.
MOST_CLASSES = 30


@dataclass(frozen=True)
class ChannelProfile:
    """The channels of an input.

    Attributes:
        of: the input.
        impurity: (C,) float64 in [0, 1], of each channel; 0 answers to one class only, a dead channel has 1.
        owned: (K,) int64, the channels that answer most to each class; -1 for a class that the input has no rows of.
        dead: channels that are zero everywhere.
    """

    of: Embedding
    impurity: Array
    owned: Array
    dead: int


def draw_channels(sheet: Sheet, profiles: Sequence[ChannelProfile]) -> None:
    """Draw the distribution of impurity over channels, and how many channels each class owns; one color per input."""
    from matplotlib.lines import Line2D

    heading, titles, notes = described("Gini impurity of the channels", [each.of for each in profiles], drawn=False)
    colors = series(len(profiles))
    legend = [
        Line2D(
            [],
            [],
            color=color,
            label=f"{title.replace(chr(10), ' ')}: {counted(len(each.impurity), 'channel')}, {each.dead:,} dead, "
            f"mean {each.impurity.mean():.3f}",
        )
        for color, title, each in zip(colors, titles, profiles, strict=True)
    ]
    names = profiles[0].of.features.class_names
    named = len(names) <= MOST_CLASSES
    height = max(0.6 * sheet.width.tallest, sheet.lines(1.2 * len(names) + 4) if named else 0.0)
    panels = sheet.arrange(
        ["impurity", "channels of each class"],
        heading=heading,
        height=height,
        most=2,
        legend=legend,
        notes=[*notes, "A class owns the channels that respond most to it; a dead channel has impurity 1 and no owner."],
    )
    low = min(float(each.impurity.min()) for each in profiles)
    bins = np.linspace(low - 0.05 * (1 - low), 1.0, 31)
    for color, each in zip(colors, profiles, strict=True):
        panels[0].hist(each.impurity, bins=bins.tolist(), histtype="step", color=color, linewidth=1.2)
    panels[0].set(xlabel="0: responds to one class", ylabel="channels", xlim=(bins[0], 1 + 0.02 * (1 - bins[0])))
    panels[0].locator_params(axis="y", integer=True)
    panels[0].locator_params(axis="x", nbins=max(2, int(sheet.panel[0] / sheet.lines(4))))
    _draw_owned(sheet, panels[1], profiles, colors, named=named)


def _draw_owned(sheet: Sheet, axes: Any, profiles: Sequence[ChannelProfile], colors: Sequence[str], *, named: bool) -> None:
    names = profiles[0].of.features.class_names
    for shift, (color, each) in enumerate(zip(colors, profiles, strict=True)):
        there = each.owned >= 0
        if named:
            places = np.arange(len(names)) + 0.5 * (shift - (len(profiles) - 1) / 2) / len(profiles)
            axes.hlines(places[there], 0, each.owned[there], color=color, linewidth=0.8)
            axes.plot(each.owned[there], places[there], "o", color=color, markersize=3, clip_on=False)
        else:
            ranked = np.sort(each.owned[there])[::-1]
            axes.step(np.arange(1, len(ranked) + 1), ranked, where="mid", color=color)
            none = int((ranked == 0).sum())
            text = (
                f"{fitted(each.of.name, 0.3 * sheet.panel[0], 0.833 * sheet.width.font)}: {none:,} of {len(ranked):,} own none"
            )
            note = axes.annotate(
                text,
                (1, 0.97 - shift * 1.3 * sheet.lines(1) / sheet.panel[1]),
                xycoords="axes fraction",
                ha="right",
                va="top",
                color=color,
                fontsize="small",
            )
            note.set_in_layout(False)
    if named:
        labels = [fitted(name, 0.35 * sheet.panel[0], 0.833 * sheet.width.font) for name in names]
        axes.set_yticks(range(len(names)), labels)
        axes.set(ylim=(len(names) - 0.4, -0.6), xlabel="channels")
        axes.set_xlim(left=0)
        axes.grid(True, axis="x")
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", integer=True)
    else:
        axes.set(xlabel="class, by rank", ylabel="channels", xlim=(0, len(names) + 1))
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="y", integer=True)


@kind("Gini", takes="embeddings", draw=draw_channels)
def gini(inputs: Sequence[Embedding], *, activation: str = "abs") -> list[ChannelProfile]:
    """Gini impurity of the channels, channels owned by each class, and dead channels.

    Of all rows, from the magnitudes of a layer, if any. arXiv:2202.07073 eq. 5.
    """
    found = []
    for each in inputs:
        features = each.features
        rows = features.features if features.magnitudes is None else features.magnitudes
        measured = impurity(rows, torch.from_numpy(features.labels), activation=activation)
        owned = np.full(len(features.class_names), -1, dtype=np.int64)
        for label, count in measured.by_class["owned_channels"].items():
            owned[label] = int(count)
        found.append(ChannelProfile(each, measured.arrays["per_channel"].numpy(), owned, measured.arrays["dead_channels"]))
    return found
