"""How the variance is spread over principal components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.errors import UndefinedError
from embedscope.ops.gathering import gathered
from embedscope.ops.spectrum import covariance
from embedscope.plotting import kind
from embedscope.plotting.figure import INK, series
from embedscope.plotting.inputs import described

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedscope.plotting.figure import Sheet
    from embedscope.plotting.inputs import Embedding

    Array = np.ndarray[Any, Any]

THRESHOLDS = (0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Spectrum:
    """The spectrum of an input.

    Attributes:
        of: the input.
        shares: (r,) float64, descending: the share of the variance in each principal component; without those that have none.
        curve: (r,) ascending to 1: in the first 1, 2, … of them.
        components: threshold -> how many components reach it.
    """

    of: Embedding
    shares: Array
    curve: Array
    components: Mapping[float, int]


def draw_spectra(sheet: Sheet, spectra: Sequence[Spectrum]) -> None:
    """Draw the cumulative curve with its thresholds, and the eigenvalues on two logarithmic axes, one line per input."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    heading, titles, notes = described("Spectrum", [each.of for each in spectra], drawn=False)
    colors = series(len(spectra))
    legend = [
        Line2D(
            [],
            [],
            color=color,
            label=f"{title.replace(chr(10), ' ')}: {', '.join(str(count) for count in each.components.values())}",
        )
        for color, title, each in zip(colors, titles, spectra, strict=True)
    ]
    notes.append("Dashed: 90, 95 and 99% of the variance; in the legend: the number of components needed.")
    panels = sheet.arrange(
        ["cumulative share", "eigenvalues over their sum"], heading=heading, aspect=0.8, most=2, legend=legend, notes=notes
    )
    last = max(each.components[THRESHOLDS[-1]] for each in spectra)
    for color, each in zip(colors, spectra, strict=True):
        places = np.arange(1, len(each.shares) + 1)
        panels[0].plot(np.r_[0, places], np.r_[0.0, each.curve], color=color)
        for threshold, count in each.components.items():
            panels[0].plot(count, each.curve[count - 1], "o", color=color, markersize=3)
            panels[0].plot([count, count], [0, threshold], color=color, linewidth=0.5, linestyle=":")
        panels[1].plot(places, each.shares, color=color, marker="o" if len(places) < 3 else None, markersize=3)
    for threshold in THRESHOLDS:
        panels[0].axhline(threshold, color=INK, linewidth=0.5, linestyle=(0, (4, 3)), zorder=0)
    panels[0].set(xlim=(0, 1.15 * last + 0.5), ylim=(0, 1.02), xlabel="components")
    panels[0].set_yticks([0, 0.25, 0.5, 0.75, 0.9], ["0", "25%", "50%", "75%", "90%"])
    panels[0].locator_params(axis="x", integer=True)
    panels[1].set(xscale="log", yscale="log", xlabel="component")
    for axis in (panels[1].xaxis, panels[1].yaxis):
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,), numticks=6))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    panels[1].grid(True)


@kind("Spectrum", takes="embeddings", draw=draw_spectra)
def spectrum(inputs: Sequence[Embedding]) -> list[Spectrum]:
    """Cumulative explained variance, and the eigenvalues on logarithmic axes.

    Of all rows, centered. UndefinedError if all rows are equal. Jolliffe 2002, doi:10.1007/b98835, section 6.1.1.
    """
    return [_spectrum(each) for each in inputs]


def _spectrum(each: Embedding) -> Spectrum:
    eigenvalues = gathered(covariance, each.features.features, None).eigenvalues().numpy()
    eigenvalues = eigenvalues[eigenvalues > 0]
    if not len(eigenvalues):
        raise UndefinedError(f"{each.features.source}: all rows are equal, there is no variance to explain")
    shares = eigenvalues / eigenvalues.sum()
    curve = np.minimum(shares.cumsum(), 1.0)
    # A curve that meets the threshold exactly may miss it by rounding.
    counts = {threshold: int(np.argmax(curve >= threshold - 1e-12)) + 1 for threshold in THRESHOLDS}
    return Spectrum(each, shares, curve, counts)
