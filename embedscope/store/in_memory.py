"""Feature sets of what lies in memory: arrays, tensors, data frames, annotated data."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope.arguments import displayed
from embedscope.errors import InputError, UsageError, unknown
from embedscope.store import foreign
from embedscope.store.foreign import exact_floats
from embedscope.store.labels import encode
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedscope.store.features import FeatureSet

    Array = np.ndarray[Any, Any]

# What messages call features that have neither a file nor a name.
UNNAMED = "the array"


def feature_set(
    features: Any,
    labels: Any,
    *,
    name: str = "features",
    ids: Sequence[str] | None = None,
    split: Sequence[str] | None = None,
) -> FeatureSet:
    """Make a FeatureSet of features (N, D) and labels (N,) in memory.

    Args:
        features: numbers as an array, a tensor of any device, a data frame or nested lists; whole numbers become float32 where
            that is exact, else float64.
        labels: whole numbers (negative ones are unlabeled) or text; the distinct values are the classes, in order.
        name: shown in tables.
        ids: unique; the row numbers by default.
        split: such as "train" and "test".

    Raises:
        InputError: not numbers of shape (N, D), other lengths, or labels of another kind.
    """
    rows, targets = _array("features", features), _array("labels", labels)
    _check_index(features, labels)
    if rows.ndim != 2 or rows.dtype.kind not in "fiub" or not rows.size:
        got = f"{rows.dtype} {rows.shape}" if rows.ndim else displayed(features)
        advice = "; features come first, then labels" if rows.ndim == 1 and targets.ndim == 2 else ""
        if rows.ndim == 3 and isinstance(features, list | tuple):
            advice = "; give several embeddings as a mapping from names to arrays"
        raise InputError(f"features must be numbers of shape (N, D), got {got}{advice}")
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if not targets.ndim:
        of_a_table = "; a column's name goes with AnnData" if isinstance(labels, str) else ""
        raise InputError(f"labels must be one per row, got {displayed(labels)}{of_a_table}")
    if targets.ndim == 2 and len(targets) == len(rows):
        raise InputError(f"labels have the shape {targets.shape}; give one per row, such as labels.argmax(1) of one-hot labels")
    for what, values in (("labels", targets), ("ids", ids), ("splits", split)):
        if values is not None and np.shape(values) != (len(rows),):
            raise InputError(f"features have {counted(len(rows), 'row')}, but {what} have the shape {np.shape(values)}")
    keys = None if ids is None else [str(each) for each in ids]
    if keys is not None and len(set(keys)) != len(keys):
        raise InputError(f"ids must be unique; {len(keys) - len(set(keys))} of {len(keys)} are repeated")
    kept = features.detach() if isinstance(features, torch.Tensor) and features.is_floating_point() else None
    return foreign.feature_set(
        foreign.Source(name, (UNNAMED,), {}, UNNAMED),
        "X",
        exact_floats(name, rows) if kept is None else kept,
        encode(name, "labels", targets),
        ids=keys,
        split=None if split is None else [str(each) for each in split],
    )


def annotated(data: Any, label: Any, layers: Sequence[str] = ()) -> list[FeatureSet]:
    """Make one FeatureSet per embedding of an AnnData object: its obsm, or else X.

    Args:
        data: with `obsm`, `obs`, `obs_names` and `X`.
        label: the column of obs that holds the classes.
        layers: keys of obsm; all by default.

    Raises:
        UsageError: no such column or key.
    """
    if not isinstance(label, str):
        raise UsageError(f"set the column of obs with the labels, one of {', '.join(map(str, data.obs))}")
    if label not in data.obs:
        raise UsageError(unknown("column", label, data.obs, place="obs"))
    known: Mapping[str, Any] = data.obsm if len(data.obsm) else {"X": data.X}
    for layer in layers:
        if layer not in known:
            raise UsageError(unknown("key", layer, known, place="obsm"))
    found = []
    for layer in layers or list(known):
        made = feature_set(known[layer], data.obs[label], name=str(layer), ids=[str(each) for each in data.obs_names])
        found.append(replace(made, layer=str(layer), source="AnnData"))
    return found


def _check_index(features: Any, labels: Any) -> None:
    """Raise InputError for a data frame and a series with the same index in another order: rows are paired by position."""
    pair: Any = [getattr(each, "index", None) for each in (features, labels)]
    if not all(hasattr(each, "equals") for each in pair) or pair[0].equals(pair[1]):
        return
    if Counter(pair[0]) == Counter(pair[1]):
        raise InputError("features and labels have the same index in another order; align them: labels.loc[features.index]")


def _array(what: str, values: Any) -> Array:
    if isinstance(values, torch.Tensor):
        return np.asarray(values.detach().cpu().float() if values.dtype is torch.bfloat16 else values.detach().cpu())
    if hasattr(values, "toarray"):  # a sparse matrix
        values = values.toarray()
    try:
        return np.asarray(values)
    except ValueError as error:  # lists of several lengths
        raise InputError(f"{what} must be an array, or lists of one length, got {displayed(values)}") from error
