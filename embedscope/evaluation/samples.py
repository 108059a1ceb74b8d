"""Find the rows that need attention: wrong labels, copies within and across splits, outliers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope import devices
from embedscope.arguments import check_optional_text, check_seed
from embedscope.errors import InputError, UndefinedError
from embedscope.evaluation.flagging import FLAGGED, LabelsChecked, copied_rows, mislabeled_rows, outlying_rows
from embedscope.evaluation.issues import KINDS, Issue, Issues
from embedscope.ops.blocks import allowance, limits
from embedscope.ops.constant_channels import constant_channels
from embedscope.ops.label_issues import check_labels, expected_precision, neighbor_shares, strangers
from embedscope.ops.near_copies import near_copies
from embedscope.ops.neighbors import nearest_neighbors
from embedscope.ops.outliers import NEIGHBORS, outliers
from embedscope.ops.probes import cross_fitted_probabilities
from embedscope.ops.shared_neighbors import shared_neighbors
from embedscope.progress import Track, silent, untracked
from embedscope.store import select, select_split
from embedscope.store.in_memory import feature_set
from embedscope.store.selection import check_finite
from embedscope.store.sources import dimensions, open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedscope.ops.neighbors import Neighbors
    from embedscope.store.features import FeatureSet

    Array = np.ndarray[Any, Any]

_NEIGHBORS = 50  # copies, outliers and the votes on labels share one search
_FOLDS = 5


def find_issues(
    features: Any,
    labels: Any = None,
    *,
    ids: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    layer: str | None = None,
    split: str | None = None,
    memory: int | str | None = None,
    device: str = "auto",
    seed: int = 0,
    say: Callable[[str], None] = silent,
    track: Track = untracked,
) -> Issues:
    """Return the rows of an embedding that need attention, with evidence: wrong labels, copies, leakage, outliers.

    Labels are checked out of sample: by a linear probe that was fitted without the row, and by its 10 and its up to 50 nearest
    neighbors. A model of the label noise weighs them against one another and gives the probability that a label is wrong
    (`ops.label_issues`); those above one half are flagged. So are a few rows of a class within a part of the data that another
    class leads, if no neighbors connect it with their own. The features themselves may know the labels: those of a network
    that memorized wrong labels hide them.

    Copies are rows much nearer to one another than rows usually are (`ops.near_copies`), outliers rows much further away
    (`ops.outliers`), both by Euclidean distance. Labels are not needed for these.

    Args:
        features: (N, D) with `labels` (N,), or alone if there are none; a path, a FeatureSet, or AnnData with `labels` the
            name of a column, as `score` takes them.
        labels: of any kind; negative numbers and gaps are unlabeled rows.
        ids: (N,) unique, of arrays; the row numbers by default.
        splits: (N,) such as "train" and "test", of arrays: copies across splits are leakage.
        layer: which layer of a store.
        split: look at the rows of one split only.
        memory: bytes that a run may take, or a size such as "4GB"; half of what is free by default. Rows that do
            not fit are read from disk in blocks; the probabilities, 8 bytes for each row and class, must fit.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: of the folds of the probe, and of the rows that the noise model is fitted on, if there are many.
        say: called with what could not be computed.
        track: shows progress.

    Raises:
        InputError: a source that cannot be read, rows that hold NaN or infinite values, a single row.

    Example:
        >>> import numpy as np
        >>> generator = np.random.default_rng(0)
        >>> labels = np.repeat(["cat", "dog"], 50)
        >>> features = generator.normal(size=(100, 4)) + 9 * (labels == "dog")[:, None]
        >>> labels[:8], features[60] = "dog", features[80]
        >>> found = find_issues(features, labels)
        >>> found.counts
        {'label': 8, 'leakage': None, 'duplicate': 2, 'outlier': 0}
        >>> [(row.label, row.suggested) for row in found.rows if row.id == "3"]
        [('dog', 'cat')]
    """
    memory = devices.memory_limit(memory)
    split, layer = check_optional_text("`split=`", split), check_optional_text("`layer=`", layer)
    seed = check_seed(seed)
    found = select_split(_opened(features, labels, ids, splits, layer), split)
    where = devices.choose(device, float64=True)
    with limits(memory=allowance(where, memory), track=track):
        check_finite(found)
        made = _issues(found, where, seed)
    for note in made.notes:
        say(f"{made.name}: {note}")
    return made


def _opened(
    features: Any, labels: Any, ids: Sequence[str] | None, splits: Sequence[str] | None, layer: str | None
) -> FeatureSet:
    if labels is None and dimensions(features) == 2 and not isinstance(features, tuple):  # a pair brings its labels
        labels = np.full(features.shape[0] if hasattr(features, "shape") else len(features), -1)
    if labels is not None and (ids is not None or splits is not None):
        return feature_set(features, labels, ids=ids, split=splits)
    return open_source(features, labels, layer=layer)


def _issues(features: FeatureSet, device: torch.device, seed: int) -> Issues:
    count = features.features.shape[0]
    if count < 2:
        raise InputError(f"{features.source} has one row, but finding issues takes at least two")
    found = shared_neighbors(features.features, _NEIGHBORS, distance="euclidean", device=device)
    neighbors = replace(found, indices=found.indices.cpu(), distances=found.distances.cpu())
    rows: list[Issue] = []
    missing: dict[str, str] = {}
    notes: list[str] = []
    wrong = np.full(count, np.nan)
    try:
        checked, note = _checked_labels(features, neighbors, device, seed)
        wrong[checked.positions] = checked.check.wrong.numpy()
        rows += mislabeled_rows(features, checked)
        notes += [note] if note else []
    except UndefinedError as error:
        missing["label"] = str(error)
    if features.split is None or len(set(features.split)) < 2:
        missing["leakage"] = "the rows are of one split" if features.split is not None else "the data have no splits"
    copies = copied_rows(features, neighbors, near_copies(neighbors))
    rows += copies.rows
    notes += [copies.note] if copies.note else []
    try:
        far = outliers(neighbors, torch.from_numpy(features.labels))
        rows += outlying_rows(features, neighbors, far)
        if far.group:
            notes.append(f"outlier: {far.group:,} rows are far out, too many for outliers: a class or group spread wide")
    except UndefinedError as error:
        missing["outlier"] = str(error)
    counts = Counter(row.kind for row in rows)
    flagged = wrong[wrong > FLAGGED]
    share, low = expected_precision(torch.from_numpy(flagged)) if len(flagged) else (None, None)
    return Issues(
        name=features.name,
        samples=count,
        rows=tuple(sorted(rows, key=lambda row: (KINDS.index(row.kind), -row.score))),
        counts={kind: None if kind in missing else counts[kind] for kind in KINDS},
        groups={"leakage": copies.across, "duplicate": copies.within},
        disagreeing=copies.disagreeing,
        expected_precision=share,
        expected_precision_low=low,
        noise_rate=None if "label" in missing else float(np.nanmean(wrong)),
        ids=features.ids,
        wrong=wrong,
        notes=(*(f"{kind}: not computed: {why}" for kind, why in missing.items()), *notes),
    )


def _checked_labels(
    features: FeatureSet, neighbors: Neighbors, device: torch.device, seed: int
) -> tuple[LabelsChecked, str | None]:
    """Check the labels of the classes that have a row in every fold; the note says which were left out, if any."""
    counts = np.bincount(features.labels[features.labels >= 0], minlength=1)
    enough = np.append(counts >= _FOLDS, False)  # the last one is that of -1
    if enough.sum() < 2:
        raise UndefinedError(f"needs two classes of at least {_FOLDS} rows each, but there {_are(int(enough.sum()))}")
    keep = enough[features.labels]
    chosen = select(features, keep)
    rows = chosen.features
    if len(constant_channels(rows)) == rows.shape[1]:
        raise UndefinedError("all rows are equal")
    near = neighbors if keep.all() else nearest_neighbors(rows, _NEIGHBORS, device=device)
    indices = near.indices.cpu()
    names, codes = np.unique(chosen.labels, return_inverse=True)
    given = torch.from_numpy(codes)
    probe = cross_fitted_probabilities(rows, given.to(device), _FOLDS, seed).cpu()
    # Among more neighbors than half of a class has rows, the votes say how large the classes are.
    most = min(indices.shape[1], max(_FOLDS, len(given) // (2 * len(names))))
    votes = [neighbor_shares(indices[:, :k], given, len(names)) for k in sorted({min(NEIGHBORS, most), most})]
    check = check_labels([probe, *votes], given, seed=seed)
    sure, home = strangers(indices[:, :NEIGHBORS], given, len(names))
    more = sure > check.wrong
    check = replace(
        check,
        wrong=torch.where(more, sure, check.wrong),
        suggested=torch.where(more, home, check.suggested),
        sure=torch.where(more, sure, check.sure),
    )
    small = int(((counts > 0) & ~enough[:-1]).sum())
    whose = "class has" if small == 1 else "classes have"
    note = f"label: {small:,} {whose} fewer than {_FOLDS} rows; those labels are not checked" if small else None
    return LabelsChecked(np.flatnonzero(keep), check, indices, names, probe), note


def _are(classes: int) -> str:
    return {0: "is none", 1: "is one"}[classes]
