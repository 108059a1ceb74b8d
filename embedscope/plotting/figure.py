"""What all pictures share: widths, sheets of panels, colors of classes, text that fits; no display, no global state.

A picture is a stack of sheets, one a kind. A kind says once what its sheet holds (`Sheet.arrange`: heading, panels, legend,
notes) and then draws into the panels; the sheet works out how high it must be, so that type has one size in every picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedscope.arguments import check_choice
from embedscope.errors import UsageError
from embedscope.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure
    from numpy import ndarray

    Array = ndarray[Any, Any]

SUFFIXES = (".png", ".svg", ".pdf")

# More classes than this are not told apart by ten colors and two shapes.
MAX_CLASSES = 20

# With more classes, this many have a color: those of the ten that are not grayish. The others are gray.
_VIVID = (0, 1, 2, 4, 5, 6, 7, 9)
WORST = len(_VIVID)

GRAY = "#c4c4c4"
INK = "#333333"


@dataclass(frozen=True)
class Width:
    """A preset of `--width`.

    Attributes:
        inches: of the whole picture.
        font: size of the type, in points.
        columns: the most panels beside one another.
        tallest: a panel is at most this high, in inches.
        dpi: of a .png.
    """

    inches: float
    font: float
    columns: int
    tallest: float
    dpi: int


# A column and a page of a two-column paper, and a 16:9 slide.
WIDTHS = {
    "column": Width(3.35, 7, 2, 2.9, 300),
    "page": Width(7.0, 8, 3, 3.3, 300),
    "slide": Width(10.0, 13, 3, 4.1, 192),
}


def check_width(name: str) -> Width:
    """Find a preset; UsageError names the nearest."""
    return WIDTHS[check_choice("width", name, WIDTHS)]


def check_suffix(path: Path) -> None:
    """Raise UsageError for an output that is not a picture."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"cannot draw '{path}': the name must end with {', '.join(SUFFIXES)} or .html, or be a folder without a dot"
        )


@cache
def style() -> dict[str, Any]:
    """Read embedscope.mplstyle."""
    import matplotlib as mpl

    read: Any = mpl.rc_params_from_file(Path(__file__).with_name("embedscope.mplstyle"), use_default_template=False)
    return dict(read)


def series(count: int) -> list[str]:
    """Return `count` colors for lines and bars, "#rrggbb", repeating after ten."""
    known: list[str] = style()["axes.prop_cycle"].by_key()["color"]
    return [known[place % len(known)] for place in range(count)]


@dataclass(frozen=True)
class Palette:
    """How the classes look, in every panel alike.

    Attributes:
        names: (K,) of the classes.
        colors: (K,) "#rrggbb".
        markers: (K,) matplotlib's: ten colors as dots, and the same as triangles.
        listed: classes that the legend names, in its order.
        note: why the others are gray; empty where all have a color.
    """

    names: tuple[str, ...]
    colors: tuple[str, ...]
    markers: tuple[str, ...]
    listed: tuple[int, ...]
    note: str = ""

    def handles(self, size: float) -> list[Artist]:
        """What a legend shows, with marks of `size` points."""
        from matplotlib.lines import Line2D

        return [
            Line2D(
                [], [], linestyle="", markersize=size, markeredgewidth=0, marker=marker, color=color, label=self.names[place]
            )
            for place in self.listed
            for marker, color in [(self.markers[place], self.colors[place])]
        ]


def lowest(labels: Array, silhouettes: Array) -> list[int]:
    """Order the classes by their mean silhouette, the lowest first; those of one sample, which have none, last."""
    import numpy as np

    classes, places = np.unique(labels, return_inverse=True)
    counts = np.bincount(places)
    means = np.where(counts > 1, np.bincount(places, silhouettes) / counts, np.inf)
    return [int(label) for label in classes[np.argsort(means, kind="stable")]]


def palette(names: Sequence[str], worst: Sequence[int] = (), why: str = "", *, slots: Sequence[int] = ()) -> Palette:
    """Give each of (K,) classes its color and shape; beyond MAX_CLASSES, only the worst ones, which `why` explains.

    `slots` (K,) are the places of the classes among the colors, below MAX_CLASSES; their order by default.
    """
    count = len(names)
    if count <= MAX_CLASSES:
        known = series(MAX_CLASSES)
        taken = slots or range(count)
        colors = [known[slot] for slot in taken]
        markers = ["o" if slot < 10 else "^" for slot in taken]
        return Palette(tuple(names), tuple(colors), tuple(markers), tuple(range(count)))
    vivid = [series(10)[place] for place in _VIVID]
    chosen = dict(zip(worst, vivid, strict=False))
    return Palette(
        tuple(names),
        tuple(chosen.get(place, GRAY) for place in range(count)),
        ("o",) * count,
        tuple(chosen),
        f"{count:,} classes: {why}; the other {count - len(chosen):,} are gray.",
    )


class Sheet:
    """The part of a picture that one kind draws.

    Attributes:
        width: the preset.
        height: in inches, known once the sheet is arranged.
        panel: (width, height) of a panel in inches, likewise.
    """

    def __init__(self, figure: SubFigure, width: Width, colors: Callable[[], Palette]) -> None:
        self.width = width
        self._colors = colors
        self.height = 0.0
        self.panel = (0.0, 0.0)
        self._figure = figure

    @property
    def palette(self) -> Palette:
        """How the classes look."""
        return self._colors()

    def lines(self, count: float, size: float = 1.0) -> float:
        """How high `count` lines of type are, in inches; `size` is relative to the preset's."""
        return count * self.width.font * size * 1.32 / 72

    def columns(self, count: int, most: int | None = None) -> int:
        """How many of `count` panels stand side by side: at most `most`, in rows of about one length."""
        most = min(most or self.width.columns, self.width.columns)
        return math.ceil(count / math.ceil(count / most))

    def arrange(
        self,
        titles: Sequence[str],
        *,
        heading: str,
        height: float | None = None,
        aspect: float = 1.0,
        most: int | None = None,
        names: float = 0.0,
        legend: Sequence[Artist] = (),
        notes: Sequence[str] = (),
    ) -> list[Axes]:
        """Lay the sheet out and return its panels, row by row.

        Args:
            titles: one a panel; shortened in the middle where a panel is too narrow for it.
            heading: above all panels: what, of which layer, how many samples.
            height: of a panel, in inches; by default its width times `aspect`, as far as the preset allows.
            aspect: height over width.
            most: panels side by side, at most, where that is fewer than the preset's.
            names: the share of a panel's width that names to the left of its axes take, which titles must leave free.
            legend: handles; beside a single panel on wide pictures, below the panels otherwise.
            notes: small print at the end, a sentence each.
        """
        inches, font = self.width.inches, self.width.font
        columns = self.columns(len(titles), most)
        rows = math.ceil(len(titles) / columns)
        beside = bool(legend) and len(titles) == 1 and self.width.columns > 2
        longest = (0.9 if len(legend) <= 8 else 0.4) * inches
        labels = [fitted(str(handle.get_label()), longest, 0.833 * font) for handle in legend]
        entry = max((text_width(label, 0.833 * font) for label in labels), default=0.0) + 2.4 * font / 72
        across = 1 if beside else max(1, min(len(labels), int(0.98 * inches / entry)))
        legend_height = self.lines(math.ceil(len(labels) / across), 0.833) + self.lines(0.6) if labels else 0.0
        room = inches - (entry + 0.15 if beside else 0.0)
        high = height or min(room / columns * aspect, self.width.tallest)
        if beside:
            high = max(high, legend_height) if height is None else high
        self.panel = (room / columns, high)
        above = wrapped(heading, 0.97 * inches - 0.1, 1.2 * font)  # bold type is wider
        below = [line for note in notes for line in wrapped(note, 0.97 * inches - 0.1, 0.8 * font)]
        heights = {
            "heading": self.lines(len(above), 1.1) + 0.06,
            "panels": rows * high,
            "legend": 0.0 if beside else legend_height,
            "notes": self.lines(len(below), 0.8) + 0.06 if below else 0.0,
        }
        heights = {part: value for part, value in heights.items() if value}
        self.height = sum(heights.values()) + 0.08
        grid = self._figure.add_gridspec(len(heights), 1, height_ratios=list(heights.values()), hspace=0)
        parts = {part: self._figure.add_subfigure(grid[place]) for place, part in enumerate(heights)}
        left = 0.05 / inches
        parts["heading"].text(left, 0.5, "\n".join(above), va="center", fontsize=1.1 * font, fontweight="bold")
        if below:
            parts["notes"].text(
                left, 0.5, "\n".join(below), va="center", fontsize=0.8 * font, color="#666666", linespacing=1.25
            )
        drawn = parts["panels"]
        if beside:
            halves = drawn.add_gridspec(1, 2, width_ratios=[room, inches - room], wspace=0)
            parts["legend"], drawn = drawn.add_subfigure(halves[1]), drawn.add_subfigure(halves[0])
        if labels:
            parts["legend"].legend(handles=list(legend), labels=labels, loc="center", ncols=across)
        axes: list[Axes] = drawn.subplots(rows, columns, squeeze=False).ravel().tolist()
        for spare in axes[len(titles) :]:
            spare.remove()
        for panel, title in zip(axes, titles, strict=False):
            lines = [fitted(line, (1 - names) * self.panel[0] - 3 * font / 72, font) for line in title.split("\n")]
            panel.set_title("\n".join(lines))
        return axes[: len(titles)]


def extremes(count: int, most: int) -> tuple[int, int]:
    """Of `count` sorted things, how many from the start and the end to show so that there are at most `most`."""
    return (count, 0) if count <= most else ((most + 1) // 2, most // 2)


def text_width(text: str, size: float) -> float:
    """How wide a line of type is, in inches, at a size in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return float(width) / 72


def fitted(text: str, inches: float, size: float) -> str:
    """Return the text as it is to be drawn: control characters as escapes, and at most `inches` wide.

    The middle of a wider one is left out: what tells long names apart is mostly at their ends.
    """
    text = printable(text)
    kept = len(text)
    line = text
    while kept > 2 and text_width(line, size) > inches:
        kept = min(kept - 1, int(kept * inches / text_width(line, size)) + 1)
        line = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
    return line


def wrapped(text: str, inches: float, size: float) -> list[str]:
    """Break a text into lines of at most `inches`; a word that is wider loses its middle."""
    lines: list[str] = []
    for word in map(printable, text.split()):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= inches:
            lines[-1] = longer
        else:
            lines.append(fitted(word, inches, size))
    return lines
