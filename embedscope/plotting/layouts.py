"""Layouts in two dimensions: aligned to one another, drawn by class, written to a table and read from it again."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.errors import InputError, UsageError
from embedscope.plotting.figure import GRAY
from embedscope.plotting.inputs import described
from embedscope.store.files import finished
from embedscope.store.tables import unguarded, write_rows
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from embedscope.plotting.figure import Sheet
    from embedscope.plotting.inputs import Embedding

    Array = np.ndarray[Any, Any]

COLUMNS = ("id", "label", "input", "kind", "x", "y")

# Share of the smaller input's rows that both inputs must have for one layout to be aligned with the other.
_SHARED = 0.5


@dataclass(frozen=True)
class Layout:
    """Where the shown rows of an input are placed.

    Attributes:
        of: the input.
        points: (n, 2) float64, in the order of `of.shown`.
        title: what readers call the kind, such as "t-SNE".
        axes: names of the two directions.
        made: library, options and seed, for the small print.
        aligned: how it was aligned to the first layout; empty where it was not.
    """

    of: Embedding
    points: Array
    title: str
    axes: tuple[str, str]
    made: str
    aligned: str = ""


@dataclass(frozen=True)
class Anchors:
    """The rows that an input shares with the first one, and where they lie in its layout.

    Attributes:
        rows: (m,) positions among the rows of this input.
        points: (m, 2) float64.
        name: of the first input.
    """

    rows: Array
    points: Array
    name: str

    def turned(self, points: Array) -> Array:
        """Rotate, reflect and shift (n, 2) points so that the shared rows come as near to the first layout as they can.

        Orthogonal Procrustes: sizes stay. Schönemann 1966, doi:10.1007/BF02289451.
        """
        from scipy.linalg import orthogonal_procrustes

        own, target = points[self.rows], self.points
        rotation, _ = orthogonal_procrustes(own - own.mean(axis=0), target - target.mean(axis=0))
        turned: Array = (points - own.mean(axis=0)) @ rotation
        turned += target.mean(axis=0)
        return turned

    def start(self, components: Array) -> Array:
        """Make a start for all (n, 2) rows: the first layout where rows are shared, elsewhere the components turned onto it."""
        spread = np.linalg.norm(components[self.rows] - components[self.rows].mean(axis=0))
        wanted = np.linalg.norm(self.points - self.points.mean(axis=0))
        start = self.turned(components * (wanted / spread if spread > 0 else 1.0))
        start[self.rows] = self.points
        return start


def anchors(first: Layout, embedding: Embedding) -> Anchors | None:
    """Find the rows with the same id and class in both, if they are at least half of the smaller's; None otherwise."""
    place = {key: row for row, key in enumerate(zip(first.of.ids, first.of.labels, strict=True))}
    pairs = [(place[key], row) for row, key in enumerate(zip(embedding.ids, embedding.labels, strict=True)) if key in place]
    if len(pairs) < max(3, _SHARED * min(len(first.of.shown), len(embedding.shown))):
        return None
    there, here = np.array(pairs).T
    return Anchors(here, first.points[there], first.of.name)


def laid_out(
    inputs: Sequence[Embedding],
    project: Callable[[Embedding, Array, Anchors | None], Layout],
    title: str,
) -> list[Layout]:
    """Lay out every input, and hand each but the first the rows that it shares with the first.

    `project` takes an input, its rows (n, D) float64 about their mean, and the anchors. Where all rows are equal there is
    nothing to project: all points coincide, and the small print says why.
    """
    found: list[Layout] = []
    first: Layout | None = None
    for each in inputs:
        rows = _about_the_mean(each)
        if rows is None:
            made = f"{each.name}: all rows are equal, so all points coincide."
            found.append(Layout(each, np.zeros((len(each.shown), 2)), title, (f"{title} 1", f"{title} 2"), made))
            continue
        found.append(project(each, rows, anchors(first, each) if first else None))
        first = first or found[-1]
    return found


def _about_the_mean(embedding: Embedding) -> Array | None:
    """Read the rows in float64, about their mean and in [-1, 1]: no projection sees a difference, and none overflows.

    None if all rows are equal.
    """
    rows: Array = embedding.rows.double().numpy()
    rows = rows / (np.abs(rows).max() or 1.0)
    rows = rows - rows.mean(axis=0)
    largest = np.abs(rows).max()
    if largest < 1e-12:
        return None
    scaled: Array = rows / largest
    return scaled


def draw_layouts(sheet: Sheet, layouts: Sequence[Layout]) -> None:
    """Draw one panel per input, colored by class; the axes have no meaningful scale."""
    heading, titles, notes = described(layouts[0].title, [each.of for each in layouts], drawn=True)
    colors = sheet.palette
    shown = np.unique(np.concatenate([each.of.labels for each in layouts]))
    for how in dict.fromkeys(each.aligned for each in layouts if each.aligned):
        notes.append(f"{', '.join(each.of.name for each in layouts if each.aligned == how)}: {how}.")
    notes += list(dict.fromkeys(each.made for each in layouts if each.made))
    handles = [
        handle for place, handle in zip(colors.listed, colors.handles(0.6 * sheet.width.font), strict=True) if place in shown
    ]
    panels = sheet.arrange(titles, heading=heading, legend=handles, notes=[colors.note, *notes] if colors.note else notes)
    area = sheet.panel[0] * sheet.panel[1] * 72**2
    for axes, each in zip(panels, layouts, strict=True):
        size = float(np.clip(0.1 * area / len(each.points), 1.0, 14.0))
        order = np.random.default_rng(0).permutation(len(each.points))  # no class is always on top
        labels = each.of.labels[order]
        painted = np.array(colors.colors)[labels]
        marks = np.array(colors.markers)[labels]
        gray = painted == GRAY
        for rows, depth in [(gray, 1), *((~gray & (marks == mark), 2) for mark in ("o", "^"))]:
            chosen = order[rows]
            axes.scatter(
                each.points[chosen, 0],
                each.points[chosen, 1],
                c=painted[rows],
                marker="o" if depth == 1 else marks[rows][0] if len(chosen) else "o",
                s=0.6 * size if depth == 1 else max(size, 5.0) if gray.any() else size,
                linewidths=0,
                alpha=0.85,
                zorder=depth,
            )
        axes.set(xlabel=each.axes[0], ylabel=each.axes[1], xticks=[], yticks=[])
        axes.spines[["left", "bottom"]].set_color("#cccccc")
        axes.set_aspect("equal", adjustable="datalim")


def check_coordinates(path: Path) -> None:
    """Raise UsageError for a suffix other than .csv."""
    if path.suffix.lower() != ".csv":
        raise UsageError(f"coordinates are written as a table: '{path}' must end with .csv")


def write_coordinates(path: Path, layouts: Mapping[str, Sequence[Layout]]) -> None:
    """Write one row per sample, input and kind: id, label, input, kind, x, y. Written atomically."""
    with finished(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        write_rows(file, [COLUMNS])
        for kind, found in layouts.items():
            for each in found:
                names = each.of.features.class_names
                rows = zip(each.of.ids, each.of.labels, each.points.tolist(), strict=True)
                write_rows(file, ((name, names[label], each.of.name, kind, x, y) for name, label, (x, y) in rows))


# (input, kind) -> id -> (x, y)
Coordinates = dict[tuple[str, str], dict[str, tuple[float, float]]]


def read_coordinates(path: Path) -> Coordinates:
    """Read what `write_coordinates` wrote, or a table like it: id, input, kind, x, y, in any order.

    InputError for a file that cannot be read, lacks a column, names an id twice, or has a value that is not a finite number.
    """
    found: Coordinates = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in COLUMNS if name != "label" and name not in (reader.fieldnames or ())]
            if lacking:
                raise InputError(f"{path} has no column {', '.join(lacking)}; coordinates need {', '.join(COLUMNS)}")
            for line in reader:
                name, source, kind = (unguarded(line[column] or "") for column in ("id", "input", "kind"))
                ids = found.setdefault((source, kind), {})
                if name in ids:
                    raise InputError(f"{path}, line {reader.line_num}: duplicate id '{name}'")
                try:
                    point = float(line["x"]), float(line["y"])
                except (TypeError, ValueError):
                    point = np.nan, np.nan
                if not np.isfinite(point).all():
                    got = f"{line['x']}, {line['y']}"
                    raise InputError(f"{path}, line {reader.line_num}: x and y must be finite numbers, got {got}")
                ids[name] = point
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a table of coordinates: {error}") from error
    return found


def given_layouts(inputs: Sequence[Embedding], coordinates: Coordinates, path: Path, *, kind: str, title: str) -> list[Layout]:
    """Take the layouts of a kind from a table instead of computing them; rows without coordinates are not drawn.

    InputError where an input has none of this kind, or the table has ids that the input has not.
    """
    layouts = []
    for each in inputs:
        points = coordinates.get((each.name, kind))
        if points is None:
            there = "; ".join(f"{its} of {name}" for name, its in coordinates) or "none"
            raise InputError(f"{path} has no {kind} coordinates of {each.name}; it has {there}")
        place = {str(name): row for row, name in enumerate(each.features.ids)}
        if strangers := [name for name in points if name not in place]:
            which = counted(len(strangers), "is not a labeled row", "are not labeled rows", of=counted(len(points), "id"))
            raise InputError(f"{path}: {which} of {each.name}, such as '{strangers[0]}'; coordinates must be of the same rows")
        order = sorted(points, key=place.__getitem__)
        shown = replace(each, shown=np.array([place[name] for name in order], dtype=np.int64))
        array = np.array([points[name] for name in order], dtype=np.float64)
        layouts.append(Layout(shown, array, title, (f"{title} 1", f"{title} 2"), f"Coordinates from {path.name}."))
    return layouts
