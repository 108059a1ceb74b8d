"""Figures of stacked sheets, kept in memory or written; no display, no global state."""

from __future__ import annotations

import re
import warnings
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from embedscope import plugins
from embedscope.plotting.figure import Palette, Sheet, Width, style
from embedscope.store.files import finished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
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

# How a picture says who made it.
_MAKER = "embedscope"
_MARKS = {".png": b"Software\0embedscope", ".svg": b"<dc:title>embedscope</dc:title>", ".pdf": b"/Creator (embedscope)"}


@contextmanager
def figure_of(width: Width, colors: Callable[[], Palette], count: int) -> Iterator[tuple[Figure, list[Sheet]]]:
    """Make a figure of `count` sheets, one below the other; leaving the context gives it its size.

    `colors` is asked when a sheet needs the palette of the classes, which may take measuring.
    """
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    with _styled(width):
        figure = Figure(layout="constrained")
        grid = figure.add_gridspec(count, 1, hspace=0)
        sheets = [Sheet(figure.add_subfigure(grid[place]), width, colors) for place in range(count)]
        yield figure, sheets
        heights = [sheet.height for sheet in sheets]
        figure.set_size_inches(width.inches, sum(heights))
        grid.set_height_ratios(heights)
        for text in figure.findobj(Text):  # a figure that is kept is drawn where these settings are no longer in force
            text.set_fontfamily(_families())


@contextmanager
def picture(path: Path, width: Width, colors: Callable[[], Palette], count: int) -> Iterator[list[Sheet]]:
    """Make such a figure; leaving the context writes it in the format of the path's suffix.

    The file bears its name only when it is complete; an error leaves nothing behind. The same drawing gives the same bytes,
    but for some identifiers in an .svg, which matplotlib draws from memory addresses.
    """
    with _styled(width):
        with figure_of(width, colors, count) as (figure, sheets):
            yield sheets
        form = path.suffix[1:].lower()
        metadata: dict[str, dict[str, str | None]] = {
            "png": {"Software": _MAKER},
            "svg": {"Date": None, "Creator": _MAKER},
            "pdf": {"CreationDate": None, "Creator": _MAKER},
        }
        with finished(path) as partial:
            figure.savefig(partial, format=form, metadata=metadata[form])


def remove_others(folder: Path, kept: Sequence[Path]) -> list[Path]:
    """Remove the pictures of a folder that embedscope drew and that are not among those kept; return which.

    Only a file that is named after a kind, such as tsne.png or tsne-2.svg, and whose own metadata name embedscope as its maker,
    is removed. Links and all other files stay.
    """
    gone = []
    for path in sorted(folder.iterdir()):
        if path not in kept and path.is_file() and not path.is_symlink() and _is_ours(path):
            path.unlink()
            gone.append(path)
    return gone


def _is_ours(path: Path) -> bool:
    if path.suffix not in _MARKS or re.sub(r"-\d+$", "", path.stem) not in plugins.names("plotting"):
        return False
    return _MARKS[path.suffix] in path.read_bytes()


@contextmanager
def _styled(width: Width) -> Iterator[None]:
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from (current )?font")  # drawn as a box, which says as much
        settings: Any = {**style(), "font.size": width.font, "font.sans-serif": _families(), "savefig.dpi": width.dpi}
        mpl.rcParams.update(settings)
        yield


@cache
def _families() -> list[str]:
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(family for family in _FALLBACKS if family in installed)]
