"""The records of an evaluation, and how they are laid out: as JSON, as a data frame, as a table in a notebook or terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from embedscope._version import __version__
from embedscope.plugins import imported
from embedscope.text import aligned, counted, html_list, html_table

if TYPE_CHECKING:
    import numpy as np
    import pandas

    from embedscope.evaluation.class_findings import Sides
    from embedscope.evaluation.comparing import Difference
    from embedscope.evaluation.comparison import Comparison
    from embedscope.evaluation.finding import Finding
    from embedscope.evaluation.issues import Issues
    from embedscope.evaluation.ranking import LayerRanking
    from embedscope.evaluation.shift import Shift
    from embedscope.metrics import Better


@dataclass(frozen=True, eq=False, repr=False)
class Measurement:
    """One metric on one embedding.

    Attributes:
        name: of the metric.
        value: None where the metric is undefined on the data; then `note` says why.
        better: which direction is better, or None where neither is.
        bounds: lowest and highest possible value; None is unbounded.
        options: every option of the metric with the value that was used.
        ci95: 95% interval, or None where none was asked for or none is defined.
        per_class: class name -> mean over the samples of the class, or None where the metric has no value per sample.
        arrays: further numbers, lists and mappings by name: curves, values per channel.
        by_class: name -> class name -> value.
        note: what a reader needs to know about this value.
        pseudo_values: (N,) float64, what the interval is made of, see `evaluation.intervals`; None without one. Not in JSON.
        group_values: (G,) float64, the same of groups of rows that were left out in turn, in place of `pseudo_values`. Not in
            JSON.
        ci: the question that either answers, "drawn" or "fixed"; None without them. Not in JSON.
    """

    name: str
    value: float | None
    better: Better | None
    bounds: tuple[float | None, float | None]
    options: Mapping[str, Any]
    ci95: tuple[float, float] | None = None
    per_class: Mapping[str, float] | None = None
    arrays: Mapping[str, Any] = field(default_factory=dict)
    by_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    note: str | None = None
    pseudo_values: np.ndarray[Any, Any] | None = None
    group_values: np.ndarray[Any, Any] | None = None
    ci: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Lay the measurement out as `score --json` has it: arrays and values by class stand next to the value."""
        return {
            "value": self.value,
            "better": self.better,
            "bounds": list(self.bounds),
            "options": dict(self.options),
            "ci95": None if self.ci95 is None else list(self.ci95),
            "per_class": None if self.per_class is None else dict(self.per_class),
            "note": self.note,
            **self.arrays,
            **{name: dict(values) for name, values in self.by_class.items()},
        }

    def __repr__(self) -> str:
        return f"{self.name} {_cell(self)}{f' ({self.note})' if self.note else ''}"


@dataclass(frozen=True, eq=False, repr=False)
class Samples:
    """Per-sample values.

    Attributes:
        ids: (n,) of the samples.
        labels: (n,) names of their classes.
        values: metric -> (n,) float64.
        nearest: (n,) names of the nearest other classes, by the silhouette, or else the first metric that knows; or None.
        split: (n,) or None.
    """

    ids: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    values: Mapping[str, np.ndarray[Any, Any]]
    nearest: np.ndarray[Any, Any] | None
    split: np.ndarray[Any, Any] | None

    def to_dataframe(self) -> pandas.DataFrame:
        """Return one row per sample: id, label, the values, nearest and split if they are known. Needs pandas."""
        columns = {"id": self.ids, "label": self.labels, **self.values, "nearest": self.nearest, "split": self.split}
        return _pandas().DataFrame({name: column for name, column in columns.items() if column is not None})

    def __repr__(self) -> str:
        return f"Samples: {counted(len(self.ids), 'row')} of {', '.join(self.values)}"


@dataclass(frozen=True, eq=False)
class Scores:
    """All metrics on one embedding.

    The fields are those of `score --json`, except `table`, `ids` and `labels`.

    Attributes:
        name: of the embedding, as tables show it.
        source: where it was read from.
        layer: of the model that it comes from.
        samples: number of rows.
        dimensions: number of columns.
        classes: number of classes among the rows.
        device: that the metrics were computed on.
        metrics: by name, as it was typed, each a `Measurement`.
        warnings: what a reader of the values needs to know, one sentence each.
        table: what is known of single samples.
        ids: (N,) of all rows that were measured.
        labels: (N,) names of their classes.
        findings: what stands out, the weightiest first.
        examined: what was looked at for the findings.
        issues: rows that need attention, if they were looked for.
    """

    name: str
    source: str
    layer: str
    samples: int
    dimensions: int
    classes: int
    device: str
    metrics: Mapping[str, Measurement]
    warnings: Sequence[str] = ()
    table: Samples | None = None
    ids: np.ndarray[Any, Any] | None = None
    labels: np.ndarray[Any, Any] | None = None
    findings: Sequence[Finding] = ()
    examined: Sequence[str] = ()
    issues: Issues | None = None

    @cached_property
    def sides(self) -> Sides | None:
        """How many samples of each class lie nearer to another; None without silhouettes of samples."""
        from embedscope.evaluation.class_findings import sides

        return sides(self)

    def as_json(self) -> dict[str, Any]:
        """Lay the scores out as a result of `score --json`."""
        return {
            "name": self.name,
            "source": self.source,
            "layer": self.layer,
            "samples": self.samples,
            "dimensions": self.dimensions,
            "classes": self.classes,
            "device": self.device,
            "metrics": {key: found.as_json() for key, found in self.metrics.items()},
            "warnings": list(self.warnings),
            "findings": [each.as_json() for each in self.findings],
            "examined": list(self.examined),
            **({} if self.issues is None else {"issues": self.issues.as_json()}),
        }

    def to_dataframe(self) -> pandas.DataFrame:
        """Return one row per metric: value, low and high end of the interval, better, note. Needs pandas."""
        return (
            _pandas()
            .DataFrame(
                {
                    key: {
                        "value": found.value,
                        "low": None if found.ci95 is None else found.ci95[0],
                        "high": None if found.ci95 is None else found.ci95[1],
                        "better": found.better,
                        "note": found.note,
                    }
                    for key, found in self.metrics.items()
                }
            )
            .T.astype({"value": float, "low": float, "high": float})
        )

    def __repr__(self) -> str:
        return repr(ScoreTable([self]))

    def _repr_html_(self) -> str:
        return ScoreTable([self])._repr_html_()


def sample_columns(scores: Sequence[Scores]) -> dict[str, np.ndarray[Any, Any]]:
    """Collect the per-sample values of all embeddings, one after the other: column -> (n,); name, id, label, values, ..."""
    import numpy as np

    columns: dict[str, list[np.ndarray[Any, Any]]] = {}
    for entry in scores:
        if (table := entry.table) is None:
            continue
        blank = np.full(len(table.ids), "", dtype=object)
        parts: dict[str, np.ndarray[Any, Any]] = {
            "name": np.full(len(table.ids), entry.name, dtype=object),
            "id": table.ids,
            "label": table.labels,
            **table.values,
            "nearest": blank if table.nearest is None else table.nearest,
            "split": blank if table.split is None else table.split,
        }
        for column, values in parts.items():
            columns.setdefault(column, []).append(values)
    return {column: np.concatenate(parts) for column, parts in columns.items()}


class ScoreTable(Sequence[Scores]):
    """The scores of several embeddings, in the order in which they were given; a sequence that prints as a table.

    `differences` compares each with the first, where intervals were asked for; `comparisons` says what changed, where that was
    asked for; `shifts` how far other rows are from these; `failed` has the reason for each checkpoint that was skipped.
    """

    def __init__(
        self,
        scores: Sequence[Scores],
        differences: Sequence[Difference] = (),
        comparisons: Sequence[Comparison] = (),
        shifts: Sequence[Shift] = (),
        *,
        failed: Mapping[str, str] | None = None,
    ) -> None:
        self._scores = tuple(scores)
        self.differences = tuple(differences)
        self.comparisons = tuple(comparisons)
        self.shifts = tuple(shifts)
        self.failed = dict(failed or {})

    def ranked(self, by: str | None = None) -> LayerRanking:
        """Order the embeddings, such as layers, by a metric, the first one by default; see `ranking.rank_layers`."""
        from embedscope.evaluation.ranking import rank_layers

        return rank_layers(self, by)

    @overload
    def __getitem__(self, index: int) -> Scores: ...
    @overload
    def __getitem__(self, index: slice) -> ScoreTable: ...
    def __getitem__(self, index: int | slice) -> Scores | ScoreTable:
        return ScoreTable(self._scores[index]) if isinstance(index, slice) else self._scores[index]

    def __len__(self) -> int:
        return len(self._scores)

    def with_issues(self, issues: Sequence[Issues]) -> ScoreTable:
        """Return the same scores with the issues of each embedding, and what stands out among them."""
        from embedscope.evaluation.further_findings import with_issues  # which imports torch

        entries = [with_issues(entry, found) for entry, found in zip(self, issues, strict=True)]
        return ScoreTable(entries, self.differences, self.comparisons, self.shifts)

    def as_json(self) -> dict[str, Any]:
        """Lay the scores out as `score --json` prints them, schema embedscope.score/1."""
        return {
            "schema": "embedscope.score/1",
            "embedscope": __version__,
            "results": [entry.as_json() for entry in self._scores],
            **({"differences": [each.as_json() for each in self.differences]} if self.differences else {}),
            **({"comparisons": [each.as_json() for each in self.comparisons]} if self.comparisons else {}),
            **({"shifts": [each.as_json() for each in self.shifts]} if self.shifts else {}),
            **({"failed": self.failed} if self.failed else {}),
        }

    def to_dataframe(self) -> pandas.DataFrame:
        """Return one row per embedding: source, layer, samples, dimensions, classes, then a column per metric. Needs pandas.

        The index holds the names. A metric with intervals has two more columns, such as silhouette_low and silhouette_high.
        """
        rows = {}
        for entry in self._scores:
            row: dict[str, Any] = {
                name: getattr(entry, name) for name in ("source", "layer", "samples", "dimensions", "classes")
            }
            for key, found in entry.metrics.items():
                row[key] = found.value
                if found.ci95 is not None:
                    row[f"{key}_low"], row[f"{key}_high"] = found.ci95
            rows[entry.name] = row
        return _pandas().DataFrame.from_dict(rows, orient="index")

    def __repr__(self) -> str:
        found = [
            "\n".join([f"{entry.name}: what stands out", *(f"- {each.text}" for each in entry.findings)])
            for entry in self._scores
            if entry.findings
        ]
        return "\n\n".join([aligned(self._lines()), *found])

    def _repr_html_(self) -> str:
        found = [(entry.name, [each.text for each in entry.findings]) for entry in self._scores if entry.findings]
        return html_table(self._lines()) + "".join(html_list(f"{name}: what stands out", texts) for name, texts in found)

    def _lines(self) -> list[list[str]]:
        """Texts of a table: a heading, then one row per metric; one column per embedding."""
        keys = list(dict.fromkeys(key for entry in self._scores for key in entry.metrics))
        lines = [["metric", *(entry.name for entry in self._scores)]]
        lines.append(["samples x dimensions", *(f"{entry.samples:,} x {entry.dimensions:,}" for entry in self._scores)])
        for key in keys:
            found = [entry.metrics.get(key) for entry in self._scores]
            better = next(each.better for each in found if each is not None)
            arrow = {"higher": " ↑", "lower": " ↓", None: ""}[better]
            lines.append([key + arrow, *(_cell(each) for each in found)])
        return lines


def _cell(found: Measurement | None) -> str:
    if found is None or found.value is None:
        return "–"
    text = f"{found.value:,.0f}" if float(found.value).is_integer() and abs(found.value) >= 1 else f"{found.value:.4f}"
    return text if found.ci95 is None else f"{text} [{found.ci95[0]:.4f}, {found.ci95[1]:.4f}]"


def _pandas() -> Any:
    return imported("pandas", extra="tables")
