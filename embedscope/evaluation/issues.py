"""Issues of single rows, and their layouts: a data frame, a table in a file, JSON, a few lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.plugins import imported
from embedscope.text import aligned, counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas

    Array = np.ndarray[Any, Any]

KINDS = ("label", "leakage", "duplicate", "outlier")
_TITLES = {
    "label": "label errors",
    "leakage": "copies in another split",
    "duplicate": "copies in the same split",
    "outlier": "outliers",
}


@dataclass(frozen=True)
class Issue:
    """One issue of one row.

    Attributes:
        id: of the row.
        kind: "label" (the label is probably wrong), "duplicate" (a copy, exact or nearly so, of rows in the same split),
            "leakage" (a copy of rows in another split) or "outlier" (far from all other rows).
        label: name of its class; "" if it has none.
        score: in [0, 1], 1 is worst. For a label, the probability that it is wrong; for copies, 1 minus their distance; for
            outliers, 1 minus the inverse distance to the nearest rows, both in units of the median of the data.
        suggested: the class that fits better: for a label, the most probable other class; for copies whose labels differ, that
            of most; "" if none does.
        evidence: ids of the nearest rows that speak for it, separated by semicolons, then in brackets why.
        split: of the row; "" if the data have none.
        near: the ids in the evidence.
        why: its text in brackets.
    """

    id: str
    kind: str
    label: str
    score: float
    suggested: str
    evidence: str
    split: str
    near: tuple[str, ...] = ()
    why: str = ""


COLUMNS = ("id", "kind", "label", "score", "suggested", "evidence", "split")


@dataclass(frozen=True, eq=False, repr=False)
class Issues:
    """Rows of one embedding that need attention, see `find_issues`.

    Attributes:
        name: of the embedding.
        samples: how many rows were looked at.
        rows: one Issue per row and kind, sorted by kind, then by descending score.
        counts: kind -> how many rows; None where the kind could not be looked for, for which `notes` has the reason.
        groups: kind -> in how many groups of copies they are, of "duplicate" and "leakage".
        disagreeing: in how many groups of copies the labels differ.
        expected_precision: the share of the flagged labels that is expected to be wrong, see `ops.label_issues`. None without
            any.
        noise_rate: estimated share of wrong labels among all, flagged or not; None where labels could not be checked.
        ids: (N,) of all rows.
        wrong: (N,) float64, probability that the label is wrong, of all rows; NaN where it could not be checked.
        notes: what a reader needs to know, such as what could not be computed.
        expected_precision_low: its lower bound, which held on 92% or more of data sets with wrong labels; None without any.
    """

    name: str
    samples: int
    rows: tuple[Issue, ...]
    counts: Mapping[str, int | None]
    groups: Mapping[str, int]
    disagreeing: int
    expected_precision: float | None
    noise_rate: float | None
    ids: Array
    wrong: Array
    notes: tuple[str, ...] = ()
    expected_precision_low: float | None = None

    def to_dataframe(self) -> pandas.DataFrame:
        """Return one row per Issue: id, kind, label, score, suggested, evidence and split. Needs pandas."""
        return imported("pandas", extra="tables").DataFrame(self.columns())

    def columns(self) -> dict[str, Array]:
        """Return the issues as columns of equal length."""
        return {
            column: np.array([getattr(row, column) for row in self.rows], dtype=float if column == "score" else object)
            for column in COLUMNS
        }

    def as_json(self) -> dict[str, Any]:
        """Lay the counts out for `score --json`."""
        return {
            **self.counts,
            "duplicate_groups": self.groups.get("duplicate", 0),
            "leakage_groups": self.groups.get("leakage", 0),
            "groups_with_different_labels": self.disagreeing,
            "expected_precision": self.expected_precision,
            "expected_precision_low": self.expected_precision_low,
            "label_noise": self.noise_rate,
            "notes": list(self.notes),
        }

    def summary(self) -> list[tuple[str, str, str]]:
        """Return what was found in words, for every kind: title, number of rows, what to know about them."""
        return [(_TITLES[kind], _count(self.counts[kind]), self._remark(kind)) for kind in KINDS]

    def _remark(self, kind: str) -> str:
        count = self.counts[kind]
        if count is None:
            return "not computed"
        if kind == "label":
            noise = "" if self.noise_rate is None else f"about {self.noise_rate:.1%} of all labels are wrong"
            if self.expected_precision is None:
                return noise
            low = "" if self.expected_precision_low is None else f", at least {self.expected_precision_low:.0%}"
            return f"about {self.expected_precision:.0%} of these are expected to be wrong{low}; {noise}"
        if kind in self.groups and count:
            return f"in {counted(self.groups[kind], 'group')}"
        return ""

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        lines = [["issues", "rows", ""], *([title, count, remark] for title, count, remark in self.summary())]
        width = max(len(line[2]) for line in lines)
        table = aligned([[title, count, remark.ljust(width)] for title, count, remark in lines])
        heading = f"{self.name}: {counted(self.samples, 'row')}, {counted(len(self.rows), 'issue')}"
        return "\n".join([heading, *(line.rstrip() for line in table.splitlines())])


def issue_columns(found: Sequence[Issues]) -> dict[str, Array]:
    """Collect the issues of all embeddings, one after the other: column -> (n,); name, id, kind, label, score, ..."""
    parts = [{"name": np.full(len(each), each.name, dtype=object), **each.columns()} for each in found]
    return {column: np.concatenate([part[column] for part in parts]) for column in ("name", *COLUMNS)}


def _count(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"
