"""What `score` returned, as kinds of plot are given it: silhouettes of samples, without the features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope.errors import InputError, UsageError
from embedscope.evaluation import Scores, ScoreTable
from embedscope.ops.statistics import stratified_sample
from embedscope.plotting.inputs import Embedding, Given, Silhouettes
from embedscope.store.features import FeatureSet

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Unheld:
    """Rows (N, D) that scores do not hold; reading them raises UsageError."""

    shape: tuple[int, int]
    dtype: torch.dtype = torch.float32

    def __getitem__(self, rows: Any) -> Any:
        raise UsageError("scores contain values, not features; for this kind, draw the features themselves")


def are_scores(sources: Any) -> bool:
    """Whether the sources are what `score` returned."""
    return isinstance(sources, Scores | ScoreTable)


def given_by_scores(sources: Scores | ScoreTable, *, max_points: int, seed: int) -> Given:
    """Make inputs of scores; of more samples than `max_points`, a stratified sample is shown.

    InputError for scores without the Euclidean silhouette of samples.
    """
    scores = [sources] if isinstance(sources, Scores) else list(sources)
    found = [_silhouettes(each) for each in scores]
    names = list(dict.fromkeys(name for labels, *_ in found for name in np.unique(labels).tolist()))
    place = {name: code for code, name in enumerate(names)}
    embeddings = []
    for each, (labels, ids, shown, silhouettes) in zip(scores, found, strict=True):
        codes = np.array([place[name] for name in labels.tolist()], dtype=np.int64)
        if len(shown) > max_points:
            kept = stratified_sample(torch.from_numpy(codes[shown]), max_points, seed).numpy()
            shown, silhouettes = shown[kept], Silhouettes(silhouettes.values[kept], silhouettes.nearest[kept])
        nearest = np.array([place[name] for name in silhouettes.nearest.tolist()], dtype=np.int64)
        features = FeatureSet(
            each.name, each.source, each.layer, Unheld((each.samples, each.dimensions)), codes, tuple(names), ids
        )
        embeddings.append(Embedding(features, shown, known=Silhouettes(silhouettes.values, nearest)))
    return Given(tuple(embeddings), (), tuple(names))


def _silhouettes(scores: Scores) -> tuple[Array, Array, Array, Silhouettes]:
    """Find the labels (N,) and ids (N,) of all rows, the rows measured (n,), and their silhouettes, `nearest` as names."""
    table = scores.table
    columns = [] if table is None else list(table.values)  # the nearest classes are those of the first
    of_first = scores.metrics[columns[0]] if columns else None
    usable = of_first is not None and of_first.name == "silhouette" and of_first.options["distance"] == "euclidean"
    if not usable or table is None or table.nearest is None or scores.labels is None or scores.ids is None:
        raise InputError(
            f"the scores of {scores.name} contain no per-sample silhouettes; measure silhouette first, or draw the "
            "features themselves"
        )
    rows = {identifier: row for row, identifier in enumerate(scores.ids)}
    shown = np.array([rows[identifier] for identifier in table.ids], dtype=np.int64)
    return scores.labels, scores.ids, shown, Silhouettes(table.values[columns[0]], table.nearest)
