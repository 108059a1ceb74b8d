"""The rows that need attention: images of what looks wrong, or a table of ids."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedscope.arguments import check_choice, check_whole
from embedscope.errors import EmbedscopeError, InputError, UsageError
from embedscope.evaluation import find_issues
from embedscope.evaluation.issues import KINDS
from embedscope.models.images import visible
from embedscope.plotting import kind
from embedscope.plotting.figure import INK, fitted
from embedscope.plotting.inputs import described
from embedscope.plotting.report.thumbnails import image_source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedscope.evaluation import Issues
    from embedscope.evaluation.issues import Issue
    from embedscope.plotting.figure import Sheet
    from embedscope.plotting.inputs import Embedding

# Images side by side in a cell: a row and its nearest copies.
_BESIDE = 3

# The longer side of an image in a picture, in pixels.
_SIDE = 160

_TITLES = {"label": "label errors", "leakage": "copies in another split", "duplicate": "copies", "outlier": "outliers"}
_COPIES = ("duplicate", "leakage")
_QUIET = "#666666"


@dataclass(frozen=True)
class Gallery:
    """The rows of an input that need attention most.

    Attributes:
        of: the input.
        found: all of them.
        shown: those that are shown, by kind; of a group of copies, one, whose `near` are the others.
        images: id -> image of these rows and their copies, as far as they were found.
        location: where the images were found, or why not.
    """

    of: Embedding
    found: Issues
    shown: tuple[Issue, ...]
    images: Mapping[str, Any]
    location: str


def draw_issues(sheet: Sheet, galleries: Sequence[Gallery]) -> None:
    """Draw a panel per input: images with what is wrong beneath, kind by kind; a table of ids where there are no images."""
    notes = [f"{each.of.name}: {_counted(each)}." for each in galleries if not each.shown]
    galleries = [each for each in galleries if each.shown] or galleries[:1]
    heading, titles, more = described("Issues", [each.of for each in galleries], drawn=False)
    notes += more
    columns = _columns(sheet)
    heights = [_height(sheet, each, columns) for each in galleries]
    notes += [f"{each.of.name}: {note}." for each in galleries for note in (each.location, *each.found.notes) if note]
    panels = sheet.arrange(
        [f"{title}\n{_counted(each)}" for title, each in zip(titles, galleries, strict=True)],
        heading=heading,
        height=max(heights) + sheet.lines(3.2),
        most=1,
        notes=notes,
    )
    for axes, each in zip(panels, galleries, strict=True):
        axes.set(xlim=(0, sheet.width.inches), ylim=(max(heights), 0))
        axes.set_axis_off()
        (_draw_images if each.images else _draw_table)(sheet, axes, each, columns)


def _columns(sheet: Sheet) -> int:
    return {1: 3, 2: 3}.get(sheet.width.columns, 6)


def _counted(each: Gallery) -> str:
    counts = [(name, each.found.counts[name]) for name in KINDS]
    return ", ".join(_plural(count, _TITLES[name]) for name, count in counts if count) or "no issues found"


def _plural(count: int, title: str) -> str:
    singular = {"label errors": "label error", "copies": "copy", "outliers": "outlier"}
    return f"{count:,} {singular.get(title, title.replace('copies', 'copy')) if count == 1 else title}"


def _by_kind(gallery: Gallery) -> dict[str, list[Issue]]:
    return {name: rows for name in KINDS if (rows := [each for each in gallery.shown if each.kind == name])}


def _cell(sheet: Sheet, columns: int) -> tuple[float, float]:
    """Width of a cell and height of its image, in inches."""
    width = sheet.width.inches / columns
    return width, 0.62 * width


def _height(sheet: Sheet, gallery: Gallery, columns: int) -> float:
    groups = _by_kind(gallery)
    if not gallery.images:
        return sheet.lines(1.3) * (len(gallery.shown) + 1.6 * len(groups) + 0.5)
    _, high = _cell(sheet, columns)
    rows = sum(math.ceil(len(each) / columns) for each in groups.values())
    return rows * (high + sheet.lines(3.6)) + len(groups) * sheet.lines(1.8)


def _draw_images(sheet: Sheet, axes: Any, gallery: Gallery, columns: int) -> None:
    width, high = _cell(sheet, columns)
    top = 0.0
    for name, rows in _by_kind(gallery).items():
        axes.text(0, top + sheet.lines(0.8), _TITLES[name], fontweight="bold", va="center", fontsize=sheet.width.font)
        top += sheet.lines(1.8)
        for place, each in enumerate(rows):
            row, column = divmod(place, columns)
            _draw_cell(sheet, axes, gallery, each, column * width, top + row * (high + sheet.lines(3.6)))
        top += math.ceil(len(rows) / columns) * (high + sheet.lines(3.6))
    axes.set(xlim=(0, sheet.width.inches))


def _draw_cell(sheet: Sheet, axes: Any, gallery: Gallery, issue: Issue, left: float, top: float) -> None:
    """Draw a row, with its copies beside it, and what is wrong with it."""
    width, high = _cell(sheet, _columns(sheet))
    beside = issue.near if issue.kind in _COPIES else ()
    ids = [issue.id, *beside][:_BESIDE]
    room = 0.92 * width / len(ids)
    for place, name in enumerate(ids):
        image = gallery.images.get(name)
        if image is not None:
            _draw_image(axes, image, left + place * room, top, 0.97 * room, high)
        else:
            axes.text(left + (place + 0.5) * room, top + high / 2, "no image", ha="center", color=_QUIET, fontsize="x-small")
    small = 0.8 * sheet.width.font
    texts = [(_said(issue), INK), (_sure(issue), _QUIET), (issue.id, _QUIET)]
    for line, (text, color) in enumerate(text for text in texts if text[0]):
        at = top + high + sheet.lines(0.55 + line, 0.8)
        axes.text(left, at, fitted(text, 0.95 * width, small), va="center", fontsize=small, color=color)


def _draw_image(axes: Any, image: Any, left: float, top: float, width: float, height: float) -> None:
    import numpy as np

    pixels = np.asarray(image.convert("RGB"))
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    wide, high = scale * pixels.shape[1], scale * pixels.shape[0]
    bottom = top + height
    fine = max(pixels.shape[:2]) >= 64
    axes.imshow(
        pixels,
        extent=(left, left + wide, bottom, bottom - high),
        interpolation="antialiased" if fine else "nearest",
        aspect="auto",
    )
    axes.plot(
        [left, left + wide, left + wide, left, left],
        [bottom, bottom, bottom - high, bottom - high, bottom],
        color="#bbbbbb",
        linewidth=0.5,
    )


def _said(issue: Issue) -> str:
    """What a label is and should be, or that a row is a copy or an outlier."""
    if issue.suggested:
        return f"{issue.label or 'unlabeled'} → {issue.suggested}"
    return issue.label or "unlabeled"


def _sure(issue: Issue) -> str:
    if issue.kind == "label":
        return f"{_percent(issue.score)} likely wrong"
    return issue.why.replace(" in another split", "")  # the heading says so


def _draw_table(sheet: Sheet, axes: Any, gallery: Gallery, _columns: int) -> None:
    """Write a line per row: id, given and suggested label, why."""
    inches, small, line = sheet.width.inches, 0.9 * sheet.width.font, sheet.lines(1.3)
    starts, ends = (0.0, 0.3, 0.5), (0.29, 0.49, 0.99)
    top = 0.5 * line
    for name, rows in _by_kind(gallery).items():
        axes.text(0, top, _TITLES[name], fontweight="bold", va="center", fontsize=sheet.width.font)
        top += 1.1 * line
        for each in rows:
            sure = f"{_percent(each.score)} likely wrong; {each.why}" if each.kind == "label" else each.why
            ids = ", ".join([each.id, *(each.near if each.kind in _COPIES else ())])
            for start, end, text in zip(starts, ends, (ids, _said(each), sure), strict=True):
                axes.text(start * inches, top, fitted(text, (end - start) * inches, small), va="center", fontsize=small)
            top += line
        top += 0.5 * line


@kind("Issues", takes="embeddings", draw=draw_issues)
def issues(
    inputs: Sequence[Embedding],
    *,
    most: int = 24,
    kinds: str | Sequence[str] = KINDS,
    images: str | None = None,
    seed: int = 0,
) -> list[Gallery]:
    """Rows that need attention, as found by `score --issues`, with their images.

    At most `most` per input, of `kinds` such as ("label", "outlier"), the worst of each kind. Images are looked for where the
    features were extracted from, or in `images`; without any, ids are listed.
    """
    most = check_whole("most", most, low=1)
    wanted = [kinds] if isinstance(kinds, str) else list(kinds)
    if not wanted:
        raise UsageError(f"`kinds=` must name at least one of {', '.join(KINDS)}")
    for name in wanted:
        check_choice("kind of issue", name, KINDS)
    return [_gallery(each, most, wanted, images, seed) for each in inputs]


def _gallery(each: Embedding, most: int, kinds: Sequence[str], images: str | None, seed: int) -> Gallery:
    found = find_issues(each.features, device="cpu", seed=seed)
    shown = tuple(worst([row for row in found.rows if row.kind in kinds], most))
    ids = [name for row in shown for name in (row.id, *(row.near if row.kind in _COPIES else ()))]
    pictures, location = _images(each, ids, images) if shown else ({}, "")
    return Gallery(each, found, shown, pictures, location)


def worst(rows: Sequence[Issue], most: int) -> list[Issue]:
    """Choose at most `most` rows, an equal share of each kind, worst first, and one row per group of copies."""
    queues = {name: _distinct([each for each in rows if each.kind == name]) for name in KINDS}
    chosen: list[Issue] = []
    while len(chosen) < most and any(queues.values()):
        for queue in queues.values():
            if queue and len(chosen) < most:
                chosen.append(queue.pop(0))
    return sorted(chosen, key=lambda each: KINDS.index(each.kind))


def _distinct(rows: Sequence[Issue]) -> list[Issue]:
    kept: list[Issue] = []
    seen: set[str] = set()
    for each in rows:
        if each.kind in _COPIES:
            if each.id in seen:
                continue
            seen |= {each.id, *each.near}
        kept.append(each)
    return kept


def _images(each: Embedding, ids: Sequence[str], images: str | None) -> tuple[dict[str, Any], str]:
    """Open the images of some rows, small; and say where they are, or why there are none."""
    try:
        location, image_of = image_source(each.features, images)
    except EmbedscopeError as error:
        if images is not None:
            raise InputError(str(error)) from error
        return {}, f"no images: {error}"
    found = {}
    for name in dict.fromkeys(ids):
        try:
            item = image_of(name)
        except EmbedscopeError:  # it could be read when it was extracted from; the picture does without it
            continue
        if item is not None and not hasattr(item, "thumbnail"):
            return {}, f"no images: {location} contains no pictures"
        if item is not None:
            found[name] = visible(item)
            found[name].thumbnail((_SIDE, _SIDE))
    return found, f"images from {location}" if found else f"no images: {location} has none of these ids"


def _percent(score: float) -> str:
    """Format a probability as a percentage; nothing is 100% sure."""
    return ">99%" if score > 0.99 else f"{score:.0%}"
