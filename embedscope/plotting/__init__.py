"""Pictures of embeddings: a file a kind, each a projection `(n, D) -> (n, 2)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from embedscope import plugins
from embedscope.errors import InputError, UsageError, check_number
from embedscope.plotting import report
from embedscope.plotting.figure import check_suffix, class_legend, picture, scatter
from embedscope.records import FeatureSet, Track, untracked
from embedscope.store import check_finite, distinct_names, open_features, select, select_labelled, select_split
from embedscope.store.files import check_output
from embedscope.store.reader import named
from embedscope.store.runs import is_run, open_run

if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS = ("tsne",)
MAX_POINTS = 10_000

F = TypeVar("F", bound=Callable[..., Any])


def plot(
    sources: Sequence[str],
    output: Path | str,
    *,
    kinds: Sequence[str] = KINDS,
    layers: Sequence[str] = (),
    split: str | None = None,
    max_points: int = MAX_POINTS,
    seed: int = 0,
    overwrite: bool = False,
    command: str = "",
    track: Track = untracked,
) -> Path:
    """Draw embeddings side by side: a column an input, a row a kind, one colour a class throughout.

    Args:
        sources: stores, `.npz`, `X.npy,y.npy`, or run directories (before, and after each objective); `name=path` names one.
        output: .png, .svg or .pdf; or .html for a page to explore, which also has scores, silhouettes, channels and provenance.
        kinds: "tsne", "umap", "pca"; options in brackets, as in "tsne(perplexity=10)".
        layers: which layers of the stores; all if none is named.
        split: draw the rows of one split only.
        max_points: more rows than this are thinned to it, class by class, and the picture says so.
        seed: of the projections and the thinning; below 2**32.
        overwrite: replace an existing picture.
        command: what was typed, for the provenance on a page.
        track: shows progress over panels.

    Raises:
        InputError: a source that cannot be read, holds NaN, or has fewer than three labelled rows.
        UsageError: an unknown kind, option, layer or split, or another suffix.
        OutputError: the picture exists.
        MissingExtraError: a page, and plotly is not installed.
    """
    output = Path(output)
    paged = output.suffix.lower() == report.SUFFIX
    if paged:
        report.check_available()
    else:
        check_suffix(output)
    check_output(output, overwrite=overwrite)
    check_number("seed", seed, low=0, high=2**32 - 1)
    if max_points < 3:
        raise UsageError(f"a picture needs at least 3 points, got max_points={max_points}")
    projections = []
    for spec in map(plugins.parse, kinds):
        function = plugins.load("plotting", spec.name)
        options = plugins.bind(function, spec)
        projections.append((function, {**options, "seed": spec.options.get("seed", seed)}))
    opened = _open(sources, layers)
    if paged:
        views = [_view(features, projections, split, max_points, seed) for features in track(opened, "projecting", len(opened))]
        runs = {name: Path(path) for name, path in map(named, sources) if is_run(path)}
        report.write(output, views, runs=runs, command=command, seed=seed, track=track)
        return output
    inputs = [_ready(features, split, max_points, seed) for features in opened]
    names = list(dict.fromkeys(name for features, _ in inputs for name in features.class_names))
    work = [(row, column) for row in range(len(projections)) for column in range(len(inputs))]
    with picture(output, len(projections), len(inputs)) as (figure, panels):
        for row, column in track(work, "projecting", len(work)):
            function, options = projections[row]
            features, total = inputs[column]
            points = function(_about_the_mean(features), **options)
            drawn = f"{len(points):,}" if len(points) == total else f"{len(points):,} of {total:,}"
            labels = np.array([names.index(name) for name in features.class_names])[features.labels]
            title = f"{features.name}\n{function.title} of {features.layer}, {drawn} samples"
            scatter(panels[row][column], points, labels, names, title, function.title)
        class_legend(figure, names)
    return output


def projection(*, title: str) -> Callable[[F], F]:
    """Declare `foo(features (n, D) float64, *, seed, options) -> (n, 2)` as a kind of plot with the name that readers know."""

    def declare(function: F) -> F:
        function.title = title  # type: ignore[attr-defined]
        return function

    return declare


def _open(sources: Sequence[str], layers: Sequence[str]) -> list[FeatureSet]:
    opened: list[FeatureSet] = []
    for source in sources:
        name, path = named(source)
        if not is_run(path):
            opened += open_features([source], layers=layers)
        elif layers:
            raise UsageError(f"{path} is a run, whose stores have one layer each; leave out --layer")
        else:
            prefix = f"{name}: " if path != source else ""
            opened += [replace(features, name=f"{prefix}{features.name}") for features in open_run(path)]
    return distinct_names(opened)


def _view(
    features: FeatureSet, projections: Sequence[tuple[Any, dict[str, Any]]], split: str | None, max_points: int, seed: int
) -> report.View:
    """Choose what the page shows of an embedding, and lay it out in every way that was asked for."""
    features, unlabelled = _labelled(features, split)
    drawn = _thinned(features.labels, max_points, seed)
    rows = _about_the_mean(select(features, drawn))
    layouts: dict[str, np.ndarray[Any, Any]] = {}
    for function, options in projections:
        given = ", ".join(f"{name}={value}" for name, value in options.items())
        title = function.title if function.title not in layouts else f"{function.title} ({given})"
        layouts[title] = function(rows, **options)
    return report.View(features, np.flatnonzero(drawn), layouts, unlabelled)


def _ready(features: FeatureSet, split: str | None, max_points: int, seed: int) -> tuple[FeatureSet, int]:
    """Take the labelled rows of the split, thinned to max_points; and how many there were."""
    features, _ = _labelled(features, split)
    return select(features, _thinned(features.labels, max_points, seed)), len(features.labels)


def _labelled(features: FeatureSet, split: str | None) -> tuple[FeatureSet, int]:
    """Take the labelled rows of the split, and count those without a label."""
    features, unlabelled = select_labelled(select_split(features, split))
    check_finite(features)
    if len(features.labels) < 3:
        raise InputError(f"{features.source} has {len(features.labels)} labelled rows, a picture needs at least 3")
    return features, unlabelled


def _about_the_mean(features: FeatureSet) -> np.ndarray[Any, Any]:
    """Read the rows in float64, about their mean and in [-1, 1]: no projection sees a difference, and none overflows."""
    rows: np.ndarray[Any, Any] = features.features[:].double().numpy()
    rows = rows / (np.abs(rows).max() or 1.0)
    rows = rows - rows.mean(axis=0)
    largest = np.abs(rows).max()
    if largest < 1e-12:
        raise InputError(f"{features.source}: all rows are equal, there is nothing to project")
    scaled: np.ndarray[Any, Any] = rows / largest
    return scaled


def _thinned(labels: np.ndarray[Any, Any], most: int, seed: int) -> np.ndarray[Any, Any]:
    """Choose rows so that every class keeps its share, and each at least a row while there is room: (N,) -> (N,) bool."""
    if len(labels) <= most:
        return np.ones(len(labels), dtype=bool)
    generator = np.random.default_rng(seed)
    # A row's rank in its class over the class's size spreads each class evenly over [0, 1): the lowest are kept.
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    counts = np.unique(labels, return_counts=True)[1]
    rank = np.concatenate([np.arange(count) / count for count in counts])
    keep = np.zeros(len(labels), dtype=bool)
    keep[order[np.argsort(rank, kind="stable")[:most]]] = True
    return keep
