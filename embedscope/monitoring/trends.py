"""Faults in the curves of a training, found by rules that normal noise does not trigger.

Curves are smoothed by the median of three values, and a change counts if it exceeds the noise several times, which is estimated
from the differences of neighboring values. The limits were set on simulated curves: see tests/monitoring/test_trends.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.metrics import direction

if TYPE_CHECKING:
    from collections.abc import Mapping

    Array = np.ndarray[Any, Any]

# Metrics that count the dimensions which are in use.
RANKS = ("effective_rank", "rankme", "participation_ratio", "stable_rank")

# Those that are 1 for rows on a line, and the value below which rows lie on one.
_LINES, _LINE = ("effective_rank", "participation_ratio"), 1.2

# Metrics that say whether classes come apart.
SILHOUETTES = ("silhouette", "soft_silhouette")

# Values from which a rule is asked.
_LEAST = 6
_LEAST_TO_STALL = 8

# A change is more than noise from this many standard deviations of a single value.
_NOISE = 5.0

# Of a rank, the share of its best value that is lost when it collapsed; of other metrics, the shares of the range until the
# best value, and of that value.
_COLLAPSED = 0.5
_LOST = 0.3
_LOST_OF_VALUE = 0.1

# A loss fell if it lost this share of its size; a silhouette that stalls is below this value.
_FELL = 0.1
_FELL_MUCH = 0.5
_LOW = 0.25


@dataclass(frozen=True)
class TrendFinding:
    """What was found in a curve.

    Attributes:
        rule: "fall", "collapse", "stall" or "not finite".
        step: at which it was found.
        layer: whose curve it is.
        metric: whose curve it is; "" for features that are not finite.
        text: in words.
    """

    rule: str
    step: int
    layer: str
    metric: str
    text: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.text}"


@dataclass
class _Curve:
    """The values of one metric of one layer, and where the search for a fault begins."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # NaN where none was told
    start: int = 0
    stalled: bool = False

    def smooth(self) -> Array:
        """Medians of three values in a row: (n - 2,), from `start` on."""
        values = np.asarray(self.values[self.start :])
        found: Array = np.median(np.lib.stride_tricks.sliding_window_view(values, 3), axis=1)
        return found

    def noise(self) -> float:
        """The standard deviation of a single value around a curve that moves slowly.

        Estimated from second differences over 1, 2 and 4 measurements, the largest: values that are close in time may err
        alike.
        """
        values = np.asarray(self.values[self.start :])
        found = []
        for lag in (1, 2, 4):
            bends = values[: -2 * lag] - 2 * values[lag:-lag] + values[2 * lag :]
            if len(bends) >= 4 * lag:  # most have to be free of a fall that is beginning
                found.append(1.4826 * np.median(np.abs(bends)) / 6**0.5)
        return float(max(found))

    def rose(self) -> bool:
        """Whether it is, or was, above its first values by more than noise."""
        smooth = self.smooth()
        return float(smooth.max() - smooth[0]) > max(3 * self.noise(), 0.02)

    def loss_change(self, since: int) -> float | None:
        """The relative change of the loss from the three values around a place to the last three; None if it is not known."""
        losses = np.asarray(self.losses)
        before, now = losses[max(since - 1, 0) : since + 2], losses[-3:]
        if not np.isfinite(before).any() or not np.isfinite(now).any():
            return None
        first, last = float(np.nanmedian(before)), float(np.nanmedian(now))
        return (last - first) / max(abs(first), 1e-12)


class Trends:
    """The curves of a training: fed point by point, they report each fault once, when it is certain."""

    def __init__(self) -> None:
        self._curves: dict[tuple[str, str], _Curve] = {}

    def take(
        self, step: int, layer: str, values: Mapping[str, float | None], *, loss: float | None = None, classes: int = 0
    ) -> list[TrendFinding]:
        """Add the values of a layer at a step, metric -> value, and return what they show."""
        found = []
        for metric, value in values.items():
            if value is None:
                continue
            curve = self._curves.setdefault((layer, metric), _Curve())
            curve.steps.append(step)
            curve.values.append(value)
            curve.losses.append(float("nan") if loss is None else loss)
            for rule, text in self._asked(curve, layer, metric, classes):
                found.append(TrendFinding(rule, step, layer, metric, text))
        return found

    def _asked(self, curve: _Curve, layer: str, metric: str, classes: int) -> list[tuple[str, str]]:
        if metric in _LINES and classes > 2 and curve.values[-1] < _LINE and max(curve.values[curve.start :]) > 2 * _LINE:
            highest = curve.start + int(np.argmax(curve.values[curve.start :]))  # no noise explains this: one value is enough
            was, now, since = curve.values[highest], curve.values[-1], curve.steps[highest]
            curve.start = len(curve.values) - 1
            ending = _while(curve.loss_change(highest))
            return [("collapse", f"{_words(metric)} fell from {_short(was)} to {_short(now)} since step {since:,}{ending}")]
        better = "higher" if metric in RANKS else direction(metric)
        if better is None or len(curve.values) - curve.start < _LEAST:
            return []
        sign = 1.0 if better == "higher" else -1.0
        smooth, noise = sign * curve.smooth(), curve.noise()
        best = int(smooth[:-1].argmax())
        since = curve.start + best + 1
        was, now = sign * float(smooth[best]), sign * float(smooth[-1])
        if self._is_lost(metric, smooth, best, noise):
            if metric in RANKS and self._is_structure(layer, since, now, classes):
                return []
            curve.start = len(curve.values) - 1
            verb = "fell" if better == "higher" else "rose"
            rule = "collapse" if metric in RANKS else "fall"
            return [(rule, f"{_words(metric)} {verb} from {_short(was)} to {_short(now)} since step "
                           f"{curve.steps[since]:,}{_while(curve.loss_change(since))}")]  # fmt: skip
        return self._stall(curve, layer, metric)

    @staticmethod
    def _is_lost(metric: str, smooth: Array, best: int, noise: float) -> bool:
        """Whether the last two medians, of four values, are below the best one by more than noise, and by a share."""
        was, until = abs(float(smooth[best])), float(np.ptp(smooth[: best + 1]))
        share = _COLLAPSED * was if metric in RANKS else max(_LOST * until, _LOST_OF_VALUE * was)
        return bool((smooth[best] - smooth[-2:] > max(_NOISE * noise, share)).all())

    def _is_structure(self, layer: str, since: int, rank: float, classes: int) -> bool:
        """Whether a rank fell because classes came apart: they need no more dimensions than there are classes less one."""
        curve = self._curves.get((layer, "silhouette"))
        if curve is None or since >= len(curve.values) or not classes:
            return False
        rose = float(np.median(curve.values[-3:])) - curve.values[since]
        return rose > max(3 * curve.noise(), 0.02) and rank >= 0.5 * (classes - 1)

    def _stall(self, curve: _Curve, layer: str, metric: str) -> list[tuple[str, str]]:
        """A silhouette that is low and does not rise, though the loss falls; not for a layer if another one rises."""
        if metric not in SILHOUETTES or curve.stalled or curve.start or len(curve.values) < _LEAST_TO_STALL:
            return []
        change = curve.loss_change(1)
        best, now = float(curve.smooth().max()), float(curve.smooth()[-1])
        risen = [each.rose() for (_, name), each in self._curves.items() if name == metric and len(each.values) >= _LEAST]
        if change is None or change > -_FELL_MUCH or best >= _LOW or any(risen):
            return []
        curve.stalled = True
        return [("stall", f"{_words(metric)} has not risen since step {curve.steps[0]:,} (now {_short(now)}){_while(change)}")]


def _while(change: float | None) -> str:
    if change is None:
        return ""
    if change < -_FELL:
        return " while the loss fell"
    return " while the loss rose" if change > _FELL else " while the loss stayed"


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}" if abs(value) < 1 else f"{value:.1f}"
