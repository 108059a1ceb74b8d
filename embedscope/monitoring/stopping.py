"""Conditions on what is measured, such as "silhouette<0"."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedscope.errors import UsageError, unknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_CONDITION = re.compile(r"\s*(.+?)\s*(<=|>=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")


@dataclass(frozen=True)
class Condition:
    """A comparison of a metric with a number.

    Attributes:
        metric: "silhouette" for any layer, or "fc.input/silhouette".
        comparison: one of <, <=, > and >=.
        limit: the number.
    """

    metric: str
    comparison: str
    limit: float

    def holds(self, values: Mapping[str, float | None]) -> bool:
        """Whether it holds for "layer/metric" -> value; a value that is undefined meets no condition."""
        compare = _COMPARISONS[self.comparison]
        return any(
            value is not None and compare(value, self.limit)
            for key, value in values.items()
            if key == self.metric or key.endswith(f"/{self.metric}")
        )


def conditions(texts: str | Sequence[str], metrics: Sequence[str]) -> list[Condition]:
    """Read conditions; UsageError for one that cannot be read, or of a metric that is not measured."""
    found = []
    for text in [texts] if isinstance(texts, str) else texts:
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise UsageError(f"cannot read the condition '{text}'; expected a form such as 'silhouette<0'")
        name = match[1]
        if name.rpartition("/")[2] not in metrics:
            raise UsageError(unknown("measured metric", name.rpartition("/")[2], metrics))
        found.append(Condition(name, match[2], float(match[3])))
    return found
