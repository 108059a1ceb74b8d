"""One thing that stands out in an embedding, and the order of several."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Severity = Literal["high", "medium", "low"]

# How many findings are reported at most.
MOST = 7


@dataclass(frozen=True)
class Finding:
    """One thing that stands out.

    Attributes:
        id: of the rule, such as "confused_classes"; stable, for scripts.
        severity: "high", "medium" or "low".
        text: one sentence with its numbers.
        evidence: the numbers by name, plain values that JSON can hold.
        next: what to do about it, or what to look at.
        weight: orders findings of one severity, in [0, 1]; not reported.
    """

    id: str
    severity: Severity
    text: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    next: str = ""
    weight: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Lay the finding out as in `score --json`."""
        return {
            "id": self.id,
            "severity": self.severity,
            "text": self.text,
            "evidence": dict(self.evidence),
            "next": self.next,
        }


def first_names(names: Sequence[str]) -> str:
    """Write the first three names, and an ellipsis if there are more."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Sort findings by severity and weight, and keep the first `MOST`."""
    rank = {"high": 0, "medium": 1, "low": 2}
    return tuple(sorted(findings, key=lambda each: (rank[each.severity], -each.weight))[:MOST])
