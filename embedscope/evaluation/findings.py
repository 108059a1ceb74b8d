"""What stands out in an embedding, in words: one rule per finding, each with its evidence and what to do next.

A rule reads `Scores` and nothing else. It returns None where the scores lack what it looks at, and otherwise its findings. It
fires only where an interval, or a count that needs none, carries the sentence.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from embedscope.evaluation import class_findings
from embedscope.evaluation.finding import Finding, ordered
from embedscope.ops.statistics import Z95
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedscope.evaluation.scores import Measurement, Scores

# Share of the variance in one direction, and that which is too much even for the means of few classes; share of the dimensions
# below which the number that is used is worth a sentence.
_DOMINANT = 0.6
_OVERWHELMING = 0.9
_FEW_CLASSES = 4
_UNUSED = 0.25

# How far two accuracies must be apart, at the near end of the interval of their difference.
_HIDDEN = 0.05

# Mean cosine of pairs that tells of a common offset, and the skewness from which a few rows are neighbors of most.
_OFFSET = 0.5
_HUBS = 3.0


def with_findings(scores: Scores) -> Scores:
    """Add the findings of one embedding, the weightiest first, at most `MOST`, and what the rules examined."""
    found = {what: rule(scores) for what, rule in RULES}
    return replace(
        scores,
        findings=ordered([finding for each in found.values() for finding in each or ()]),
        examined=tuple(what for what, each in found.items() if each is not None),
    )


def _measured(scores: Scores, name: str) -> Measurement | None:
    """Return the first measurement of a metric, whatever its options, unless it is undefined."""
    return next((each for each in scores.metrics.values() if each.name == name and each.value is not None), None)


def _collapsed(scores: Scores) -> list[Finding] | None:
    """Whether all rows are equal, the only case in which the explained variance is undefined."""
    found = [each.value for each in scores.metrics.values() if each.name == "explained_variance"]
    if not found or scores.samples < 2:
        return None
    if found[0] is not None:
        return []
    return [
        Finding(
            "collapsed",
            "high",
            f"The embedding has collapsed: all {scores.samples:,} rows are equal",
            {"samples": scores.samples},
            "Check that the weights were loaded and that the layer depends on the input",
            1.0,
        )
    ]


def _dimensions(scores: Scores) -> list[Finding] | None:
    """Number of dimensions in use; with few samples, more may be in use than they can show."""
    measured = _measured(scores, "explained_variance")
    if measured is None or measured.value is None:
        return None
    used, width = int(measured.value), scores.dimensions
    needed = scores.classes - 1
    if used >= width or used * 4 > scores.samples:
        return []
    evidence = {"used": used, "dimensions": width, "classes": scores.classes, "threshold": measured.arrays["threshold"]}
    share = f"{100 * measured.arrays['threshold']:g}% of the variance"
    if needed >= 4 and used * 2 < needed <= width:
        return [
            Finding(
                "dimensional_collapse",
                "medium",
                f"The embedding has collapsed to {used} of {width} dimensions ({share}), fewer than the {needed} that "
                f"{scores.classes} equally distant classes need",
                evidence,
                "Look for a loss term that favors a few directions, too much weight decay, or a bottleneck before this layer",
                1 - used / needed,
            )
        ]
    if used > _UNUSED * width:
        return []
    return [
        Finding(
            "few_dimensions",
            "low",
            f"The embedding uses {used} of {width} dimensions ({share})",
            evidence,
            f"A narrower layer, or a projection to {counted(used, 'dimension')}, may work as well",
            1 - used / width,
        )
    ]


def _dominant(scores: Scores) -> list[Finding] | None:
    measured = _measured(scores, "explained_variance")
    if measured is None:
        return None
    share = float(measured.arrays["curve"][0])
    if scores.classes <= 2 or scores.dimensions <= 2 or scores.samples < 4 * scores.dimensions:
        return []
    # The means of three or four classes lie in a plane or a space, where one direction holds much of what separates them.
    if share <= (_OVERWHELMING if scores.classes <= _FEW_CLASSES else _DOMINANT):
        return []
    return [
        Finding(
            "dominant_direction",
            "medium" if share > _OVERWHELMING else "low",
            f"One direction holds {100 * share:.0f}% of the variance: distances mostly measure differences along it",
            {"share": share},
            "Standardize or whiten the features before computing distances, or look for a channel with large values",
            share,
        )
    ]


def _dead(scores: Scores) -> list[Finding] | None:
    measured = _measured(scores, "gini")
    if measured is None:
        return None
    dead, width = int(measured.arrays["dead_channels"]), len(measured.arrays["per_channel"])
    if measured.options.get("dead") == "ignore":
        width += dead
    if not dead:
        return []
    return [
        Finding(
            "dead_channels",
            "medium" if dead > width / 4 else "low",
            f"{counted(dead, 'is', 'are', of=counted(width, 'channel'))} dead: 0 for every sample",
            {"dead": dead, "channels": width},
            "Try a lower learning rate, a different initialization or a leaky activation",
            dead / width,
        )
    ]


def _hidden(scores: Scores) -> list[Finding] | None:
    """Classes that a linear probe can read but distances do not show."""
    linear, near = _measured(scores, "linear_probe"), _measured(scores, "knn_accuracy")
    if linear is None or near is None or linear.value is None or near.value is None:
        return None
    if linear.options.get("train") is not None or near.options.get("train") is not None:  # of other rows, and fewer
        return None
    gap = linear.value - near.value
    reach = Z95 * math.sqrt((linear.value * (1 - linear.value) + near.value * (1 - near.value)) / scores.samples)
    if gap - reach <= _HIDDEN:
        return []
    return [
        Finding(
            "hidden_from_distances",
            "medium",
            f"A linear probe predicts {100 * linear.value:.1f}% of the labels and the nearest neighbors {100 * near.value:.1f}%"
            ": the features contain the classes, but distances do not reflect them",
            {"linear_probe": linear.value, "knn_accuracy": near.value, "difference": gap, "ci95": [gap - reach, gap + reach]},
            "Standardize or whiten the features, or train a head with a distance-based loss",
            gap,
        )
    ]


def _offset(scores: Scores) -> list[Finding] | None:
    measured = _measured(scores, "anisotropy")
    if measured is None or measured.value is None:
        return None
    if measured.value <= _OFFSET:
        return []
    return [
        Finding(
            "common_offset",
            "low",
            f"All rows share a common direction: the mean cosine of two random rows is {measured.value:.2f}",
            {"anisotropy": measured.value},
            "Subtract the mean before comparing or searching by cosine",
            measured.value,
        )
    ]


def _hubs(scores: Scores) -> list[Finding] | None:
    measured = _measured(scores, "hubness")
    if measured is None or measured.value is None:
        return None
    if measured.value <= _HUBS:
        return []
    return [
        Finding(
            "hubs",
            "low",
            f"A few rows are among the nearest neighbors of very many others (hubness {measured.value:.1f})",
            {"hubness": measured.value},
            "Center the features, or search with cosines: hubs degrade nearest-neighbor search",
            min(1.0, measured.value / 10),
        )
    ]


# What is looked at, in the words of "nothing stands out", and the rule.
RULES: tuple[tuple[str, Callable[[Scores], list[Finding] | None]], ...] = (
    ("collapse", _collapsed),
    ("separation of the classes", class_findings.not_separated),
    ("confused classes", class_findings.confused),
    ("dimensions in use", _dimensions),
    ("dominant directions", _dominant),
    ("dead channels", _dead),
    ("sizes of the classes", class_findings.small_classes),
    ("linear probe against neighbors", _hidden),
    ("common offset", _offset),
    ("hubs", _hubs),
)
