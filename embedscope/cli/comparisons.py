"""The sections that `score` prints below its table: comparisons, ranked layers, shifts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.cli.console import BEST, arrow, measured, number, print_columns, show
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedscope.evaluation.changes import ClassChange, SideChanges
    from embedscope.evaluation.comparison import Comparison
    from embedscope.evaluation.ranking import LayerRanking
    from embedscope.evaluation.scores import Scores
    from embedscope.evaluation.shift import ClassShift, Shift

# Classes that a table lists, and rows that are named; all of them are in the JSON.
_CLASSES = 12
_ROWS = 3


def print_comparisons(comparisons: Sequence[Comparison]) -> None:
    """Print how each embedding differs from the first: rows, structure, samples, classes."""
    for each in comparisons:
        show("")
        show(f"{each.second} against {each.first}")
        for line in _facts(each):
            show(f"  {line}")
        if each.classes:
            _print_classes(each)


def _facts(found: Comparison) -> list[str]:
    if found.reason is None:
        left_out = [
            f"{count:,} only in {name}" for name, count in zip((found.first, found.second), found.alone, strict=True) if count
        ]
        rows = f"{counted(found.rows, 'row')}, matched by id" + (f"; {' and '.join(left_out)} left out" if left_out else "")
    else:
        rows = f"unpaired: {found.reason}"
    lines = [f"rows       {rows}"]
    if found.cka is not None:
        lines.append(f"CKA        {found.cka:.4f}  (linear, debiased; 1: equal up to rotation and scale)")
    if found.mutual_knn is not None:
        chance = found.neighbors / max(found.neighbor_rows - 1, 1)
        drawn = f" among {found.neighbor_rows:,} rows" if found.neighbor_rows < found.rows else ""
        shared = f"{found.mutual_knn:.1%} of the {found.neighbors} nearest are shared{drawn}"
        lines.append(f"neighbors  {shared}; {chance:.1%} by chance")
    if found.sides is not None:
        lines += _sides(found.sides)
    return lines + [f"note       {note}" for note in found.notes]


def _sides(sides: SideChanges) -> list[str]:
    gained, lost = len(sides.gained), len(sides.lost)
    return [
        f"samples    {gained:,} gained, {lost:,} lost (exact McNemar p = {_p(sides.p_value)})",
        f"           {sides.right:,} right in both, {sides.wrong:,} in neither (right: silhouette above 0)",
    ]


def _p(value: float) -> str:
    return f"{value:.1e}" if value < 0.001 else f"{value:.3f}"


def _print_classes(found: Comparison) -> None:
    gained = [each for each in found.classes if each.significant and each.difference > 0]
    lost = [each for each in found.classes if each.significant and each.difference < 0]
    show(f"  classes    {len(gained):,} of {len(found.classes):,} gained silhouette, {len(lost):,} lost")
    order = sorted(found.classes, key=lambda each: each.difference)
    shown = order if len(order) <= _CLASSES else order[: _CLASSES // 2] + order[-_CLASSES // 2 :]
    cells = [(each.name, [f"{each.samples:,}", number(each.first), number(each.second), _change(each)]) for each in shown]
    print_columns("class", ["samples", found.first, found.second, "difference [95%]"], [cells])
    if len(shown) < len(order):
        show(f"  the {len(shown)} of {len(order):,} that changed most in either direction; --json lists all")
    if any(each.ci95 is not None for each in found.classes):
        show("  * differs from 0: simultaneous 95% intervals for all classes (Bonferroni)")


def _change(change: ClassChange) -> str:
    text = f"{change.difference:+.4f}"
    if change.ci95 is not None:
        text += f" [{change.ci95[0]:+.4f}, {change.ci95[1]:+.4f}]"
    return f"{text} *" if change.significant else text


def print_layers(scores: Sequence[Scores], ranking: LayerRanking) -> None:
    """Print one row per layer, best first, and the recommended layer."""
    entries = {(entry.name, entry.layer): entry for entry in scores}
    ordered = [entries[each.name, each.layer] for each in ranking.layers]
    keys = [ranking.metric, *(key for key in scores[0].metrics if key != ranking.metric)]
    rows = []
    for place, entry in enumerate(ordered):
        cells = [measured(entry.metrics[key]) if key in entry.metrics else "–" for key in keys]
        cells[0] += BEST if place == ranking.take else ""
        rows.append((entry.layer if ranking.what == "layer" else entry.name, [f"{entry.dimensions:,}", *cells]))
    headings = [f"{key}{arrow(scores[0].metrics[key].better)}" for key in keys]
    print_columns(ranking.what, ["dimensions", *headings], [rows])
    show(f"* {ranking.reason}")


def print_shifts(shifts: Sequence[Shift]) -> None:
    """Print the shift of other rows from each embedding."""
    for each in shifts:
        show("")
        show(f"shift from {each.name} to {each.against}: {'detected' if each.detected else 'none detected'}")
        low, high = each.auc_ci95
        drawn = "" if each.drawn == each.rows else f"; {each.drawn[0]:,} and {each.drawn[1]:,} drawn for AUC and MMD"
        show(f"  rows       {each.rows[0]:,} and {each.rows[1]:,}{drawn}")
        if each.shared:
            show(
                f"  note       {counted(each.shared, 'id occurs', 'ids occur')} in both sets; duplicate rows push the AUC "
                "below 0.5"
            )
        show(f"  AUC        {each.auc:.3f} [{low:.3f}, {high:.3f}]  (separating the two; 0.5 is chance)")
        show(f"  MMD²       {each.mmd:.2e}  (p = {_p(each.mmd_p_value)}, {each.permutations} permutations, pooled rows)")
        show(f"  far rows   {each.beyond:.1%} farther out than 99% of {each.name} ({each.beyond_expected:.1%} expected)")
        for row in each.furthest[:_ROWS]:
            show(f"             {row.ratio:.1f}x the typical distance: {row.id}")
        if each.proportions_p_value is not None:
            show(f"  classes    shares differ with p = {_p(each.proportions_p_value)} (chi-squared)")
            _print_class_shifts(each)


def _print_class_shifts(shift: Shift) -> None:
    order = sorted(shift.classes, key=lambda each: (-(each.distance or 0.0), each.name))
    shown = order[:_CLASSES]
    rows = [(each.name, [f"{each.shares[0]:.1%}", f"{each.shares[1]:.1%}", *_moved(each)]) for each in shown]
    print_columns("class", [f"in {shift.name}", f"in {shift.against}", "moved by", "by chance", "p"], [rows])
    if len(shown) < len(order):
        show(f"  the {len(shown)} of {len(order):,} that moved most; --json lists all")
    show("  moved by: distance between means over the spread; by chance: 95% stay below this;")
    show("  p is corrected for the number of classes")


def _moved(found: ClassShift) -> tuple[str, str, str]:
    if found.distance is None or found.by_chance is None or found.p_value is None:
        return "–", "–", "–"
    return f"{found.distance:.3f}", f"{found.by_chance:.3f}", _p(found.p_value) + (BEST if found.p_value <= 0.05 else "")
