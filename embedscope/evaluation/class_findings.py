"""Findings about classes: which overlap, which are scattered, which are too small to judge."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.evaluation.finding import Finding, first_names
from embedscope.ops.statistics import wilson_interval
from embedscope.text import counted

if TYPE_CHECKING:
    from embedscope.evaluation.scores import Scores

    Array = np.ndarray[Any, Any]

# How many pairs of classes have a finding of their own.
_PAIRS = 3

# Shares of samples on the wrong side from which a sentence is worth a reader's time, at the low end of their interval.
_NOT_SEPARATED = 0.4
_CONFUSED = 0.05
_STRONGLY_CONFUSED = 0.25
_SCATTERED = 0.25

# Samples of a class below which its own values say little.
_FEW = 5


@dataclass(frozen=True)
class Sides:
    """Samples nearer to another class than to their own: how many of each class, and to which class.

    `sure` counts those of `wrong`, and `surely` those of `towards`, whose nearest neighbors vote against their class too, if
    that was measured, and all of them otherwise. Rules decide by these: on average, most samples of a wide class lie nearer to
    a narrow one next to it, and with many dimensions the distances to all classes are about equal, though no sample has a
    neighbor of another class.
    """

    total: Counter[str]
    wrong: Counter[str]
    towards: Counter[tuple[str, str]]
    sure: Counter[str]
    surely: Counter[tuple[str, str]]

    @classmethod
    def of(cls, labels: Array, nearest: Array, silhouettes: Array, outvoted: Array | None = None) -> Sides:
        """Count samples by the names of their classes (n,), those of the nearest other classes (n,), and silhouettes (n,).

        `outvoted` (n,) bool says whose nearest neighbors vote for another class.
        """
        crossed = silhouettes < 0
        sure = crossed if outvoted is None else crossed & outvoted
        counts = [
            (Counter(labels[chosen].tolist()), Counter(zip(labels[chosen].tolist(), nearest[chosen].tolist(), strict=True)))
            for chosen in (crossed, sure)
        ]
        return cls(Counter(labels.tolist()), *counts[0], *counts[1])


def sides(scores: Scores) -> Sides | None:
    """Count the samples of each class that lie nearer to another; None without silhouettes of samples."""
    measured, votes = _first(scores, "silhouette"), _first(scores, "knn_accuracy")
    table = scores.table
    if table is None or table.nearest is None or measured not in table.values:
        return None
    voted = table.values.get(votes)
    outvoted = None if voted is None or np.isnan(voted).any() else voted == 0  # NaN: of rows that only vote
    return Sides.of(table.labels, table.nearest, table.values[measured], outvoted)


def _first(scores: Scores, name: str) -> str:
    """Return the key of the first measurement of a metric, "" if there is none."""
    return next((key for key, each in scores.metrics.items() if each.name == name), "")


def _share(hits: int, total: int) -> str:
    """Format a share as a percentage with its 95% interval: "18% [10, 29]"."""
    low, high = wilson_interval(hits, total)
    return f"{100 * hits / total:.0f}% [{100 * low:.0f}, {100 * high:.0f}]"


def not_separated(scores: Scores) -> list[Finding] | None:
    """Whether too many samples lie nearer to another class for any single pair of classes to be worth naming."""
    return None if scores.sides is None else _not_separated(scores.sides)


def _not_separated(sides: Sides) -> list[Finding]:
    wrong, total = sides.wrong.total(), sides.total.total()
    interval = wilson_interval(wrong, total)
    if wilson_interval(sides.sure.total(), total)[0] <= _NOT_SEPARATED:
        return []
    return [
        Finding(
            "not_separated",
            "high",
            f"The classes are barely separated: {_share(wrong, total)} of the samples lie nearer to another class than to "
            "their own",
            {"wrong": wrong, "samples": total, "share": wrong / total, "ci95": list(interval)},
            "Check that labels and features belong to the same rows, or score another layer",
            1.0,
        )
    ]


def confused(scores: Scores) -> list[Finding] | None:
    """Pairs of classes that overlap, and classes that overlap with many."""
    return None if scores.sides is None else confusions(scores.sides)


def confusions(sides: Sides) -> list[Finding]:
    """Name the pairs of classes that overlap, strongest first, and the class that overlaps with many."""
    if _not_separated(sides):
        return []
    tests = len(sides.total) * (len(sides.total) - 1)  # one per ordered pair
    low = {
        pair: wilson_interval(hits, sides.total[pair[0]], tests)[0]
        for pair, hits in sides.surely.items()
        if sides.total[pair[0]] >= _FEW
    }
    carried = sorted((pair for pair in low if low[pair] > _CONFUSED), key=lambda pair: -low[pair])
    pairs: list[tuple[str, str]] = []
    for pair in carried:
        if pair not in pairs and pair[::-1] not in pairs:
            pairs.append(pair)
    shown = pairs[:_PAIRS]
    left = len(pairs) - len(shown)
    found = [_pair(sides, pair, low[pair], left if pair == shown[-1] else 0) for pair in shown]
    named = {each for pair in shown for each in pair}
    return found + [each for each in _scattered(sides) if each.evidence["class"] not in named]


def _pair(sides: Sides, pair: tuple[str, str], low: float, more: int) -> Finding:
    one, other = pair
    hits, back = sides.towards[pair], sides.towards[pair[::-1]]
    total, others = sides.total[one], sides.total[other]
    text = (
        f"Classes {one} and {other} overlap: {hits:,} of {total:,} samples of {one} lie nearer to {other} "
        f"({_share(hits, total)})"
    )
    if wilson_interval(sides.surely[pair[::-1]], others)[0] > _CONFUSED:
        text += f", and {back:,} of {others:,} of {other} nearer to {one}"
    if more:
        text += f"; so do {more} more pairs" if more > 1 else "; so does 1 more pair"
    return Finding(
        "confused_classes",
        "high" if low > _STRONGLY_CONFUSED else "medium",
        text,
        {
            "class": one,
            "other": other,
            "wrong": hits,
            "samples": total,
            "share": hits / total,
            "ci95": list(wilson_interval(hits, total)),
            "wrong_of_other": back,
            "samples_of_other": others,
            "more_pairs": more,
        },
        f"Inspect the samples of {one} near {other}: they may be mislabeled, or the features may not tell the classes apart",
        0.5 + low / 2,
    )


def _scattered(sides: Sides) -> list[Finding]:
    """Classes with many samples nearer to other classes, but to no single one in particular."""
    found = []
    for name, wrong in sides.wrong.items():
        total = sides.total[name]
        interval = wilson_interval(wrong, total)
        if total >= _FEW and wilson_interval(sides.sure[name], total, len(sides.total))[0] > _SCATTERED:
            nearest = [other for (mine, other), _ in sides.towards.most_common() if mine == name]
            found.append(
                Finding(
                    "scattered_class",
                    "medium",
                    f"Class {name} is scattered: {_share(wrong, total)} of its {total:,} samples lie nearer to other classes "
                    f"({first_names(nearest)})",
                    {"class": name, "wrong": wrong, "samples": total, "share": wrong / total, "ci95": list(interval)},
                    f"Inspect the samples of {name} with the lowest silhouettes",
                    0.5 + interval[0] / 2,
                )
            )
    return sorted(found, key=lambda each: -each.weight)[:1]


def small_classes(scores: Scores) -> list[Finding] | None:
    """Classes with too few samples for reliable per-class values."""
    if scores.labels is None:
        return None
    counts = Counter(scores.labels.tolist())
    few = [name for name, count in counts.items() if count < _FEW]
    if not few:
        return []
    whose = "its" if len(few) == 1 else "their"
    which = (
        f"{counted(len(few), 'has', 'have', of=counted(len(counts), 'class'))} fewer than {_FEW} samples ({first_names(few)})"
    )
    return [
        Finding(
            "small_classes",
            "low",
            f"{which}: {whose} per-class values are unreliable",
            {"classes": few, "fewest": min(counts.values())},
            "Add samples, or leave these classes out of comparisons",
            len(few) / len(counts),
        )
    ]
