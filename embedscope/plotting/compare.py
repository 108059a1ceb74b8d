"""Which classes gained and lost from one embedding to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedscope.evaluation.changes import compare_classes
from embedscope.plotting import kind
from embedscope.plotting.figure import GRAY, INK, extremes, fitted, series
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedscope.evaluation.changes import ClassChange
    from embedscope.plotting.figure import Sheet
    from embedscope.plotting.inputs import Embedding

# With more classes, those that gained and lost most are shown, half of this number each.
MOST_CLASSES = 30

# Share of a panel that their names may take.
_NAMES = 0.3


@dataclass(frozen=True)
class ClassChanges:
    """How the classes of an embedding differ from the first.

    Attributes:
        of: the embedding.
        first: the first one.
        changes: of all classes that both have, the largest gain first.
        rows: how many rows are compared in pairs; 0 where embeddings hold different rows.
    """

    of: Embedding
    first: Embedding
    changes: tuple[ClassChange, ...]
    rows: int


def draw_changes(sheet: Sheet, found: Sequence[ClassChanges]) -> None:
    """Draw one panel per embedding and one arrow per class, from its silhouette in the first embedding to that in the other."""
    from matplotlib.lines import Line2D

    first = found[0].first.name
    colors = _colors()
    titles = []
    for each in found:
        gained, lost = (sum(one.significant and sign * one.difference > 0 for one in each.changes) for sign in (1, -1))
        titles.append(f"{each.of.name}\n{gained:,} gained\n{lost:,} lost")
    counts = {counted(each.rows, "row") if each.rows else "different rows" for each in found}
    most = max(min(len(each.changes), MOST_CLASSES + 1) for each in found)
    notes = ["Arrows point from dot to arrowhead, colored if the simultaneous 95% interval of the difference excludes 0."]
    if most > MOST_CLASSES:
        notes.insert(0, "Only the classes that changed most are shown.")
    there = {_outcome(change) for each in found for change in each.changes}
    legend = [Line2D([], [], color=color, linewidth=1.6, label=name) for name, color in colors.items() if name in there]
    panels = sheet.arrange(
        titles,
        heading=f"Silhouette by class, from {first}{f', {counts.pop()}' if len(counts) == 1 else ''}",
        height=sheet.lines(1.25 * most + 5),
        names=_NAMES,
        legend=legend,
        notes=notes,
    )
    for axes, each in zip(panels, found, strict=True):
        _draw(sheet, axes, each, colors)


def _colors() -> dict[str, str]:
    palette = series(3)
    return {"gained": palette[0], "lost": palette[2], "no significant change": "#a0a0a0"}


def _outcome(change: ClassChange) -> str:
    if not change.significant:
        return "no significant change"
    return "gained" if change.difference > 0 else "lost"


def _draw(sheet: Sheet, axes: Any, found: ClassChanges, colors: dict[str, str]) -> None:
    best, worst = extremes(len(found.changes), MOST_CLASSES)
    shown = [*found.changes[:best], *found.changes[len(found.changes) - worst :]]
    ends = [end for each in shown for end in (each.first, each.second)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    margin = 0.06 * (high - low or 1.0)
    axes.set(xlim=(low - margin, high + margin), ylim=(len(shown) - 0.4, -0.6), xlabel="mean silhouette")
    if worst:
        axes.axhline(best - 0.5, color=GRAY, linewidth=0.6, linestyle=(0, (2, 2)))
    for row, each in enumerate(shown):
        color = colors[_outcome(each)]
        axes.plot(each.first, row, "o", color=color, markersize=3)
        axes.annotate(
            "",
            (each.second, row),
            (each.first, row),
            arrowprops={"arrowstyle": "-|>,head_length=0.3,head_width=0.15", "color": color, "linewidth": 1.4, "shrinkA": 0,
                        "shrinkB": 0},
        )  # fmt: skip
    axes.axvline(0, color=INK, linewidth=0.6, zorder=0)
    room = _NAMES * sheet.panel[0]
    axes.set_yticks(range(len(shown)), [fitted(each.name, room, 0.833 * sheet.width.font) for each in shown])
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=5)
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x")


@kind("Compare", takes="checkpoints", draw=draw_changes)
def compare(inputs: Sequence[Embedding], *, distance: str = "euclidean") -> list[ClassChanges]:
    """Change of each class's silhouette from the first embedding, as arrows.

    The largest gain comes first. All rows that both have are compared, as in `score --compare`; `comparison` is for objectives
    of a run directory.
    UndefinedError for fewer than two classes.
    """
    found = []
    for each in inputs[1:]:
        changes, pairing = compare_classes(inputs[0].features, each.features, distance)
        ordered = sorted(changes, key=lambda change: -change.difference)
        found.append(ClassChanges(each, inputs[0], tuple(ordered), len(pairing.first)))
    return found
