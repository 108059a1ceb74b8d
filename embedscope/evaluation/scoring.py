"""Measure embeddings side by side, wherever they come from: files, arrays, annotated data, feature sets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope import devices, distributed
from embedscope.arguments import check_flag, check_names, check_optional_text, check_optional_whole, check_seed
from embedscope.errors import UsageError, unknown
from embedscope.evaluation import comparison
from embedscope.evaluation.comparing import differences
from embedscope.evaluation.evaluating import bound, evaluate
from embedscope.evaluation.further_findings import with_comparison
from embedscope.evaluation.intervals import check_ci
from embedscope.evaluation.scores import ScoreTable
from embedscope.evaluation.shift import Shift, measure_shift
from embedscope.metrics import STANDARD
from embedscope.ops.blocks import allowance, limits
from embedscope.progress import Track, silent, untracked
from embedscope.store import select_labeled, select_split
from embedscope.store.features import FeatureSet
from embedscope.store.sources import open_sources

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedscope.evaluation.comparison import Comparison
    from embedscope.evaluation.scores import Scores


def score(
    sources: Any,
    labels: Any = None,
    *,
    metrics: str | Sequence[str] = STANDARD,
    layers: str | Sequence[str] = (),
    split: str | None = None,
    sample: int | None = None,
    ci: str | bool = False,
    compare: bool = False,
    against: Any = None,
    memory: int | str | None = None,
    device: str = "auto",
    seed: int = 0,
    say: Callable[[str], None] = silent,
    track: Track = untracked,
) -> ScoreTable:
    """Measure every layer of every source.

    Args:
        sources: features (N, D) with `labels`, a path, a FeatureSet, AnnData, a mapping from names to these, or a list of paths
            and FeatureSets, see `store.sources.open_sources`.
        labels: (N,) of any kind, for the arrays among the sources; a column's name for AnnData.
        metrics: one spec or several, such as "soft_silhouette(tau_s=0.2)", or the name of a set such as "collapse".
        layers: which layers of the stores (keys of obsm in AnnData); all by default.
        split: measure the rows of one split only.
        sample: measure this many samples against all rows, see `evaluation.evaluate`.
        ci: add 95% intervals, True (or "drawn") or "fixed", see `evaluation.evaluate`.
        compare: say what changed from the first embedding to each other one, see `evaluation.comparison`; adds intervals.
        against: other rows, such as those of production, of the same layers: how far they are from these is measured too, see
            `evaluation.shift`. A source as the others; an array needs no labels.
        memory: bytes that a run may take, or a size such as "4GB"; half of what is free by default.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: of the sample and of resampling.
        say: called beforehand with what is planned, if that takes time.
        track: shows progress over blocks.

    Returns:
        One `Scores` per layer of each source, in order, in a sequence that prints as a table and has `to_dataframe()`.

    Raises:
        InputError: a source that cannot be read, holds NaN, or has no labeled row.
        UsageError: an unknown metric, option, layer or split; a sample or a memory limit too small to work with.

    Example:
        >>> features = [[0.1 * place, 1.0] for place in range(5)] + [[4 + 0.1 * place, 0.0] for place in range(5)]
        >>> score({"late": features, "scaled": [[10 * x, y] for x, y in features]}, 5 * ["a"] + 5 * ["b"], metrics="silhouette")
        metric                  late  scaled
        samples x dimensions  10 x 2  10 x 2
        silhouette ↑          0.9514  0.9499
    """
    chosen = check_names("`metrics=`", metrics, some=True)
    wanted = check_names("`layers=`", layers)
    memory = devices.memory_limit(memory)
    split, sample = check_optional_text("`split=`", split), check_optional_whole("`sample=`", sample, low=1)
    seed, compare = check_seed(seed), check_flag("`compare=`", compare)
    check_ci(ci)
    devices.choose(device, float64=True)
    bound(chosen)  # a typo should not cost the time of opening the sources
    found = [select_split(features, split) for features in open_sources(sources, labels, layers=wanted)]
    others = [] if against is None else _counterparts(found, against)
    if compare and len(found) < 2:
        raise UsageError(f"`compare=True` needs at least two embeddings, got {len(found)}")
    if compare and sample is not None:
        raise UsageError("`compare=True` compares all rows; omit `sample=`")

    def measured(features: FeatureSet) -> Scores:
        return evaluate(
            features, chosen, sample=sample, ci=ci or compare, memory=memory, device=device, seed=seed, say=say, track=track
        )

    scores = [measured(features) for features in found]
    if others and split is None:
        scores = [
            _with_self_warning(entry, one) if against is sources or _is_from_same_file(sources, against, one, other) else entry
            for entry, one, other in zip(scores, found, others, strict=True)
        ]
    comparisons: list[Comparison] = []
    shifts: list[Shift] = []
    if compare or others:
        with limits(memory=distributed.all_reduce_object(allowance(torch.device("cpu"), memory), min), track=track):
            comparisons = _comparisons(found, scores, measured, seed) if compare else []
            shifts = [measure_shift(one, other, seed=seed) for one, other in zip(found, others, strict=False)]
    gaps = [each for pair in comparisons for each in pair.differences] if compare else differences(scores) if ci else []
    return ScoreTable(with_comparison(scores, gaps, comparisons, shifts), gaps, comparisons, shifts)


def _is_from_same_file(sources: Any, against: Any, one: FeatureSet, other: FeatureSet) -> bool:
    """Whether both embeddings are of one layer of one file; what lies in memory has names for sources, and no file."""
    if isinstance(sources, Mapping) or not isinstance(against, str | os.PathLike) or one.layer != other.layer:
        return False
    paths = Path(one.source), Path(other.source)
    return all(each.is_file() for each in paths) and paths[0].samefile(paths[1])


def _with_self_warning(entry: Scores, features: FeatureSet) -> Scores:
    warning = f"measured against itself ({features.source}); give other rows to find a shift"
    return replace(entry, warnings=[*entry.warnings, warning])


def _comparisons(
    found: Sequence[FeatureSet], scores: Sequence[Scores], measured: Callable[[FeatureSet], Scores], seed: int
) -> list[Comparison]:
    labeled = [select_labeled(features)[0] for features in found]
    return [
        comparison.compare(labeled[0], other, (scores[0], its), measured, seed)
        for other, its in zip(labeled[1:], scores[1:], strict=True)
    ]


def _counterparts(found: Sequence[FeatureSet], against: Any) -> list[FeatureSet]:
    """Open the rows to measure a shift to, one set per embedding: of the same layer, or the only one."""
    nested = isinstance(against, list) and not all(isinstance(each, str | Path | FeatureSet) for each in against)
    if not nested and (
        isinstance(against, str | Path | FeatureSet | Mapping | tuple | list)
        or not hasattr(against, "__len__")
        or hasattr(against, "obsm")
    ):
        others = open_sources(against)
    else:
        others = open_sources(against, np.full(len(against), -1))
    if len(others) == 1 and len(found) == 1:
        return others
    by_layer = {each.layer: each for each in others}
    if missing := [each.layer for each in found if each.layer not in by_layer]:
        raise UsageError(unknown("layer", missing[0], by_layer, place=others[0].source))
    return [by_layer[each.layer] for each in found]
