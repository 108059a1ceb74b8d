"""Figures of stacked sheets, kept in memory or written; no display, no global state."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from embedscope.plotting.figure import Palette, Sheet, Width, style
from embedscope.store.files import finished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from matplotlib.figure import Figure

# Families that hold what DejaVu Sans lacks; those that are installed are asked in this order.
_FALLBACKS = (
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Hiragino Sans",
    "PingFang SC",
    "Microsoft YaHei",
    "WenQuanYi Zen Hei",
    "Arial Unicode MS",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
)


@contextmanager
def figure_of(width: Width, colours: Callable[[], Palette], count: int) -> Iterator[tuple[Figure, list[Sheet]]]:
    """Make a figure of `count` sheets, one below the other; leaving the context gives it its size.

    `colours` is asked when a sheet needs the palette of the classes, which may take measuring.
    """
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    with _styled(width):
        figure = Figure(layout="constrained")
        grid = figure.add_gridspec(count, 1, hspace=0)
        sheets = [Sheet(figure.add_subfigure(grid[place]), width, colours) for place in range(count)]
        yield figure, sheets
        heights = [sheet.height for sheet in sheets]
        figure.set_size_inches(width.inches, sum(heights))
        grid.set_height_ratios(heights)
        for text in figure.findobj(Text):  # a figure that is kept is drawn where these settings are no longer in force
            text.set_fontfamily(_families())


@contextmanager
def picture(path: Path, width: Width, colours: Callable[[], Palette], count: int) -> Iterator[list[Sheet]]:
    """Make such a figure; leaving the context writes it in the format of the path's suffix.

    The file bears its name only when it is complete; an error leaves nothing behind. The same drawing gives the same bytes,
    but for some identifiers in an .svg, which matplotlib draws from memory addresses.
    """
    with _styled(width):
        with figure_of(width, colours, count) as (figure, sheets):
            yield sheets
        form = path.suffix[1:].lower()
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
        with finished(path) as partial:
            figure.savefig(partial, format=form, metadata=undated.get(form))


@contextmanager
def _styled(width: Width) -> Iterator[None]:
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box, which says as much
        settings: Any = {**style(), "font.size": width.font, "font.sans-serif": _families(), "savefig.dpi": width.dpi}
        mpl.rcParams.update(settings)
        yield


@cache
def _families() -> list[str]:
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(family for family in _FALLBACKS if family in installed)]
