"""One pass over the rows for everything that can be gathered in one: sums, moments, covariances.

A gatherer takes blocks of rows as they come, in float64, and merges with what the other processes gathered from theirs.
`gathered` makes and fills one, or returns what `sharing` has filled in the one pass of a run.
"""

from __future__ import annotations

import inspect
import math
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

from embedscope import distributed
from embedscope.errors import InputError
from embedscope.ops.blocks import over_rows
from embedscope.ops.class_moments import Classes, present_classes
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from torch import Tensor

    from embedscope.ops.rows import Rows

# How many rows an error names.
_NAMED = 5


class Gatherer(Protocol):
    """Something that is gathered from rows."""

    def take(self, rows: slice, block: Tensor) -> None:
        """Take in the rows at these positions: (B, D) float64."""
        ...

    def fold(self) -> None:
        """Merge with what the other processes took in; called once, at the end."""
        ...


G = TypeVar("G", bound="Gatherer | None")

# What is gathered already of the rows that are being measured, by the rows' identity, the maker and its options.
_SHARED: ContextVar[Mapping[tuple[Any, ...], Gatherer | None]] = ContextVar("shared", default={})  # noqa: B039 (never written)


def gathered(make: Callable[..., G], features: Rows, labels: Tensor | None, **options: Any) -> G:
    """Make a gatherer of these rows and fill it in one pass of its own, or return the one that is shared.

    Args:
        make: (classes, width, device, **options) -> Gatherer, or None where nothing needs to be gathered.
        features: (N, D).
        labels: (N,), on the device that computes; None for a gatherer that reads no labels.
        options: of the gatherer.
    """
    key = _key(make, features, options)
    if key in _SHARED.get():
        shared: G = _SHARED.get()[key]  # type: ignore[assignment]
        return shared
    if labels is None:
        labels = torch.zeros(features.shape[0], dtype=torch.int64)
    found = make(present_classes(labels), features.shape[1], labels.device, **options)
    if found is not None:
        gather(features, [found], labels.device)
    return found


@contextmanager
def sharing(
    needs: Iterable[tuple[Callable[..., Gatherer | None], Rows, Mapping[str, Any]]],
    classes: Classes,
    sources: Mapping[str, Rows],
    *,
    ids: np.ndarray[Any, Any] | None = None,
    source: str = "",
) -> Iterator[None]:
    """Gather all that is needed, in one pass over each of the sources, and share it with every `gathered` inside.

    Args:
        needs: (make, rows, options); of the options, those that `make` takes.
        classes: of the rows.
        sources: what an error calls the rows ("" for nothing) -> the rows; each is read once, also where nothing needs it,
            because that pass is the one that finds values which are not finite.
        ids: (N,), what an error calls a row.
        source: what an error calls all of them.

    Raises:
        InputError: rows that hold NaN or infinite values.
    """
    found: dict[tuple[Any, ...], Gatherer | None] = {}
    wanted: dict[int, list[Gatherer]] = {}
    device = classes.index.device
    for make, rows, options in needs:
        taken = {name: value for name, value in options.items() if name in inspect.signature(make).parameters}
        key = _key(make, rows, taken)
        if key not in found:
            found[key] = made = make(classes, rows.shape[1], device, **taken)
            if made is not None:
                wanted.setdefault(id(rows), []).append(made)
    for kind, rows in sources.items():
        gather(rows, wanted.get(id(rows), []), device, ids=ids, source=source, kind=kind)
    token = _SHARED.set({**_SHARED.get(), **found})
    try:
        yield
    finally:
        _SHARED.reset(token)


def _key(make: Callable[..., Any], features: Rows, options: Mapping[str, Any]) -> tuple[Any, ...]:
    return (id(features), make, *sorted(options.items()))


def gather(
    features: Rows,
    gatherers: Sequence[Gatherer],
    device: torch.device,
    *,
    ids: np.ndarray[Any, Any] | None = None,
    source: str = "",
    kind: str = "",
) -> None:
    """Give every block of the rows to every gatherer: one pass, this process's share.

    An error calls a row by its id, the rows by their `source`, and where that leaves a doubt by their `kind`.

    Raises:
        InputError: rows that hold NaN or infinite values, with their number and the first of their ids.
    """
    wrong: list[int] = []
    for block, rows in over_rows(features, torch.float64, device):
        if not math.isfinite(float(rows.sum())):  # one pass for all rows; which of them, only where it matters
            finite = torch.isfinite(rows).all(dim=1)
            wrong += (block.start + (~finite).nonzero().squeeze(1)).tolist()
        if not wrong:
            for gatherer in gatherers:
                gatherer.take(block, rows)
    wrong = distributed.all_reduce_object(wrong, lambda a, b: a + b)
    if wrong:
        named = [f"{row}" if ids is None or ids[row] == str(row) else f"{row} ({ids[row]})" for row in wrong[:_NAMED]]
        names = ", ".join(named) + (", …" if len(wrong) > _NAMED else "")
        total = counted(features.shape[0], "row") + (f" of the {kind}" if kind else "")
        which = "row" if len(wrong) == 1 else "rows"
        raise InputError(
            f"{f'{source}: ' if source else ''}{counted(len(wrong), 'holds', 'hold', of=total)} NaN or infinite values: "
            f"{which} {names}"
        )
    for gatherer in gatherers:
        gatherer.fold()
