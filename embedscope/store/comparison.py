"""What a run of finetune shows, metric by metric and objective by objective: a table for terminals, notebooks and pandas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from embedscope.plugins import imported
from embedscope.text import aligned, html_table

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class ComparedMetric:
    """One metric of one objective.

    Attributes:
        metric: its name.
        objective: the expression.
        before: value on the held-out rows as they came in; None if it is undefined there.
        mean: over the trials, after training; None if the metric is undefined.
        std: over the trials, divisor n - 1; None for a single trial.
        difference: mean of the paired differences to the first objective; None for the first one itself.
        ci95: 95% interval of the difference, or None if the trials leave nothing to estimate it from.
        p_value: two-sided, of the paired t test; None likewise.
        p_corrected: the same by Holm's method, for the number of comparisons in the run.
    """

    metric: str
    objective: str
    before: float | None
    mean: float | None
    std: float | None
    difference: float | None
    ci95: tuple[float, float] | None
    p_value: float | None
    p_corrected: float | None


class ComparisonTable(Sequence[ComparedMetric]):
    """Every metric of every objective, against the first objective; a sequence that prints as a table."""

    def __init__(self, rows: Sequence[ComparedMetric]) -> None:
        self._rows = tuple(rows)

    @overload
    def __getitem__(self, index: int) -> ComparedMetric: ...
    @overload
    def __getitem__(self, index: slice) -> ComparisonTable: ...
    def __getitem__(self, index: int | slice) -> ComparedMetric | ComparisonTable:
        return ComparisonTable(self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def to_dataframe(self) -> pandas.DataFrame:
        """Return one row per metric and objective, with the ends of the interval as `low` and `high`. Needs pandas."""
        return (
            imported("pandas", extra="tables")
            .DataFrame(
                [
                    {
                        "metric": each.metric,
                        "objective": each.objective,
                        "before": each.before,
                        "mean": each.mean,
                        "std": each.std,
                        "difference": each.difference,
                        "low": each.ci95 and each.ci95[0],
                        "high": each.ci95 and each.ci95[1],
                        "p_value": each.p_value,
                        "p_corrected": each.p_corrected,
                    }
                    for each in self._rows
                ]
            )
            .astype(dict.fromkeys(("before", "mean", "std", "difference", "low", "high", "p_value", "p_corrected"), float))
        )

    def __repr__(self) -> str:
        return aligned(self._lines())

    def _repr_html_(self) -> str:
        return html_table(self._lines())

    def _lines(self) -> list[list[str]]:
        lines = [["metric", "objective", "before", "mean", "std", "difference", "95% interval", "p", "p (Holm)"]]
        for each in self._rows:
            interval = "" if each.ci95 is None else f"[{each.ci95[0]:+.4f}, {each.ci95[1]:+.4f}]"
            difference = "" if each.difference is None else f"{each.difference:+.4f}"
            numbers = [_cell(each.before), _cell(each.mean), "" if each.std is None else f"{each.std:.4f}"]
            p_values = ["" if p is None else f"{p:.2g}" for p in (each.p_value, each.p_corrected)]
            lines.append([each.metric, each.objective, *numbers, difference, interval, *p_values])
        return lines


def mean_lines(rows: Sequence[ComparedMetric]) -> list[list[Any]]:
    """Lay out means and standard deviations: one line per metric, one column per objective, beside the value before."""
    objectives = list(dict.fromkeys(each.objective for each in rows))
    lines = [["metric", "before", *objectives]]
    for metric in dict.fromkeys(each.metric for each in rows):
        its = [each for each in rows if each.metric == metric]
        spread = ["" if each.std is None else f" ± {each.std:.4f}" for each in its]
        lines.append([metric, _cell(its[0].before), *(_cell(each.mean) + std for each, std in zip(its, spread, strict=True))])
    return lines


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
