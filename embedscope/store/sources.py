"""Embeddings wherever they come from: files, arrays, annotated data, feature sets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from embedscope.arguments import check_names, displayed
from embedscope.errors import InputError, UsageError
from embedscope.store.features import FeatureSet
from embedscope.store.in_memory import UNNAMED, annotated, feature_set
from embedscope.store.reader import distinct_names, open_features

# Sources that bring their labels.
_LABELED = (str, os.PathLike, FeatureSet)


def open_sources(sources: Any, labels: Any = None, *, layers: str | Sequence[str] = ()) -> list[FeatureSet]:
    """Open every layer of every source, named distinctly.

    Args:
        sources: features (N, D) as an array, a tensor or a data frame, with `labels`, or a pair (features, labels); a path to a
            store or to features made elsewhere, optionally as `name=path`; a FeatureSet; an AnnData object, with `labels` the
            name of a column of its obs; a mapping from names to any of these; or a list of paths and FeatureSets.
        labels: (N,) of any kind, for the arrays among the sources; a column's name for AnnData.
        layers: which layers of the stores (keys of obsm in AnnData); all by default.

    Raises:
        InputError: a source that cannot be read, or arrays of another shape.
        UsageError: arrays without labels, or an unknown layer.
    """
    wanted = check_names("`layers=`", layers)
    if labels is not None and _bring_labels(sources):
        raise UsageError(
            f"labels go with arrays; files and feature sets have their own, got {displayed(sources)}; omit the labels"
        )
    if isinstance(sources, Mapping):
        if not sources:
            raise UsageError("the mapping of sources is empty; give names with features, paths or FeatureSets")
        named = [
            _named(str(name), open_sources(source, None if isinstance(source, _LABELED) else labels, layers=wanted))
            for name, source in sources.items()
        ]
        return distinct_names([features for several in named for features in several])
    if isinstance(sources, str | os.PathLike):
        return open_features([os.fspath(sources)], layers=wanted)
    if isinstance(sources, FeatureSet):
        return [sources]
    if hasattr(sources, "obsm"):
        return annotated(sources, labels, wanted)
    pair = isinstance(sources, tuple) and len(sources) == 2 and not isinstance(sources[0], _LABELED)
    if pair and labels is not None and [dimensions(each) for each in sources] == [2, 1]:
        raise UsageError("the labels are given twice: in the pair (features, labels), and by themselves; omit one of them")
    if labels is not None:
        return [feature_set(sources, labels)]
    if pair:
        return [feature_set(*sources)]
    if isinstance(sources, Sequence) and sources and all(isinstance(each, _LABELED) for each in sources):
        return distinct_names([features for each in sources for features in open_sources(each, layers=wanted)])
    axes, nested = dimensions(sources), isinstance(sources, list | tuple)
    if axes > 2 or (axes == 1 and not nested):
        raise InputError(f"features must be numbers of shape (N, D), got {displayed(sources)}")
    if axes == 2:
        raise UsageError(f"{displayed(sources)} is given without labels; give one label per row as well, as in score(X, y)")
    raise UsageError(
        f"{displayed(sources)} is not an embedding; give features and labels, a path, a FeatureSet, or a "
        "mapping from names to these"
    )


def open_source(source: Any, labels: Any = None, *, layer: str | None = None) -> FeatureSet:
    """Open one embedding, of whatever `open_sources` takes; UsageError if there are several."""
    found = open_sources(source, labels, layers=() if layer is None else layer)
    if len(found) > 1:
        names = ", ".join(each.layer if len({one.source for one in found}) == 1 else each.name for each in found)
        raise UsageError(f"expected one embedding, got {len(found)}: {names}; choose one with `layer=`")
    return found[0]


def _bring_labels(sources: Any) -> bool:
    """Whether all sources are files or FeatureSets, which have labels of their own."""
    several = sources.values() if isinstance(sources, Mapping) else sources if isinstance(sources, list | tuple) else [sources]
    return len(several) > 0 and all(isinstance(each, _LABELED) for each in several)


def dimensions(given: Any) -> int:
    """Count the dimensions of an array or of nested lists; 0 for anything else."""
    if isinstance(given, list | tuple):
        return 1 + dimensions(given[0]) if given else 0
    shape = getattr(given, "shape", ())
    return len(shape) if isinstance(shape, tuple) else 0


def _named(name: str, found: Sequence[FeatureSet]) -> list[FeatureSet]:
    """Name what a mapping holds; arrays have no other name that a message could give."""
    return [
        replace(
            each,
            name=name if len(found) == 1 else f"{name}:{each.layer}",
            source=name if each.source == UNNAMED else each.source,
        )
        for each in found
    ]
