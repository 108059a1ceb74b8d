"""Hold scores to limits: `--fail-under silhouette=0.3`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope import plugins
from embedscope.arguments import check_number
from embedscope.errors import ThresholdError, UsageError
from embedscope.metrics import expanded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedscope.evaluation.scores import Scores


def parse_threshold(text: str, metrics: Sequence[str]) -> tuple[str, float]:
    """Read `silhouette=0.3` into the name under which the metric is measured, and the limit.

    UsageError if it is not that, or the metric is not among those measured.
    """
    name, separator, number = text.rpartition("=")
    name = plugins.canonical(name)
    try:
        limit = check_number("", number if not number else float(number))
    except (ValueError, UsageError):
        separator = ""
    if not separator:
        raise UsageError(f"cannot read the threshold '{text}'; expected a form such as silhouette=0.3")
    measured = [plugins.canonical(spec.name) for spec in expanded(metrics)]
    meant = [each for each in measured if plugins.resolved("metrics", each) == plugins.resolved("metrics", name)]
    if not meant:
        raise UsageError(f"the threshold '{text}' is on a metric that is not measured; measured: {', '.join(measured)}")
    if measured.count(name) > 1 or (name not in meant and len(meant) > 1):
        raise UsageError(f"the threshold '{text}' could mean any of {len(meant)} measurements of {name}; measure it only once")
    return name if name in meant else meant[0], limit


def check_thresholds(scores: Sequence[Scores], thresholds: Sequence[tuple[str, float]]) -> None:
    """Raise ThresholdError if a metric is on the wrong side of its limit: below it, or above where lower is better."""
    missed = []
    for entry in scores:
        for name, limit in thresholds:
            value, better = entry.metrics[name].value, entry.metrics[name].better
            if value is None:
                missed.append(f"{entry.name}: {name} is undefined")
            elif value > limit if better == "lower" else value < limit:
                missed.append(f"{entry.name}: {name} is {value:.4f}, {'above' if better == 'lower' else 'below'} {limit:g}")
    if missed:
        raise ThresholdError("; ".join(missed))
