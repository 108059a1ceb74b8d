"""Which layer to use: embeddings in the order of a metric, and the smallest that is not significantly worse than the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedscope.errors import InputError, UsageError, unknown
from embedscope.evaluation.comparing import difference_interval
from embedscope.metrics import direction, expanded
from embedscope.text import aligned, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedscope.evaluation.scores import Scores
    from embedscope.metrics import Better


@dataclass(frozen=True)
class RankedLayer:
    """One layer, or other embedding.

    Attributes:
        name: as tables call it.
        source: the file.
        layer: the layer in it.
        dimensions: its width.
        value: of the metric; None if undefined.
        ci95: its 95% interval, if any.
        difference: 95% interval of value - best value, paired where the rows are the same; None for the best, and without
            intervals.
    """

    name: str
    source: str
    layer: str
    dimensions: int
    value: float | None
    ci95: tuple[float, float] | None
    difference: tuple[float, float] | None


@dataclass(frozen=True)
class LayerRanking:
    """Layers in the order of a metric.

    Attributes:
        metric: its key in `Scores.metrics`.
        better: "higher" or "lower".
        layers: the best first; those in which the metric is undefined last.
        take: place in `layers` of the smallest that is not significantly worse than the best; None where all are undefined.
        reason: a sentence on why.
    """

    metric: str
    better: str
    layers: tuple[RankedLayer, ...]
    take: int | None
    reason: str

    @property
    def what(self) -> str:
        """What is ranked: the layers of one source, or embeddings of several."""
        return _what(self.layers)

    def as_json(self) -> dict[str, Any]:
        """Lay the ranking out for `score --json`."""
        return {
            "metric": self.metric,
            "better": self.better,
            "take": None if self.take is None else self.layers[self.take].name,
            "reason": self.reason,
            "order": [
                {
                    "name": each.name,
                    "source": each.source,
                    "layer": each.layer,
                    "dimensions": each.dimensions,
                    "value": each.value,
                    "ci95": None if each.ci95 is None else list(each.ci95),
                    "difference_ci95": None if each.difference is None else list(each.difference),
                }
                for each in self.layers
            ],
        }

    def __repr__(self) -> str:
        lines = [[self.what, "dimensions", self.metric]]
        lines += [
            [each.name, f"{each.dimensions:,}", "–" if each.value is None else f"{each.value:.4f}"] for each in self.layers
        ]
        return f"{aligned(lines)}\n{self.reason}"


def rank_layers(scores: Sequence[Scores], by: str | None = None) -> LayerRanking:
    """Order embeddings by a metric, and name the smallest that is not significantly worse than the best.

    Significant is a 95% interval of the difference to the best that excludes 0, each taken by itself; intervals are paired
    where the rows are the same. Among layers of one width, the better one is taken. Without intervals, the best is taken.

    Args:
        scores: of the layers, of the same rows for a comparison that is fair.
        by: the metric, as in `Scores.metrics`; the first one by default.

    Raises:
        UsageError: a metric that was not measured, or for which neither direction is better.
        InputError: no embeddings.
    """
    if not len(scores):
        raise InputError("no layers to rank")
    key = next(iter(scores[0].metrics)) if by is None else by
    if key not in scores[0].metrics:
        raise UsageError(unknown("measured metric", key, scores[0].metrics))
    better = check_ranked([key])
    sign = 1 if better == "higher" else -1
    values = [entry.metrics[key].value if key in entry.metrics else None for entry in scores]
    defined = [place for place, value in enumerate(values) if value is not None]
    order = sorted(defined, key=lambda place: (-sign * (values[place] or 0.0), scores[place].dimensions))
    gaps = {place: difference_interval(scores[order[0]], scores[place], key) for place in order[1:]}
    layers = [_ranked(scores[place], key, gaps.get(place)) for place in order]
    layers += [_ranked(entry, key, None) for entry, value in zip(scores, values, strict=True) if value is None]
    take, reason = _choice(layers[: len(order)], key, sign, _what(layers))
    return LayerRanking(key, better, tuple(layers), take, reason)


def _what(layers: Sequence[RankedLayer]) -> str:
    return "layer" if len({each.source for each in layers}) == 1 else "embedding"


def check_ranked(metrics: Sequence[str]) -> Better:
    """Return which direction of the first metric is better; UsageError if neither is."""
    metrics = [str(each) for each in expanded(metrics)]  # the first of a set
    better = direction(metrics[0])
    if better is None:
        others = [each for each in metrics[1:] if direction(each) is not None]
        instead = f"name {' or '.join(others)} first" if others else "rank by silhouette, for example"
        raise UsageError(f"layers cannot be ranked by {metrics[0]}, which has no better direction; {instead}")
    return better


def _ranked(entry: Scores, key: str, difference: tuple[float, float] | None) -> RankedLayer:
    found = entry.metrics.get(key)
    value, ci95 = (None, None) if found is None else (found.value, found.ci95)
    return RankedLayer(entry.name, entry.source, entry.layer, entry.dimensions, value, ci95, difference)


def _choice(layers: Sequence[RankedLayer], key: str, sign: int, what: str) -> tuple[int | None, str]:
    """Choose among ordered layers: return a place and the reason as a sentence."""
    if not layers:
        return None, f"no choice: {key} is undefined in all {what}s"
    best = layers[0]
    first = f"use {best.name} ({counted(best.dimensions, 'dimension')})"
    if len(layers) == 1:
        return 0, f"{first}: it is the only {what}"
    if all(each.difference is None for each in layers):
        return 0, f"{first}: the best {key}; without intervals, no smaller {what} can be shown to be as good"
    as_good = [
        place
        for place, each in enumerate(layers)
        if not place or (each.difference is not None and max(sign * end for end in each.difference) >= 0)
    ]
    take = min(as_good, key=lambda place: (layers[place].dimensions, place))
    chosen = layers[take]
    if take:
        assert chosen.difference is not None
        low, high = chosen.difference
        return take, (
            f"use {chosen.name} ({counted(chosen.dimensions, 'dimension')}): the smallest whose {key} is not significantly "
            f"worse than that of {best.name} ({best.dimensions:,}); 95% interval of the difference {low:+.4f} to {high:+.4f}"
        )
    smaller = [each for each in layers if each.dimensions < best.dimensions]
    why = f"all smaller {what}s are significantly worse" if smaller else f"no {what} is smaller"
    return 0, f"{first}: the best {key}, and {why}"
