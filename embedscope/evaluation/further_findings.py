"""What stands out between embeddings, and among rows: findings that take more than the scores of one embedding."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from embedscope.evaluation.finding import Finding, first_names, ordered
from embedscope.ops.statistics import wilson_interval
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedscope.evaluation.comparing import Difference
    from embedscope.evaluation.comparison import Comparison
    from embedscope.evaluation.issues import Issues
    from embedscope.evaluation.scores import Scores
    from embedscope.evaluation.shift import Shift

# Share of labels that look wrong above which more than a few rows need correction.
_MANY = 0.05


def with_comparison(
    scores: Sequence[Scores],
    differences: Sequence[Difference],
    comparisons: Sequence[Comparison] = (),
    shifts: Sequence[Shift] = (),
) -> list[Scores]:
    """Add findings on whether an embedding is better than the first, what became worse, and how it differs from other rows.

    There is a comparison per embedding after the first, and a shift per embedding, if any.
    """
    found = []
    for place, entry in enumerate(scores):
        added = _better(scores[0], entry, differences) if place else []
        added += [each for comparison in comparisons[place - 1 : place] if place for each in _worse(comparison)]
        added += [each for shift in shifts[place : place + 1] for each in _shifted(shift)]
        found.append(_with(entry, added, ["shift"] if shifts else []))
    return found


def with_issues(scores: Scores, issues: Issues) -> Scores:
    """Add the rows that need attention, and what stands out among them."""
    looked = {"label": "labels", "duplicate": "duplicates", "leakage": "leakage between splits", "outlier": "outliers"}
    examined = [what for kind, what in looked.items() if issues.counts.get(kind) is not None]
    return replace(_with(scores, [*_labels(issues), *_copies(issues), *_outliers(issues)], examined), issues=issues)


def _with(scores: Scores, findings: Sequence[Finding], examined: Sequence[str]) -> Scores:
    return replace(scores, findings=ordered([*findings, *scores.findings]), examined=(*scores.examined, *examined))


def _better(first: Scores, second: Scores, differences: Sequence[Difference]) -> list[Finding]:
    """Whether the difference is significant in the silhouette, or else in the first metric with a direction."""
    better = {key: each.better for key, each in second.metrics.items()}
    mine = [each for each in differences if each.second == second.name and better.get(each.metric) is not None]
    each = next((each for each in mine if each.metric == "silhouette"), next(iter(mine), None))
    if each is None or not each.significant or _classes(first) != _classes(second):
        return []
    wins = (each.value > 0) == (better[each.metric] == "higher")
    good, bad = (second, first) if wins else (first, second)
    gap, low, high = (each.value, *each.ci95) if wins else (-each.value, -each.ci95[1], -each.ci95[0])
    same = first.source == second.source and first.layer != second.layer
    subject, other = (f"Layer {good.layer}", f"layer {bad.layer}") if same else (good.name, bad.name)
    return [
        Finding(
            "better_layer" if same else "better",
            "medium",
            f"{subject} is better than {other} in {each.metric}: {gap:+.3f} [{low:+.3f}, {high:+.3f}]"
            + ("" if each.paired else ", on different samples"),
            {"metric": each.metric, "better": good.name, "worse": bad.name, "difference": gap, "ci95": [low, high]},
            f"Use {good.layer if same else good.name} if this is the metric you need",
            1.0,
        )
    ]


def _classes(scores: Scores) -> set[str] | None:
    """Name the classes: metrics of other classes measure another task, and none of them is better."""
    return None if scores.labels is None else set(scores.labels.tolist())


def _worse(comparison: Comparison) -> list[Finding]:
    lost = sorted(
        (each for each in comparison.classes if each.significant and each.difference < 0), key=lambda each: each.difference
    )
    if not lost:
        return []
    most, names = lost[0], first_names([each.name for each in lost])
    assert most.ci95 is not None  # or it would not be significant
    low, high = most.ci95
    subject = f"Class {names} is" if len(lost) == 1 else f"{len(lost):,} classes are"
    which = "" if len(lost) == 1 else f" ({names}), {most.name} the most"
    return [
        Finding(
            "worse_classes",
            "medium",
            f"{subject} worse in {comparison.second} than in {comparison.first}{which}: silhouette {most.difference:+.3f} "
            f"[{low:+.3f}, {high:+.3f}]{'' if comparison.reason is None else ', unpaired'}",
            {"classes": [each.name for each in lost], "class": most.name, "difference": most.difference, "ci95": [low, high]},
            f"Inspect the samples of {most.name} that changed sides",
            0.9,
        )
    ]


def _shifted(shift: Shift) -> list[Finding]:
    if not shift.detected:
        return []
    low, high = shift.auc_ci95
    area, mmd = f"AUC {shift.auc:.2f} [{low:.2f}, {high:.2f}]", f"MMD p = {shift.mmd_p_value:.2g}"
    how = (
        f"a classifier can tell their rows apart ({area}; {mmd})"
        if low > 0.5
        else f"a permutation test detects it ({mmd}; {area})"
    )
    return [
        Finding(
            "shift",
            "high" if low > 0.75 else "medium",
            f"{shift.against} differs from {shift.name}: {how}",
            {"auc": shift.auc, "ci95": [low, high], "mmd_p_value": shift.mmd_p_value, "beyond": shift.beyond},
            "Inspect the farthest rows and the classes that moved",
            max(0.0, 2 * shift.auc - 1),
        )
    ]


def _labels(issues: Issues) -> list[Finding]:
    count = issues.counts.get("label")
    if not count or issues.expected_precision is None:
        return []
    share, low = issues.expected_precision, issues.expected_precision_low
    sure = f"expected precision {share:.2f}" + ("" if low is None else f", at least {low:.2f}")
    return [
        Finding(
            "label_errors",
            "medium" if count > _MANY * issues.samples else "low",
            f"{counted(count, 'looks', 'look', of=counted(issues.samples, 'row'))} mislabeled ({sure})",
            {
                "rows": count,
                "samples": issues.samples,
                "expected_precision": share,
                "expected_precision_low": low,
            },
            "Check the labels of the listed rows, most certain first",
            min(1.0, 0.5 + count / issues.samples),
        )
    ]


def _copies(issues: Issues) -> list[Finding]:
    found = []
    leaked, copies = issues.counts.get("leakage"), issues.counts.get("duplicate")
    if leaked:
        found.append(
            Finding(
                "leakage",
                "high",
                f"{counted(leaked, 'row has', 'rows have')} a copy in another split: held-out values are too optimistic",
                {"rows": leaked, "groups": issues.groups.get("leakage", 0)},
                "Remove these rows from one of the splits and measure again",
                1.0,
            )
        )
    if copies:
        differ = f", {issues.disagreeing:,} of them with different labels" if issues.disagreeing else ""
        found.append(
            Finding(
                "duplicates",
                "medium" if issues.disagreeing or wilson_interval(copies, issues.samples)[0] > _MANY else "low",
                f"{copies:,} rows are copies of one another, in {counted(issues.groups.get('duplicate', 0), 'group')}{differ}",
                {
                    "rows": copies,
                    "groups": issues.groups.get("duplicate", 0),
                    "groups_with_different_labels": issues.disagreeing,
                },
                "Keep one row of each group, with the correct label",
                copies / issues.samples,
            )
        )
    return found


def _outliers(issues: Issues) -> list[Finding]:
    count = issues.counts.get("outlier")
    if not count:
        return []
    return [
        Finding(
            "outliers",
            "low",
            f"{counted(count, 'row lies', 'rows lie')} far from all others",
            {"rows": count, "samples": issues.samples},
            "Check whether they are broken inputs or belong to a missing class",
            count / issues.samples,
        )
    ]
