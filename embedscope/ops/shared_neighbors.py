"""Neighbours that several metrics of one run need: found once, with the largest k that is asked for.

A metric declares what it needs beside its definition, `@metric(neighbors=by_options)`. `sharing` holds what all metrics of a
run declared; `shared_neighbors` finds it when the first of them asks, or finds its own where nothing is shared.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from embedscope.errors import check_choice, check_whole
from embedscope.ops.keeping import fingerprint, kept
from embedscope.ops.neighbors import DISTANCES, Neighbors, nearest_neighbors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import torch
    from torch import Tensor

    from embedscope.ops.rows import Rows

T = TypeVar("T")


@dataclass
class _Run:
    """What a run shares: k by rows and distance; which rows are searched for, None for all; what was found so far."""

    needs: dict[tuple[int, str], int] = field(default_factory=dict)
    anchors: Tensor | None = None
    found: dict[Any, Any] = field(default_factory=dict)


_RUN: ContextVar[_Run | None] = ContextVar("neighbours", default=None)


def by_options(*, k: int, distance: str, **_: Any) -> tuple[int, str]:
    """Declare that a metric reads its `k` nearest rows by its `distance`; UsageError where they are neither."""
    return check_whole("k", k, low=1), check_choice("distance", distance, DISTANCES)


def ranked_by(*, distance: str, **_: Any) -> tuple[int, str]:
    """Declare that a metric reads no neighbours, but shares ranks by its `distance`: see `once`."""
    return 0, check_choice("distance", distance, DISTANCES)


@contextmanager
def sharing(needs: Iterable[tuple[Rows, int, str]], anchors: Tensor | None, *, whole: bool) -> Iterator[None]:
    """Find neighbours once for every `shared_neighbors` inside, when the first asks.

    Args:
        needs: (rows, k, distance).
        anchors: (M,) ascending positions of the rows that are measured; None for all.
        whole: whether a metric reads the neighbours of all rows, anchors or not.
    """
    run = _Run(anchors=None if whole else anchors)
    for rows, k, distance in needs:
        key = id(rows), distance
        run.needs[key] = max(k, run.needs.get(key, 0))
    token = _RUN.set(run)
    try:
        yield
    finally:
        _RUN.reset(token)


def shared_neighbors(
    features: Rows, k: int, *, distance: str, device: torch.device, anchors: Tensor | None = None
) -> Neighbors:
    """Return the k nearest rows of each row, or of each of the anchors; see `nearest_neighbors`."""
    run, key = _RUN.get(), (id(features), distance)
    if run is None or run.needs.get(key, 0) < k:
        return _kept_neighbors(features, k, distance, anchors, device)
    if key not in run.found:
        run.found[key] = _kept_neighbors(features, run.needs[key], distance, run.anchors, device)
    found: Neighbors = run.found[key]
    return (found.of(anchors) if anchors is not None and run.anchors is None else found).first(k)


def _kept_neighbors(features: Rows, k: int, distance: str, anchors: Tensor | None, device: torch.device) -> Neighbors:
    results = kept(16 * features.shape[0] * k) if anchors is None else None
    if results is None:
        return nearest_neighbors(features, k, distance=distance, anchors=anchors, device=device)
    key = "neighbors", fingerprint(features), distance, device
    if key not in results or results[key][0] < k:
        results[key] = k, nearest_neighbors(features, k, distance=distance, device=device)
    found: Neighbors = results[key][1]
    return found.first(k)


def once(compute: Callable[..., T], features: Rows, labels: Tensor, *, distance: str, anchors: Tensor | None) -> T:
    """Return what `compute(features, labels, distance=, anchors=)` gives; computed once a run for rows that are shared."""
    run, key = _RUN.get(), (compute, id(features), distance)
    if run is None or (id(features), distance) not in run.needs:
        return compute(features, labels, distance=distance, anchors=anchors)
    if key not in run.found:
        run.found[key] = compute(features, labels, distance=distance, anchors=anchors)
    found: T = run.found[key]
    return found
