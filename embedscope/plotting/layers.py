"""How metrics change from layer to layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedscope.evaluation import evaluate
from embedscope.evaluation.ranking import rank_layers
from embedscope.metrics import STANDARD, direction
from embedscope.plotting import kind
from embedscope.plotting.figure import INK, fitted, series
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedscope.evaluation.scores import Measurement, Scores
    from embedscope.plotting.figure import Sheet
    from embedscope.plotting.inputs import Embedding

# Areas of the marks of the narrowest and of the widest layer, in points squared.
_AREAS = (12.0, 90.0)


@dataclass(frozen=True)
class LayerValues:
    """A layer.

    Attributes:
        of: the input.
        dimensions: its width.
        metrics: name -> measurement; without those that are undefined.
        taken: metrics by which it is the smallest that is not significantly worse than the best.
    """

    of: Embedding
    dimensions: int
    metrics: Mapping[str, Measurement]
    taken: frozenset[str]


def draw_layers(sheet: Sheet, layers: Sequence[LayerValues]) -> None:
    """Draw a panel per metric, the layers from left to right; the larger a dot, the wider the layer."""
    from matplotlib.lines import Line2D

    names = list(dict.fromkeys(name for each in layers for name in each.metrics))
    arrows = {"higher": " ↑", "lower": " ↓", None: ""}
    sources = list(dict.fromkeys(map(_source, layers)))
    stores = [[each for each in layers if _source(each) == source] for source in sources]
    alike = len({tuple(each.of.features.layer for each in store) for store in stores}) == 1
    columns = stores[0] if alike else list(layers)
    starts = [0] * len(stores) if alike else [sum(map(len, stores[:place])) for place in range(len(stores))]
    notes = ["Dot area grows with the number of dimensions (in brackets)."]
    if any(each.ci95 for layer in layers for each in layer.metrics.values()):
        notes.append("Bars: 95% intervals over samples.")
    if any(layer.taken for layer in layers):
        notes.append("Ring: the smallest layer not significantly worse than the best (95% interval of the difference).")
    colors = series(len(stores))
    legend = [
        Line2D([], [], marker="o", markersize=4, color=color, label=source)
        for color, source in zip(colors, sources, strict=True)
    ]
    counts = {len(each.of.features.labels) for each in layers}
    panels = sheet.arrange(
        [f"{name}{arrows[direction(name)]}" for name in names],
        heading=f"Layers of {', '.join(sources)}" + (f", {counted(counts.pop(), 'sample')}" if len(counts) == 1 else ""),
        aspect=1.0,
        legend=legend if len(stores) > 1 else (),
        notes=notes,
    )
    labels = [f"{each.of.features.layer} ({each.dimensions:,})" for each in columns]
    room = 0.45 * sheet.panel[1]
    ticks = [fitted(label, room, 0.833 * sheet.width.font) for label in labels]
    for axes, name in zip(panels, names, strict=True):
        for color, store, start in zip(colors, stores, starts, strict=True):
            _draw(axes, store, name, color, start, layers)
        axes.set_xticks(range(len(columns)), ticks, rotation=90)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.margins(y=0.18)
        axes.grid(True, axis="y")


def _source(layer: LayerValues) -> str:
    """What to call all layers of a source: the name of one without the layer's."""
    features = layer.of.features
    return features.name.removesuffix(f":{features.layer}")


def _draw(axes: Any, store: Sequence[LayerValues], name: str, color: str, start: int, layers: Sequence[LayerValues]) -> None:
    there = [(start + place, each) for place, each in enumerate(store) if name in each.metrics]
    places = [place for place, _ in there]
    values = [each.metrics[name].value for _, each in there]
    widths = [each.dimensions for each in layers]
    axes.plot(places, values, color=color, linewidth=0.8)
    for place, each in there:
        if (ends := each.metrics[name].ci95) is not None:
            axes.plot([place, place], ends, color=INK, linewidth=0.9, zorder=5)  # above dots that are wider than it is high
    areas = [_area(each.dimensions, min(widths), max(widths)) for _, each in there]
    axes.scatter(places, values, s=areas, color=color, linewidth=0, zorder=3)
    for (place, each), value, area in zip(there, values, areas, strict=True):
        if name in each.taken:
            axes.scatter([place], [value], s=2.2 * area + 40, facecolors="none", edgecolors=INK, linewidths=0.9, zorder=4)


def _area(width: int, narrowest: int, widest: int) -> float:
    low, high = _AREAS
    return low if widest == narrowest else low + (high - low) * (width - narrowest) / (widest - narrowest)


@kind("Layers", takes="checkpoints", draw=draw_layers)
def layers(inputs: Sequence[Embedding], *, metrics: str | Sequence[str] = STANDARD, seed: int = 0) -> list[LayerValues]:
    """Metrics over the layers of one or more stores, and which layer to use.

    All metrics of all rows; where not all rows are shown, those with a value per sample are estimated from the rows that
    are. Intervals as `score --ci` has them; the seed is theirs.
    """
    scores = [evaluate(each.features, metrics, anchors=each.shown, ci=True, device="cpu", seed=seed) for each in inputs]
    taken = _taken(scores)
    return [
        LayerValues(
            each,
            entry.dimensions,
            {key: found for key, found in entry.metrics.items() if found.value is not None},
            frozenset(key for key, name in taken.items() if name == entry.name),
        )
        for each, entry in zip(inputs, scores, strict=True)
    ]


def _taken(scores: Sequence[Scores]) -> dict[str, str]:
    """Metric -> the layer to take, of metrics with a better direction and intervals."""
    found = {}
    for key, first in scores[0].metrics.items():
        if first.better is not None:
            ranking = rank_layers(scores, key)
            if ranking.take is not None and any(each.difference is not None for each in ranking.layers):
                found[key] = ranking.layers[ranking.take].name
    return found
