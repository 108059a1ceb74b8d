"""plot: pictures and pages of embeddings, side by side."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.arguments import (
    check_choice,
    check_flag,
    check_names,
    check_optional_text,
    check_path,
    check_seed,
    check_text,
    check_whole,
)
from embedscope.errors import InputError, OutputError, UndefinedError, UsageError
from embedscope.evaluation.evaluating import bound
from embedscope.metrics import STANDARD as METRICS
from embedscope.plotting.caches import provide_caches
from embedscope.plotting.courses import chosen as with_metrics
from embedscope.plotting.declaring import Chosen, choose
from embedscope.plotting.figure import MAX_CLASSES, SUFFIXES, WORST, Palette, check_suffix, check_width, lowest, palette
from embedscope.plotting.inputs import Embedding, Given, prepare
from embedscope.plotting.layouts import Layout, check_coordinates, given_layouts, read_coordinates, write_coordinates
from embedscope.plotting.measured import are_scores, given_by_scores
from embedscope.plotting.pictures import figure_of, picture, remove_others
from embedscope.plotting.report import SUFFIX, View, check_available
from embedscope.plotting.report import write as write_page
from embedscope.plotting.report.courses import write_courses
from embedscope.plugins import parse
from embedscope.progress import Track, silent, untracked
from embedscope.store.files import check_output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

# What is drawn, in this order and as far as it suits the inputs, unless something else is asked for.
STANDARD = ("comparison", "training", "tsne", "silhouette", "classes", "gini", "spectrum", "trajectory")

MAX_POINTS = 10_000
FORMATS = tuple(suffix[1:] for suffix in SUFFIXES)


def plot(
    sources: Any,
    output: Path | str | None = None,
    *,
    labels: Any = None,
    kind: str | None = None,
    kinds: str | Sequence[str] = (),
    layers: str | Sequence[str] = (),
    metrics: str | Sequence[str] | None = None,
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
) -> Any:
    """Draw embeddings side by side, one color per class throughout; return a matplotlib Figure, or the files written.

    Without `output`, nothing is written, and all kinds are in one Figure. Scores are drawn too: they hold the silhouettes of
    samples, but no features, so that keeping them keeps no memory; kinds that need features refuse them.

    Args:
        sources: what `score` takes: features with `labels`, a path, a FeatureSet, a mapping from names to these, or a list; and
            run directories (before, and after each objective), what `finetune` returned, and what `score` returned. Or files of
            measurements, the .jsonl of a Monitor or of scored checkpoints, which are drawn over their steps: as pictures, or as
            a page with the findings and the last values.
        output: .png, .svg or .pdf for one picture of all kinds; an existing or new folder for one picture per kind; .html for a
            page to explore, which has all kinds that suit, the scores, the samples and the provenance.
        labels: (N,) of any kind, for the arrays among the sources.
        kind: one kind, as `kinds`.
        kinds: such as "tsne(perplexity=10)", options in brackets; by default those of STANDARD that suit the sources.
        layers: which layers of the stores; all if none is named.
        metrics: what the table of a page and the kind trajectory measure, as in `score`: specs or names of sets; of files of
            measurements, what is drawn, by default all.
        split: draw the rows of one split only.
        width: "column" and "page" of a paper, or "slide".
        form: "png", "svg" or "pdf": of the pictures in a folder.
        max_points: more rows than this are thinned to it, class by class, where they are drawn one by one; the picture says so.
        coordinates: a .csv to write the layouts to: id, label, input, kind, x, y.
        layout: such a .csv: its coordinates are drawn, and nothing is projected.
        images: for a page and the kind issues, where the images of the samples are: a folder in which the ids are paths, or
            other data. By default where the features were extracted from, if that is local data of moderate size.
        seed: of the projections and the thinning; below 2**32.
        overwrite: replace existing pictures and coordinates. In a folder, pictures that embedscope drew before and that are not
            drawn again are removed; other files stay.
        command: what was typed, for the provenance on a page.
        say: called with what was left out, and why.
        track: shows progress over kinds.

    Raises:
        InputError: a source that cannot be read, holds NaN, or has fewer than three labeled rows; a kind that does not suit.
        UsageError: an unknown kind, option, layer or split, or another suffix.
        OutputError: a picture exists.

    Example:
        >>> features = [[0.0, 1.0], [0.1, 1.0], [4.0, 0.0], [4.2, 0.0]]
        >>> figure = plot(features, labels=["a", "a", "b", "b"], kind="silhouette")
        >>> [axes.get_xlabel() for axes in figure.get_axes() if axes.get_xlabel()]
        ['silhouette']
    """
    provide_caches()
    as_labels = "the second argument is the output; give labels by name, as in plot(X, labels=y)"
    output = None if output is None else check_path("`output=`", output, advice=as_labels)
    coordinates, layout, images = (
        None if path is None else check_path(f"`{name}=`", path)
        for name, path in (("coordinates", coordinates), ("layout", layout), ("images", images))
    )
    check_choice("format", form, FORMATS)
    if kind is not None and kinds:
        raise UsageError("`kind=` and `kinds=` are the same option; give only one")
    kinds = check_names("`kinds=`", kinds) if kind is None else [check_text("`kind=`", kind)]
    layers = check_names("`layers=`", layers)
    max_points, seed = check_whole("`max_points=`", max_points, low=3), check_seed(seed)
    split, overwrite = check_optional_text("`split=`", split), check_flag("`overwrite=`", overwrite)
    if are_scores(sources):
        kinds = kinds or ["silhouette"]
    measured = list(METRICS) if metrics is None else check_names("`metrics=`", metrics, some=True)
    bound(measured)
    in_folder = output is not None and (output.is_dir() or not output.suffix)
    paged = output is not None and not in_folder and output.suffix.lower() == SUFFIX
    if paged:
        check_available()
        if width != "page":
            raise UsageError(f"`width={width}` applies to pictures; a page adapts to its window")
    if images is not None and not images.exists():
        raise InputError(f"no such images: {images}")
    if output is not None and not in_folder:
        if not paged:
            check_suffix(output)
        check_output(output, overwrite=overwrite)
    elif output is not None and output.exists() and not output.is_dir():
        raise OutputError(f"output {output} is a file; give a folder, or a name that ends in {', '.join(SUFFIXES)}")
    for table in (coordinates, layout):
        if table is not None:
            check_coordinates(table)
    if coordinates is not None:
        check_output(coordinates, overwrite=overwrite, inputs=[layout])
    preset = check_width(width)
    if form != "png" and not in_folder and (output is None or output.suffix.lower() != f".{form}"):
        other = "choose a folder with `output=`" if output is None else f"{output.name} already sets its format"
        raise UsageError(f"`form={form}` sets the format of pictures in a folder; {other}")
    folder = None if images is None else str(images)
    specs = [choose(text, seed=seed, metrics=measured, images=folder) for text in kinds or STANDARD]
    chosen = list({each.spec: each for each in specs}.values())
    if images is not None and not paged and not any("images" in each.options for each in chosen):
        raise UsageError("`images=` applies to a page (.html) and to the kind issues, and neither is drawn")
    if paged:
        chosen = _maps(chosen, named=bool(kinds))
    known = None if layout is None else read_coordinates(layout)
    if are_scores(sources):
        if layers or split is not None:
            raise UsageError("the rows of a file of scores are fixed; omit `layers=` and `split=`")
        given = given_by_scores(sources, max_points=max_points, seed=seed)
    else:
        given = prepare(sources, labels, layers=layers, split=split, max_points=max_points, seed=seed)
    if kinds:
        for each in chosen:
            if each.declared.takes == "runs" and not given.runs:
                raise InputError(f"{each.spec} needs a run directory, which embedscope finetune writes; none was given")
            if given.courses and each.declared.takes != "checkpoints":
                raise InputError(f"{each.spec} needs features, and a file of measurements has none; draw it as a trajectory")
            if each.declared.takes == "checkpoints" and len(given.embeddings) < 2 and not given.courses:
                raise InputError(f"{each.spec} needs two or more checkpoints or layers, in order; only one embedding was given")
    else:
        of_features = ["points", "embeddings"] if given.embeddings else []
        suited = {*of_features, *["runs"] * bool(given.runs), *["checkpoints"] * given.in_stages}
        chosen = [each for each in chosen if each.declared.takes in suited]
    for option, table in (("`coordinates=`", coordinates), ("`layout=`", layout)):
        if table is not None and not any(each.declared.takes == "points" for each in chosen):
            raise UsageError(f"{option} applies to kinds with coordinates, and none is drawn; add `kinds=tsne`, umap or pca")
    if metrics is not None and not paged and not any("metrics" in each.options for each in chosen):
        raise UsageError("`metrics=` applies to a page (.html) and to the kind trajectory, and neither is drawn")
    if given.courses and output is not None and paged:
        if images is not None:
            raise UsageError("`images=` needs samples, and a file of measurements has none; omit it")
        write_courses(output, with_metrics(given.courses, () if metrics is None else measured), command=command)
        return [output]
    names = _file_names(chosen)
    files = [] if output is None else [output / f"{name}.{form}" for name in names] if in_folder else [output]
    if in_folder:
        for path in files:
            check_output(path, overwrite=overwrite)
    found: dict[str, Sequence[Any]] = {}
    missing: UndefinedError | None = None
    for each in track(chosen, "measuring", len(chosen)):
        try:
            if known is not None and layout is not None and each.declared.takes == "points":
                found[each.spec] = given_layouts(given.embeddings, known, layout, kind=each.spec, title=each.declared.title)
            else:
                inputs = given.courses or (given.runs if each.declared.takes == "runs" else given.embeddings)
                options = dict(each.options)
                if given.courses and metrics is None and "metrics" not in parse(each.spec).options:  # all that were measured
                    options["metrics"] = ()
                found[each.spec] = each.function(inputs, **options)
        except UndefinedError as error:
            if kinds:
                raise
            missing = error
            say(f"skipping {each.spec}: {error}")
    drawn = [each for each in chosen if each.spec in found]
    if missing is not None and not drawn:
        raise missing
    if coordinates is not None:
        layouts = {each.spec: found[each.spec] for each in drawn if each.declared.takes == "points"}
        write_coordinates(coordinates, layouts)
    if output is not None and paged:
        _write_page(output, given, {each.spec: found[each.spec] for each in drawn}, command, seed, images, measured, track)
        return files
    colors = cache(partial(_palette, given))
    if output is None:
        with figure_of(preset, colors, len(drawn)) as (figure, stack):
            for sheet, each in zip(stack, drawn, strict=True):
                each.declared.draw(sheet, found[each.spec])
        return figure
    kept = [path for path, each in zip(files, chosen, strict=True) if each.spec in found] if in_folder else files
    sheets = [[each] for each in drawn] if in_folder else [drawn]
    for path, together in zip(kept, sheets, strict=True):
        with picture(path, preset, colors, len(together)) as stack:
            for sheet, each in zip(stack, together, strict=True):
                each.declared.draw(sheet, found[each.spec])
    if in_folder and overwrite and output is not None:
        for path in remove_others(output, kept):
            say(f"removed {path}, drawn by an earlier run")
    return kept


def _maps(chosen: Sequence[Chosen], *, named: bool) -> list[Chosen]:
    """Return the kinds that lay rows out, the only ones that can be chosen for a page."""
    maps = [each for each in chosen if each.declared.takes == "points"]
    if named and len(maps) < len(chosen):
        other = next(each.spec for each in chosen if each not in maps)
        raise UsageError(
            f"a page includes every other applicable view by default; omit `kinds={other}`, and use it to choose maps only"
        )
    return maps


def _write_page(
    output: Path,
    given: Given,
    layouts: Mapping[str, Sequence[Layout]],
    command: str,
    seed: int,
    images: Path | str | None,
    metrics: Sequence[str],
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
            raise InputError(f"the maps of {each.name} have different rows; all maps of a page must show the same rows")
        its = {title: points[place] for title, points in maps.items()}
        views.append(View(each.features, drawn[0], its, each.unlabelled))
    folder = None if images is None else str(images)
    write_page(
        output,
        views,
        runs=given.runs,
        metrics=metrics,
        command=command,
        seed=seed,
        images=folder,
        slots=given.slots,
        track=track,
    )


def _file_names(chosen: Sequence[Chosen]) -> list[str]:
    """Name one file per kind: tsne, and tsne-2 for the second of a kind."""
    names: list[str] = []
    for each in chosen:
        name = each.function.__name__
        earlier = sum(other.function.__name__ == name for other in chosen[: len(names)])
        names.append(name if not earlier else f"{name}-{earlier + 1}")
    return names


def _palette(given: Given) -> Palette:
    """Give every class its color; if there are too many, only those with the lowest silhouette in the first input."""
    first = given.embeddings[0]
    worst = worst_classes(first) if len(given.class_names) > MAX_CLASSES else []
    return palette(
        given.class_names, worst, f"the {WORST} with the lowest silhouette in {first.name} are colored", slots=given.slots
    )


def worst_classes(embedding: Embedding) -> list[int]:
    """Order the classes of an input by their mean silhouette, the lowest first; those of one sample, which have none, last."""
    return lowest(embedding.labels, embedding.silhouettes.values)
