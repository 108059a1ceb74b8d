"""What kinds of plot are given: embeddings with one list of classes and the rows to show, and runs of finetune."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope import devices
from embedscope.errors import InputError, UsageError
from embedscope.metrics.silhouette import silhouette
from embedscope.ops.statistics import stratified_sample
from embedscope.plotting.courses import Course, read_courses
from embedscope.plotting.figure import MAX_CLASSES
from embedscope.store import check_finite, distinct_names, select_labeled, select_split
from embedscope.store.reader import named
from embedscope.store.results import Finetuning, is_run, read_run
from embedscope.store.runs import open_run, read_log
from embedscope.store.selection import SelectedRows
from embedscope.store.sources import open_sources
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedscope.store.features import FeatureSet

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Silhouettes:
    """Silhouettes of the shown rows, measured against all rows.

    Attributes:
        values: (n,) float64 in [-1, 1].
        nearest: (n,) int64, the nearest class other than the own one.
    """

    values: Array
    nearest: Array


@dataclass(frozen=True, eq=False)
class Embedding:
    """One input.

    Attributes:
        features: the labeled rows; `class_names` (K,) are those of all inputs, so that a label is the same class in each.
        shown: (n,) int64 ascending: the rows that are drawn one by one, all of them or a stratified sample.
        unlabelled: how many rows were left out.
        known: silhouettes of the rows that are shown, if they were measured before.
    """

    features: FeatureSet
    shown: Array
    unlabelled: int = 0
    known: Silhouettes | None = None

    @property
    def name(self) -> str:
        """Name used by the panels."""
        return self.features.name

    @property
    def labels(self) -> Array:
        """Labels of the shown rows: (n,) int64."""
        return self.features.labels[self.shown]

    @property
    def ids(self) -> Array:
        """Ids of the shown rows: (n,) str."""
        return self.features.ids[self.shown]

    @property
    def rows(self) -> torch.Tensor:
        """Features of the shown rows: (n, D)."""
        return SelectedRows(self.features.features, self.shown)[:]

    @cached_property
    def silhouettes(self) -> Silhouettes:
        """Euclidean, computed once for all that read them; UndefinedError for fewer than two classes."""
        return self.known or measured_silhouettes(self)


@dataclass(frozen=True, eq=False)
class Run:
    """A run directory of finetune.

    Attributes:
        name: what headings call it.
        result: what run.json holds.
    """

    name: str
    result: Finetuning

    @cached_property
    def logs(self) -> tuple[tuple[Mapping[str, Sequence[float]], ...], ...]:
        """One list per objective, with one entry per trial: column -> value per epoch, NaN for an epoch without one."""
        source = str(self.result.path)
        return tuple(tuple(read_log(source, trial) for trial in each.trials) for each in self.result.objectives)


@dataclass(frozen=True)
class Given:
    """All inputs of a picture, in the order in which they were named.

    Attributes:
        embeddings: of all sources; those of a run are its held-out rows before, and after each objective.
        runs: those of the sources that are run directories.
        class_names: of the classes that have a row in any embedding.
        courses: what files of measurements hold; there are no embeddings beside them.
        slots: place of each class among the colors: that among all classes the sources know, so that a class has the same
            color in every split. Empty if these are more than have colors.
    """

    embeddings: tuple[Embedding, ...]
    runs: tuple[Run, ...]
    class_names: tuple[str, ...]
    courses: tuple[Course, ...] = ()
    slots: tuple[int, ...] = ()

    @property
    def in_stages(self) -> bool:
        """Whether the embeddings may be stages of one training: three or more of the same rows and layer, none of a run."""
        if self.courses:
            return True
        first = self.embeddings[0].features
        return (
            not self.runs
            and len(self.embeddings) >= 3
            and all(each.features.layer == first.layer for each in self.embeddings)
            and all(set(each.features.ids) == set(first.ids) for each in self.embeddings)
        )


def measured_silhouettes(embedding: Embedding, distance: str = "euclidean") -> Silhouettes:
    """Measure the rows that are shown against all rows."""
    features = embedding.features
    everyone = len(embedding.shown) == len(features.labels)
    found = silhouette(
        features.features,
        torch.from_numpy(features.labels),
        distance=distance,
        anchors=None if everyone else torch.from_numpy(embedding.shown),
    )
    assert found.per_sample is not None
    assert found.nearest is not None
    return Silhouettes(found.per_sample.numpy(), found.nearest.numpy())


def prepare(
    sources: Any,
    labels: Any = None,
    *,
    layers: str | Sequence[str],
    split: str | None,
    max_points: int,
    seed: int,
) -> Given:
    """Open the sources, take the labeled rows of the split, and choose at most `max_points` rows of each to show.

    Inputs that are thinned and hold nearly the same ids show the same rows.

    Raises:
        InputError: a source that cannot be read, holds NaN, or has fewer than three labeled rows.
        UsageError: an unknown layer or split, or more classes than points.
    """
    if courses := read_courses(sources, layers=layers, split=split):
        return Given((), (), (), tuple(courses))
    paths = _paths(sources)
    opened = open_sources(sources, labels, layers=layers) if paths is None else _open(paths, layers)
    if not opened:
        raise UsageError("there is nothing to draw: the list of sources is empty")
    found = [select_labeled(select_split(features, split)) for features in opened]
    present = [np.unique(features.labels) for features, _ in found]
    names = tuple(
        dict.fromkeys(features.class_names[label] for (features, _), some in zip(found, present, strict=True) for label in some)
    )
    embeddings: list[Embedding] = []
    for features, unlabelled in found:
        if len(features.labels) < 3:
            raise InputError(
                f"{features.source} has {counted(len(features.labels), 'labeled row')}; a picture needs at least 3"
            )
        check_finite(features)
        place = {name: code for code, name in enumerate(names)}
        codes = np.array([place.get(name, -1) for name in features.class_names])  # no row has a class that is not present
        features = _at_hand(replace(features, labels=codes[features.labels], class_names=names))
        shown = _same_rows(embeddings[0], features, max_points) if embeddings else None
        if shown is None:
            shown = stratified_sample(torch.from_numpy(features.labels), max_points, seed).numpy()
        embeddings.append(Embedding(features, shown, unlabelled))
    known = list(dict.fromkeys(name for features in opened for name in features.class_names))
    slots = tuple(known.index(name) for name in names) if len(known) <= MAX_CLASSES else ()
    runs = tuple(Run(name, read_run(path)) for path, name in _run_names(paths or ()).items())
    return Given(tuple(embeddings), runs, names, slots=slots)


def _paths(sources: Any) -> list[str] | None:
    """List sources that all are paths, or runs that `finetune` returned; None for others."""
    listed = [sources] if isinstance(sources, str | Path | Finetuning) else sources
    if not isinstance(listed, list | tuple) or not all(isinstance(each, str | Path | Finetuning) for each in listed):
        return None
    return [str(each.path if isinstance(each, Finetuning) else each) for each in listed]


def _run_names(sources: Sequence[str]) -> dict[str, str]:
    """Name each run directory among the sources, path -> name; by its path what shares its name with another."""
    runs = {path: name for name, path in map(named, sources) if _is_run(path)}
    names = list(runs.values())
    return {path: path if names.count(name) > 1 else name for path, name in runs.items()}


def _is_run(path: str) -> bool:
    return is_run(path) or (Path(path) / "run.json").is_file()  # which may be damaged, and reading it says so


def _open(sources: Sequence[str], layers: str | Sequence[str]) -> list[FeatureSet]:
    opened: list[FeatureSet] = []
    runs = _run_names(sources)
    for source in sources:
        _, path = named(source)
        if path not in runs:
            opened += open_sources(source, layers=layers)
        elif layers:
            raise UsageError(f"{path} is a run, whose stores have one layer each; omit `layers=`")
        else:
            prefix = f"{runs[path]}: " if path != source or len(runs) > 1 else ""
            opened += [replace(features, name=f"{prefix}{features.name}") for features in open_run(path)]
    return distinct_names(opened)


def _at_hand(features: FeatureSet) -> FeatureSet:
    """Read the rows into memory where a quarter of what is free takes them; leave them on disk otherwise."""
    count, width = features.features.shape
    if count * width * features.features.dtype.itemsize > devices.free_memory(torch.device("cpu")) // 4:
        return features
    return replace(features, features=features.features[:])


def _same_rows(first: Embedding, features: FeatureSet, max_points: int) -> Array | None:
    """Find the rows that the first input shows, if more than `max_points` are to be thinned and the two hold nearly the same.

    None where less than nine tenths of them are there, or a class would have none.
    """
    if len(features.labels) <= max_points:
        return None
    place = {name: row for row, name in enumerate(features.ids)}
    shared = np.sort(np.array([place[name] for name in first.ids if name in place], dtype=np.int64))
    if 10 * len(shared) < 9 * len(first.shown) or set(features.labels[shared]) != set(features.labels):
        return None
    return shared


def described(what: str, embeddings: Sequence[Embedding], *, drawn: bool) -> tuple[str, list[str], list[str]]:
    """Word the heading of a sheet, the title of each panel, and notes on what is not there.

    The layer and the number of samples stand in the heading, each if all inputs share it, otherwise in the titles.

    Args:
        what: such as "t-SNE".
        embeddings: a panel each.
        drawn: whether the picture holds the rows that are shown; otherwise it is of all rows.
    """
    layers = [f" of {each.features.layer}" for each in embeddings]
    counts = []
    for each in embeddings:
        total, shown = len(each.features.labels), len(each.shown)
        counts.append(f", {f'{shown:,} of ' if drawn and shown < total else ''}{counted(total, 'sample')}")
    notes = [f"{each.name}: {each.unlabelled:,} unlabeled rows are left out." for each in embeddings if each.unlabelled]
    heads = [each.features.provenance.finetune for each in embeddings]
    seeds = {head.seed for head in heads if head is not None and head.seed is not None}
    if seeds:
        notes.append(f"After training: one trial per objective, seed {', '.join(map(str, sorted(seeds)))}.")
    if any(drawn and len(each.shown) < len(each.features.labels) for each in embeddings):
        notes.append("Subsampled with each class in proportion.")
    heading = what
    titles: list[list[str]] = [[] for _ in embeddings]
    for facts in (layers, counts):
        if len(set(facts)) == 1:
            heading += facts[0]
        else:
            for title, fact in zip(titles, facts, strict=True):
                title.append(fact)
    named = [
        f"{each.name}\n{''.join(facts).removeprefix(', ').strip()}" if facts else each.name
        for each, facts in zip(embeddings, titles, strict=True)
    ]
    return heading, named, notes
