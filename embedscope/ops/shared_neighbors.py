"""Neighbors and ranks that several metrics of one run need: found once, with the largest k that any of them asks for.

A metric declares what it needs beside its definition, `@metric(neighbors=by_options)`. `sharing` holds what all metrics of a
run declared; `shared_neighbors` and `shared_ranks` find it when the first of them asks. If a run needs both for the same rows
and distance, one pass over all pairs finds both.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embedscope.arguments import check_choice, check_whole
from embedscope.ops.class_moments import present_classes
from embedscope.ops.keeping import fingerprint, kept
from embedscope.ops.neighbors import DISTANCES, Neighbors, nearest_neighbors
from embedscope.ops.retrieval import Retrieved, retrievable, retrieved

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from torch import Tensor

    from embedscope.ops.rows import Rows

_Key = tuple[int, str]  # which rows, and the distance


@dataclass
class _Run:
    """What a run shares.

    Attributes:
        needs: k by rows and distance; 0 if only ranks are needed.
        ranked: the rows and distances of which ranks are needed, too.
        labels: (N,) of the rows, for ranks.
        anchors: (M,) which rows are measured; None for all.
        whole: the rows and distances of which a metric reads the neighbors of all rows, anchors or not.
        neighbors: what was found so far, by rows and distance.
        ranks: what was found so far, by rows and distance.
    """

    needs: dict[_Key, int] = field(default_factory=dict)
    ranked: set[_Key] = field(default_factory=set)
    labels: Tensor | None = None
    anchors: Tensor | None = None
    whole: set[_Key] = field(default_factory=set)
    neighbors: dict[_Key, Neighbors] = field(default_factory=dict)
    ranks: dict[_Key, Retrieved] = field(default_factory=dict)

    def searched(self, key: _Key) -> Tensor | None:
        """Return the rows whose neighbors are found; None for all."""
        return None if key in self.whole else self.anchors


_RUN: ContextVar[_Run | None] = ContextVar("neighbors", default=None)


def by_options(*, k: int, distance: str, **_: Any) -> tuple[int, str]:
    """Declare that a metric reads its `k` nearest rows by its `distance`; UsageError where they are neither."""
    return check_whole("k", k, low=1), check_choice("distance", distance, DISTANCES)


def ranked_by(*, distance: str, **_: Any) -> tuple[int, str]:
    """Declare that a metric reads no neighbors, but shares ranks by its `distance`: see `shared_ranks`."""
    return 0, check_choice("distance", distance, DISTANCES)


@contextmanager
def sharing(
    needs: Iterable[tuple[Rows, int, str, bool]], anchors: Tensor | None, labels: Tensor | None = None
) -> Iterator[None]:
    """Find neighbors once for every `shared_neighbors` inside, and ranks for every `shared_ranks`, when the first asks.

    Args:
        needs: (rows, k, distance, whether a metric reads the neighbors of all rows, anchors or not); k is 0 for ranks.
        anchors: (M,) ascending positions of the rows that are measured; None for all.
        labels: (N,) of the rows; needed for ranks.
    """
    run = _Run(labels=labels, anchors=anchors)
    for rows, k, distance, whole in needs:
        key = id(rows), distance
        run.needs[key] = max(k, run.needs.get(key, 0))
        if k == 0:
            run.ranked.add(key)
        elif whole:
            run.whole.add(key)
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
    if key in run.ranked and key not in run.neighbors:
        _find_ranks(run, features, distance, device)
    if key not in run.neighbors:
        run.neighbors[key] = _kept_neighbors(features, run.needs[key], distance, run.searched(key), device)
    found = run.neighbors[key]
    return (found.of(anchors) if anchors is not None and run.searched(key) is None else found).first(k)


def shared_ranks(features: Rows, labels: Tensor, *, distance: str, anchors: Tensor | None) -> Retrieved:
    """Return what retrieval metrics read of each row, or of each of the anchors; see `retrieved`.

    Raises:
        UndefinedError: every class has one row.
    """
    run, key = _RUN.get(), (id(features), distance)
    if run is None or key not in run.ranked:
        return retrieved(features, labels, distance=distance, anchors=anchors)
    _find_ranks(run, features, distance, labels.device)
    return run.ranks[key] if key in run.ranks else retrieved(features, labels, distance=distance, anchors=anchors)


def _find_ranks(run: _Run, features: Rows, distance: str, device: torch.device) -> None:
    """Rank once per run, and find neighbors on the way if they are needed and not kept; do nothing if ranks are undefined."""
    key = id(features), distance
    if key in run.ranks or run.labels is None or not retrievable(present_classes(run.labels)):
        return
    k = run.needs[key] if run.searched(key) is run.anchors and key not in run.neighbors else 0
    results, name = _results(features, k, distance, run.searched(key), device)
    if k and results is not None and name in results and results[name][0] >= k:
        k = 0
    found = run.ranks[key] = retrieved(features, run.labels, distance=distance, anchors=run.anchors, k=k)
    if found.neighbors is not None:
        run.neighbors[key] = found.neighbors
        if results is not None:
            results[name] = k, found.neighbors


def _kept_neighbors(features: Rows, k: int, distance: str, anchors: Tensor | None, device: torch.device) -> Neighbors:
    results, name = _results(features, k, distance, anchors, device)
    if results is None:
        return nearest_neighbors(features, k, distance=distance, anchors=anchors, device=device)
    if name not in results or results[name][0] < k:
        results[name] = k, nearest_neighbors(features, k, distance=distance, device=device)
    found: Neighbors = results[name][1]
    return found.first(k)


def _results(
    features: Rows, k: int, distance: str, anchors: Tensor | None, device: torch.device
) -> tuple[dict[Any, Any] | None, Any]:
    """Return what is kept between runs, None if nothing is, and the name of these neighbors in it."""
    results = kept(16 * features.shape[0] * k) if anchors is None and k else None
    return results, None if results is None else ("neighbors", fingerprint(features), distance, device)
