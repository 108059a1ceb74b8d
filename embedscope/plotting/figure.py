"""One figure with a grid of panels, drawn without a display and without pyplot's global state."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.errors import UsageError
from embedscope.store.files import finished

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Array = np.ndarray[Any, Any]

SUFFIXES = (".png", ".svg", ".pdf")

# More classes than this have no colours that an eye can tell apart.
MAX_COLOURS = 20

_STYLE: Any = {
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 150,
    "savefig.dpi": 200,
    "svg.fonttype": "none",  # text stays text
    "pdf.fonttype": 42,
}


def check_suffix(path: Path) -> None:
    """Raise UsageError for an output that is no picture."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"cannot draw '{path}': the name has to end with {', '.join(SUFFIXES)} or .html")


@contextmanager
def picture(path: Path, rows: int, columns: int) -> Iterator[tuple[Figure, list[list[Axes]]]]:
    """Make a figure of rows x columns square panels; leaving the context writes it in the format of the path's suffix.

    The file bears its name only when it is complete; an error leaves nothing behind.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.2 * columns + 0.9, 3.3 * rows), layout="constrained")
        yield figure, figure.subplots(rows, columns, squeeze=False).tolist()
        for text in figure.findobj(Text):
            text.set_parse_math(False)  # a class called $x^$ is a name, not a formula
        with finished(path) as partial, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box, which says as much
            figure.savefig(partial, format=path.suffix[1:].lower())


def scatter(axes: Axes, points: Array, labels: Array, class_names: Sequence[str], title: str, unit: str) -> None:
    """Draw (n, 2) points coloured by class, (n,) indices into the class names; axes have no scale worth reading."""
    size = float(np.clip(4000 / max(len(points), 1), 2, 14))
    shuffled = np.random.default_rng(0).permutation(len(points))  # no class is always on top
    axes.scatter(
        points[shuffled, 0],
        points[shuffled, 1],
        c=[colours(len(class_names))[label] for label in labels[shuffled]],
        s=size,
        linewidths=0,
        alpha=0.8,
    )
    axes.set(title=title, xlabel=f"{unit} 1", ylabel=f"{unit} 2", xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")


def class_legend(figure: Figure, class_names: Sequence[str]) -> None:
    """Put the classes beside the panels; beyond the number of colours, a line that says so."""
    from matplotlib.lines import Line2D

    if len(class_names) > MAX_COLOURS:
        figure.supxlabel(
            f"{len(class_names)} classes: too many for a legend, or for colours that can be told apart", fontsize=8
        )
        return
    dots = [
        Line2D([], [], marker="o", linestyle="", markersize=4, color=colour, label=name)
        for name, colour in zip(class_names, colours(len(class_names)), strict=True)
    ]
    figure.legend(handles=dots, loc="outside right center", frameon=False, title="class", handletextpad=0.1)


def colours(count: int) -> list[Any]:
    """Choose a colour a class: a palette made for colour-blind readers up to ten, then pairs of hues, then a colour map."""
    import matplotlib as mpl

    if count <= 10:
        return list(mpl.color_sequences["petroff10"][:count])
    if count <= MAX_COLOURS:
        return list(mpl.color_sequences["tab20"][:count])
    return [mpl.colormaps["turbo"](position) for position in np.linspace(0, 1, count)]
