"""What `score` prints under its table: comparisons, ranked layers, shifts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.cli.console import BEST, arrow, measured, number, print_columns, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedscope.evaluation.comparison import ClassChange, Comparison, SideChanges
    from embedscope.evaluation.ranking import LayerRanking
    from embedscope.evaluation.scores import Scores

# Classes that a table lists; all of them are in the JSON.
_CLASSES = 12


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
        rows = f"{found.rows:,} rows, matched by id" + (f"; {' and '.join(left_out)} left out" if left_out else "")
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
    show(f"  classes    {len(gained):,} gained silhouette and {len(lost):,} lost, of {len(found.classes):,}")
    order = sorted(found.classes, key=lambda each: each.difference)
    shown = order if len(order) <= _CLASSES else order[: _CLASSES // 2] + order[-_CLASSES // 2 :]
    cells = [(each.name, [f"{each.samples:,}", number(each.first), number(each.second), _change(each)]) for each in shown]
    print_columns("class", ["samples", found.first, found.second, "difference [95%]"], [cells])
    if len(shown) < len(order):
        show(f"  the {len(shown)} that changed most in either direction, of {len(order):,}; JSON has all")
    if any(each.ci95 is not None for each in found.classes):
        show("  * differs from 0: 95% intervals that hold for all classes at once (Bonferroni)")


def _change(change: ClassChange) -> str:
    text = f"{change.difference:+.4f}"
    if change.ci95 is not None:
        text += f" [{change.ci95[0]:+.4f}, {change.ci95[1]:+.4f}]"
    return f"{text} *" if change.significant else text


def print_layers(scores: Sequence[Scores], ranking: LayerRanking) -> None:
    """Print one row per layer, the best first, and which one to take."""
    entries = {(entry.name, entry.layer): entry for entry in scores}
    ordered = [entries[each.name, each.layer] for each in ranking.layers]
    one_source = len({entry.source for entry in scores}) == len({entry.layer for entry in scores}) - len(scores) + 1
    keys = [ranking.metric, *(key for key in scores[0].metrics if key != ranking.metric)]
    rows = []
    for place, entry in enumerate(ordered):
        cells = [measured(entry.metrics[key]) if key in entry.metrics else "–" for key in keys]
        cells[0] += BEST if place == ranking.take else ""
        rows.append((entry.layer if one_source else entry.name, [f"{entry.dimensions:,}", *cells]))
    headings = [f"{key}{arrow(scores[0].metrics[key].better)}" for key in keys]
    print_columns("layer", ["dimensions", *headings], [rows])
    show(f"* {ranking.reason}")
