"""Pictures of embeddings: a file a kind.

A kind is a function from what was given to its numbers, one frozen record an input, declared together with the function that
draws them: `plotting/foo.py` holds `foo(inputs, *, options) -> list[record]` under `@kind("title", takes=..., draw=draw_foo)`,
and `draw_foo(sheet, records)`. Tests hold the numbers to an oracle, and whatever else shows them takes the same records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from embedscope import plugins
from embedscope.errors import InputError, OutputError, UndefinedError, UsageError, check_choice, check_number
from embedscope.plotting import report
from embedscope.plotting.caches import provide_caches
from embedscope.plotting.figure import MAX_CLASSES, SUFFIXES, WORST, Palette, Sheet, check_suffix, check_width, palette, picture
from embedscope.plotting.inputs import Embedding, Given, prepare
from embedscope.plotting.layouts import Layout, check_coordinates, given_layouts, read_coordinates, write_coordinates
from embedscope.progress import Track, silent, untracked
from embedscope.store.files import check_output

if TYPE_CHECKING:
    from collections.abc import Mapping

# What is drawn, in this order and as far as it suits the inputs, unless something else is asked for.
STANDARD = ("comparison", "training", "tsne", "silhouette", "classes", "gini", "spectrum", "trajectory")

MAX_POINTS = 10_000
FORMATS = tuple(suffix[1:] for suffix in SUFFIXES)

# What a kind takes: embeddings to lay out in two dimensions (it returns a Layout each); embeddings; several of them that are
# stages of one training, in order; runs of finetune.
Takes = Literal["points", "embeddings", "checkpoints", "runs"]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class KindDeclaration:
    """What is known of a kind of plot beside its numbers.

    Attributes:
        title: what readers call it.
        takes: what it is given; it suits a command that has that.
        draw: from a sheet and the records to a picture.
    """

    title: str
    takes: Takes
    draw: Callable[[Sheet, Sequence[Any]], None]


def kind(title: str, *, takes: Takes, draw: Callable[[Sheet, Sequence[Any]], None]) -> Callable[[F], F]:
    """Declare `foo(inputs, *, options) -> list of records` as a kind of plot. An option `seed` is filled in from `--seed`."""

    def declare(function: F) -> F:
        function.declaration = KindDeclaration(title, takes, draw)  # type: ignore[attr-defined]
        return function

    return declare


def declaration(function: Callable[..., Any]) -> KindDeclaration:
    """Return what a kind declared; TypeError if it declared nothing."""
    declared = getattr(function, "declaration", None)
    if not isinstance(declared, KindDeclaration):
        raise TypeError(f"{function!r} is not a kind of plot: it lacks the @kind declaration")
    return declared


@dataclass(frozen=True)
class Chosen:
    """A kind with its options, as it is to be drawn.

    Attributes:
        spec: as the user typed it.
        function: the plugin.
        options: every keyword that it is called with.
    """

    spec: str
    function: Callable[..., Sequence[Any]]
    options: Mapping[str, Any]

    @property
    def declared(self) -> KindDeclaration:
        """What the plugin declares."""
        return declaration(self.function)


def plot(
    sources: Sequence[str],
    output: Path | str,
    *,
    kinds: Sequence[str] = (),
    layers: Sequence[str] = (),
    split: str | None = None,
    width: str = "page",
    form: str = "png",
    max_points: int = MAX_POINTS,
    coordinates: Path | str | None = None,
    layout: Path | str | None = None,
    images: Path | str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    command: str = "",
    say: Callable[[str], None] = silent,
    track: Track = untracked,
) -> list[Path]:
    """Draw embeddings side by side, one colour a class throughout; return the pictures that were written.

    Args:
        sources: stores, `.npz`, `X.npy,y.npy`, or run directories (before, and after each objective); `name=path` names one.
        output: .png, .svg or .pdf for one picture of all kinds; a folder, which may exist, for a picture a kind; .html for a
            page to explore, which has all kinds that suit, the scores, the samples and the provenance.
        kinds: such as "tsne(perplexity=10)", options in brackets; by default those of STANDARD that suit the sources.
        layers: which layers of the stores; all if none is named.
        split: draw the rows of one split only.
        width: "column" and "page" of a paper, or "slide".
        form: "png", "svg" or "pdf": of the pictures in a folder.
        max_points: more rows than this are thinned to it, class by class, where they are drawn one by one; the picture says so.
        coordinates: a .csv to write the layouts to: id, label, input, kind, x, y.
        layout: such a .csv: its coordinates are drawn, and nothing is projected.
        images: for a page, where the images of the samples are: a folder in which the ids are paths, or other data. By default
            they are looked for where the features were extracted from, if that is local data of moderate size.
        seed: of the projections and the thinning; below 2**32.
        overwrite: replace existing pictures and coordinates.
        command: what was typed, for the provenance on a page.
        say: is told what was left out, and why.
        track: shows progress over kinds.

    Raises:
        InputError: a source that cannot be read, holds NaN, or has fewer than three labelled rows; a kind that does not suit.
        UsageError: an unknown kind, option, layer or split, or another suffix.
        OutputError: a picture exists.
    """
    provide_caches()
    output = Path(output)
    check_choice("form", form, FORMATS)
    in_folder = output.is_dir() or not output.suffix
    paged = not in_folder and output.suffix.lower() == report.SUFFIX
    if paged:
        report.check_available()
        if width != "page":
            raise UsageError(f"`width={width}` is for pictures; a page is as wide as the window it is shown in")
    if images is not None:
        if not paged:
            raise UsageError("`images=` is for a page; name an output that ends with .html")
        if not Path(images).exists():
            raise InputError(f"no such images: {images}")
    if not in_folder:
        if not paged:
            check_suffix(output)
        check_output(output, overwrite=overwrite)
    elif output.exists() and not output.is_dir():
        raise OutputError(f"output {output} is a file; give a folder, or a name that ends with {', '.join(SUFFIXES)}")
    for table in (coordinates, layout):
        if table is not None:
            check_coordinates(Path(table))
    if coordinates is not None:
        check_output(Path(coordinates), overwrite=overwrite, inputs=[layout])
    preset = check_width(width)
    check_number("seed", seed, low=0, high=2**32 - 1)
    if not in_folder and form != "png" and output.suffix.lower() != f".{form}":
        raise UsageError(f"`form={form}` is of the pictures in a folder; {output.name} says its own")
    chosen = list({each.spec: each for each in (_choose(text, seed) for text in kinds or STANDARD)}.values())
    if paged:
        chosen = _maps(chosen, named=bool(kinds))
    known = None if layout is None else read_coordinates(Path(layout))
    given = prepare(sources, layers=layers, split=split, max_points=max_points, seed=seed)
    if kinds:
        for each in chosen:
            if each.declared.takes == "runs" and not given.runs:
                raise InputError(f"{each.spec} is of a run directory, which embedscope finetune writes; none was given")
            if each.declared.takes == "checkpoints" and len(given.embeddings) < 2:
                raise InputError(f"{each.spec} is of two checkpoints or more, in order; one was given")
    else:
        suited = {"points", "embeddings", *["runs"] * bool(given.runs), *["checkpoints"] * given.in_stages}
        chosen = [each for each in chosen if each.declared.takes in suited]
    for option, table in (("`coordinates=`", coordinates), ("`layout=`", layout)):
        if table is not None and not any(each.declared.takes == "points" for each in chosen):
            raise UsageError(f"{option} is of kinds with coordinates, and none is chosen; add `kinds=tsne`, umap or pca")
    names = _file_names(chosen)
    files = [output / f"{name}.{form}" for name in names] if in_folder else [output]
    if in_folder:
        for path in files:
            check_output(path, overwrite=overwrite)
    found: dict[str, Sequence[Any]] = {}
    missing: UndefinedError | None = None
    for each in track(chosen, "measuring", len(chosen)):
        try:
            if known is not None and layout is not None and each.declared.takes == "points":
                found[each.spec] = given_layouts(
                    given.embeddings, known, Path(layout), kind=each.spec, title=each.declared.title
                )
            else:
                inputs = given.runs if each.declared.takes == "runs" else given.embeddings
                found[each.spec] = each.function(inputs, **each.options)
        except UndefinedError as error:
            if kinds:
                raise
            missing = error
            say(f"{each.spec} is left out: {error}")
    drawn = [each for each in chosen if each.spec in found]
    if missing is not None and not drawn:
        raise missing
    if paged:
        _write_page(output, given, {each.spec: found[each.spec] for each in drawn}, command, seed, images, track)
    colours = cache(partial(_palette, given))
    kept = [path for path, each in zip(files, chosen, strict=True) if each.spec in found] if in_folder else files
    sheets = [[each] for each in drawn] if in_folder else [drawn]
    for path, together in () if paged else zip(kept, sheets, strict=True):
        with picture(path, preset, colours, len(together)) as stack:
            for sheet, each in zip(stack, together, strict=True):
                each.declared.draw(sheet, found[each.spec])
    if coordinates is not None:
        layouts = {each.spec: found[each.spec] for each in drawn if each.declared.takes == "points"}
        write_coordinates(Path(coordinates), layouts)
    return kept


def _maps(chosen: Sequence[Chosen], *, named: bool) -> list[Chosen]:
    """Take the kinds that lay rows out, which is what may be chosen of a page."""
    maps = [each for each in chosen if each.declared.takes == "points"]
    if named and len(maps) < len(chosen):
        other = next(each.spec for each in chosen if each not in maps)
        raise UsageError(
            f"a page shows what suits its inputs without being asked, so leave out `kinds={other}`; its maps are chosen so"
        )
    return maps


def _write_page(
    output: Path,
    given: Given,
    layouts: Mapping[str, Sequence[Layout]],
    command: str,
    seed: int,
    images: Path | str | None,
    track: Track,
) -> None:
    titles = [found[0].title for found in layouts.values()]
    maps = {
        spec if titles.count(found[0].title) > 1 else found[0].title: [each.points for each in found]
        for spec, found in layouts.items()
    }
    views = []
    for place, each in enumerate(given.embeddings):
        drawn = [found[place].of.shown for found in layouts.values()] or [each.shown]  # a table may hold fewer rows
        if not all(np.array_equal(rows, drawn[0]) for rows in drawn):
            raise InputError(f"the maps of {each.name} are of different rows; a page shows the same rows in all of them")
        its = {title: points[place] for title, points in maps.items()}
        views.append(report.View(each.features, drawn[0], its, each.unlabelled))
    report.write(
        output, views, runs=given.runs, command=command, seed=seed, images=None if images is None else str(images), track=track
    )


def _choose(text: str, seed: int) -> Chosen:
    spec = plugins.parse(text)
    function = plugins.load("plotting", spec.name)
    options = plugins.bind(function, spec)
    if "seed" in options and "seed" not in spec.options:
        options["seed"] = seed
    return Chosen(str(plugins.Spec(plugins.canonical(spec.name), (), spec.options)), function, options)


def _file_names(chosen: Sequence[Chosen]) -> list[str]:
    """Name a file a kind: tsne, and tsne-2 where there are two of it."""
    names: list[str] = []
    for each in chosen:
        name = each.function.__name__
        earlier = sum(other.function.__name__ == name for other in chosen[: len(names)])
        names.append(name if not earlier else f"{name}-{earlier + 1}")
    return names


def _palette(given: Given) -> Palette:
    """Give every class its colour; where there are too many, those with the lowest silhouette in the first input."""
    first = given.embeddings[0]
    worst = worst_classes(first) if len(given.class_names) > MAX_CLASSES else []
    return palette(given.class_names, worst, f"coloured are the {WORST} with the lowest silhouette in {first.name}")


def worst_classes(embedding: Embedding) -> list[int]:
    """Order the classes of an input by their mean silhouette, the lowest first; those of one sample, which have none, last."""
    labels, values = embedding.labels, embedding.silhouettes.values
    classes, places = np.unique(labels, return_inverse=True)
    counts = np.bincount(places)
    means = np.where(counts > 1, np.bincount(places, values) / counts, np.inf)
    return [int(label) for label in classes[np.argsort(means, kind="stable")]]


__all__ = ["FORMATS", "MAX_POINTS", "STANDARD", "KindDeclaration", "Layout", "declaration", "kind", "plot"]
