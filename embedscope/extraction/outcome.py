"""The record of what an extraction wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Extraction:
    """What an extraction wrote.

    Attributes:
        path: of the store.
        rows: how many.
        layers: layer -> width.
        seconds: it took.
        not_finite: rows with NaN or infinite values in some layer, of those that this run computed.
        skipped: id -> why, of the inputs that could not be read and became no row.
        resumed: rows that an earlier run had written.
        batch_size: rows in a forward pass; None where a loader made the batches.
    """

    path: Path
    rows: int
    layers: Mapping[str, int] = field(hash=False)
    seconds: float
    not_finite: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict, hash=False)
    resumed: int = 0
    batch_size: int | None = None
