"""Turn what was computed for rows into issues: which row, how bad, what fits better, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.evaluation.issues import Issue

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from embedscope.ops.label_issues import LabelCheck
    from embedscope.ops.near_copies import Copies
    from embedscope.ops.neighbors import Neighbors
    from embedscope.ops.outliers import Outliers
    from embedscope.store.features import FeatureSet

    Array = np.ndarray[Any, Any]

FLAGGED = 0.5  # probability above which a label is called wrong
_SHOWN = 5  # ids in the evidence of an issue
_VOTES = 10  # neighbors that the evidence on a label counts


@dataclass(frozen=True)
class LabelsChecked:
    """Results of checking the labels of some rows.

    Attributes:
        positions: (n,) of these rows among all, ascending.
        check: probabilities that their labels are wrong.
        near: (n, k), the nearest of these rows, as places in `positions`.
        classes: (K,) int64, the labels that the columns stand for.
        probe: (n, K), out-of-sample class probabilities of the linear probe.
    """

    positions: Array
    check: LabelCheck
    near: Tensor
    classes: Array
    probe: Tensor


@dataclass(frozen=True)
class CopiedRows:
    """Issues about copies.

    Attributes:
        rows: of the kinds "duplicate" and "leakage".
        within: number of groups with several rows in one split.
        across: number of groups in several splits.
        disagreeing: number of groups whose labels differ.
        note: what a reader needs to know, or None.
    """

    rows: list[Issue]
    within: int
    across: int
    disagreeing: int
    note: str | None


def mislabeled_rows(features: FeatureSet, checked: LabelsChecked) -> list[Issue]:
    """Make an issue of every row whose label is wrong with a probability above one half."""
    wrong = checked.check.wrong.numpy()
    found = []
    for place in np.flatnonzero(wrong > FLAGGED).tolist():
        column = int(checked.check.suggested[place])
        better = int(checked.classes[column])
        near = checked.positions[checked.near[place].numpy()]
        agreeing = near[features.labels[near] == better]
        name = features.class_names[better]
        votes = int((features.labels[near[:_VOTES]] == better).sum())
        why = (
            f"{votes} of {min(_VOTES, len(near))} nearest are {name}; linear probe {float(checked.probe[place, column]):.2f}; "
            f"{float(checked.check.sure[place]):.2f} combined"
        )
        row = int(checked.positions[place])
        shown = agreeing if len(agreeing) else near
        found.append(_issue(features, row, "label", float(wrong[place]), name, shown.tolist(), why))
    return found


def copied_rows(features: FeatureSet, neighbors: Neighbors, copies: Copies) -> CopiedRows:
    """Make issues of the rows that have copies: "leakage" of copies in another split, "duplicate" of those in the same."""
    found: list[Issue] = []
    within = across = disagreeing = copied = 0
    for members in _groups(copies.group.numpy()):
        copied += len(members)
        labels = [int(label) for label in features.labels[members] if label >= 0]
        differ = len(set(labels)) > 1
        disagreeing += differ
        splits = (
            np.zeros(len(members)) if features.split is None else np.unique(features.split[members], return_inverse=True)[1]
        )
        sizes = np.bincount(splits.astype(np.int64))
        within += bool((sizes > 1).any())
        across += len(sizes) > 1
        majority = _majority(features, labels) if differ else None
        for member, own in zip(members, splits, strict=True):
            for kind, others in (
                ("leakage", members[splits != own]),
                ("duplicate", members[(splits == own) & (members != member)]),
            ):
                if len(others):
                    found.append(_copy(features, neighbors, copies, int(member), others, kind, differ, majority))
    share = copied / len(copies.group)
    note = f"duplicate: {share:.0%} of the rows have copies: the features may be collapsed or rounded" if share > 0.5 else None
    return CopiedRows(found, within, across, disagreeing, note)


def outlying_rows(features: FeatureSet, neighbors: Neighbors, found: Outliers) -> list[Issue]:
    """Make an issue of every outlier."""
    rows = []
    for row in found.found.nonzero().squeeze(1).tolist():
        ratio = float(found.ratio[row])
        why = f"{ratio:.1f} times the usual distance to its nearest neighbors"
        rows.append(_issue(features, row, "outlier", 1 - 1 / ratio, "", neighbors.indices[row].tolist(), why))
    return rows


def _copy(
    features: FeatureSet,
    neighbors: Neighbors,
    copies: Copies,
    row: int,
    others: Array,
    kind: str,
    differ: bool,
    majority: str | None,
) -> Issue:
    near = neighbors.indices[row].numpy()
    here = np.isin(near, others)
    # Of a large group the copies may be among no row's neighbors: they are then connected by others, and as near as these.
    distance = float(neighbors.distances[row][here.argmax() if here.any() else 0])
    nearest = near[here].tolist()
    shown = nearest + [other for other in others[:_SHOWN].tolist() if other not in nearest]
    more = f", {len(others):,} in all" if len(others) > _SHOWN else ""
    agree = "labels differ" if differ else "labels agree" if int(features.labels[row]) >= 0 else "unlabeled"
    exact = "exact" if distance == 0 else "near"
    where = " in another split" if kind == "leakage" else ""
    why = f"{exact} cop{'y' if len(others) == 1 else 'ies'}{where}{more}; {agree}"
    score = 1.0 if not distance else 1 - min(1.0, distance / copies.usual)
    own = features.class_names[int(features.labels[row])] if int(features.labels[row]) >= 0 else ""
    return _issue(features, row, kind, score, "" if majority in (None, own) else str(majority), shown, why)


def _issue(features: FeatureSet, row: int, kind: str, score: float, suggested: str, near: Sequence[int], why: str) -> Issue:
    code = int(features.labels[row])
    ids = tuple(str(features.ids[other]) for other in near[:_SHOWN])
    return Issue(
        id=str(features.ids[row]),
        kind=kind,
        label=features.class_names[code] if code >= 0 else "",
        score=score,
        suggested=suggested,
        evidence=f"{';'.join(ids)} ({why})",
        split="" if features.split is None else str(features.split[row]),
        near=ids,
        why=why,
    )


def _groups(group: Array) -> Iterator[Array]:
    """Return the positions of each group with several rows."""
    order = group.argsort(kind="stable")
    starts = np.flatnonzero(np.diff(group[order])) + 1
    for members in np.split(order, starts):
        if len(members) > 1:
            yield members


def _majority(features: FeatureSet, labels: Sequence[int]) -> str | None:
    """Name the class that more than half of the labeled rows have, if any."""
    label, count = Counter(labels).most_common(1)[0]
    return features.class_names[label] if 2 * count > len(labels) else None
