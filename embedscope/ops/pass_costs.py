"""Cost of a pass: whether bounds rule out enough classes to be worth computing, and how long all pairs will take.

Costs are in multiplications and additions of a product. They decide only between two exact passes, and
how long a pass is announced to take.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from embedscope import distributed
from embedscope.ops import blocks
from embedscope.ops.class_bounds import class_bounds, square_of_upper, stage_one, stage_two
from embedscope.ops.nearest_class import groups, rank_of

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.frames import Survey
    from embedscope.ops.nearest_class import Layout
    from embedscope.ops.sorted_rows import SortedRows

# What a distance costs beside its product, a bound in each stage, a copied number; a handful of calls on a CPU and on a GPU.
_PAIR = 40
_BOUND = 200
_COPY = 30
_CALLS = {"cpu": 5e6, "cuda": 2e9}

# Below this, all pairs take a few hundredths of a second, and so would the estimate.
_SMALL = 2e9

# A few seconds on most machines, from which it is worth a hundredth of one to measure the speed; and how many seconds are long.
_WORTH_TIMING, _LONG = 5e11, 60.0

# Rows and columns of the tile that is timed, and the sample that is offered in place of all rows.
_TILE, _OFFERED = 2048, 5000

# How much of each the estimate looks at.
_ROWS, _CLASSES, _MEMBERS = 256, 10, 1024


def all_pairs_cost(rows: int, others: int, width: int, *, once: bool) -> float:
    """Return what all pairs cost, each once or of some rows with all others."""
    return rows * others * (width + _PAIR) / (2 if once else 1)


def announce_all_pairs(
    rows: int,
    others: int,
    width: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    once: bool,
    what: str = "distances",
    factor: float = 1.0,
    sampled: bool = True,
) -> None:
    """Announce the duration of a pass over all pairs, or over some rows with all others, if it exceeds a minute.

    The speed of this machine is measured on one tile, where the work is large enough for that to matter.

    Args:
        rows: how many rows are compared.
        others: with how many.
        width: D.
        dtype: of the products.
        device: that computes.
        once: whether each pair is computed once.
        what: is computed of the pairs.
        factor: how much longer than a distance it takes.
        sampled: whether `sample=` makes it shorter.
    """
    work = factor * all_pairs_cost(rows, others, width, once=once) / distributed.world_size()
    if work < _WORTH_TIMING:
        return
    seconds = work / _speed(width, dtype, device)
    if seconds <= _LONG:
        return
    said = f"{what} of {rows:,} rows to {others:,} take about {_duration(seconds)}"
    if rows == others and sampled:
        fewer = seconds * _OFFERED / rows * (2 if once else 1)
        said += f"; `sample={_OFFERED}` measures {_OFFERED:,} rows against all of them in about {_duration(fewer)}"
    blocks.announce(said)


def _speed(width: int, dtype: torch.dtype, device: torch.device) -> float:
    """Return how many multiplications and additions of a distance are done in a second, from the faster of two tiles."""
    left = torch.ones(_TILE, width, dtype=dtype, device=device)
    seconds = []
    for _ in range(2):
        _finish(device)
        started = time.perf_counter()
        (left @ left.T).sqrt_().sum(dim=0)
        _finish(device)
        seconds.append(time.perf_counter() - started)
    return _TILE * _TILE * (width + _PAIR) / min(seconds)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _duration(seconds: float) -> str:
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(1, round(seconds))} s"


def may_pay(layout: Layout, survey: Survey, rows: int, width: int, *, own: bool, once: bool, memory: int) -> bool:
    """Tell whether `nearest_classes` may be cheaper than all pairs for some of the rows, as far as sizes tell.

    Args:
        layout: of the classes.
        survey: with what is not finite, all pairs are computed, where it shows.
        rows: how many are measured.
        width: D.
        own: whether pairs within each class are computed once, which takes all rows.
        once: whether all pairs would be.
        memory: bytes for what is kept of the classes.
    """
    if survey.means is None or not bool(torch.isfinite(survey.means).all()) or not bool(torch.isfinite(survey.spread).all()):
        return False
    kept = (rank_of(layout) + 4) * (width + 2) * len(layout.counts) * 8
    pairs = all_pairs_cost(rows, len(layout.index), width, once=once)
    return pairs > _SMALL and kept <= memory and _fixed_cost(layout, rows, width, own=own) < pairs


def bounds_pay(rows: SortedRows, layout: Layout, survey: Survey, wanted: Tensor | None, *, once: bool) -> bool:
    """Tell whether `nearest_classes` is cheaper than all pairs, as far as a sample tells.

    The class means of the survey are in the order of the layout, `wanted` is as in `nearest_classes`, `once` as above.
    """
    width, size = rows.shape[1], len(layout.counts)
    count = len(layout.index) if wanted is None else len(wanted)
    places = _spaced(count, _ROWS, layout.index.device)
    kept, left, first, share = _estimate(rows, layout, survey, places if wanted is None else wanted[places])
    stage_two_cost = size * min(1.0, 4 * share) * ((rank_of(layout) + 1) * width + _BOUND)
    exact = (kept + first) * (width + _PAIR) + (left + 1) * width * _COPY
    fixed = _fixed_cost(layout, count, width, own=wanted is None)
    return fixed + count * (stage_two_cost + exact) < 0.9 * all_pairs_cost(count, len(layout.index), width, once=once)


def _fixed_cost(layout: Layout, rows: int, width: int, *, own: bool) -> float:
    """Return what the classes and the first stage take, whatever is ruled out."""
    size = len(layout.counts)
    calls = (3 * size + len(groups(layout, width))) * _CALLS["cuda" if layout.index.device.type == "cuda" else "cpu"]
    return _cost_of_classes(layout, width, pairs=own) + rows * size * (width + _BOUND) + calls


def _cost_of_classes(layout: Layout, width: int, *, pairs: bool) -> float:
    counts = layout.counts.double()
    small = counts.clamp(max=width)
    bounds = counts * width * (small + 6 * rank_of(layout)) + 2 * small**3
    within = counts.square() * (width + _PAIR) if pairs else counts * 0
    return float((bounds + within).sum())


def _estimate(rows: SortedRows, layout: Layout, survey: Survey, places: Tensor) -> tuple[float, float, float, float]:
    """Estimate for a row: rows of the classes left, how many these are, rows of its first class, the share stage 1 leaves."""
    here, own, width = rows.sampled(places), layout.index[places], rows.shape[1]
    size, every = len(layout.counts), torch.arange(len(places), device=places.device)
    assert survey.means is not None
    means, spread = survey.means.to(here.left.dtype), survey.spread.to(here.left.dtype)
    upper = torch.cat([-2 * means, torch.ones_like(means[:, :1]), (means.square().sum(dim=1) + spread)[:, None]], dim=1)
    m = here.left @ upper.T  # (n, K)
    m[every, own] = torch.inf
    best, first = m.min(dim=1)
    square = square_of_upper(best, here.norms, width)
    # The largest class stands for itself, some of the others, at equal distances, for all of these.
    few = size <= _CLASSES
    labels = range(size) if few else [*(_spaced(size - 1, _CLASSES - 1, places.device)).tolist(), size - 1]
    kept = left = share = 0.0
    for label in labels:
        weight = 1.0 if few or label == size - 1 else (size - 1) / (_CLASSES - 1)
        count = layout.starts[label + 1] - layout.starts[label]
        members = rows.sampled(layout.starts[label] + _spaced(count, _MEMBERS, places.device))
        bounds = class_bounds(members.left[:, :width], torch.tensor([len(members)], device=places.device), rank_of(layout))
        near = here.left @ bounds.upper.T  # (n, 1)
        other = ((own != label) & (first != label))[:, None]
        maybe = stage_one(near, here.norms, square, bounds) & other
        still = weight * float((stage_two(here.left, near, square, bounds.columns)[0] & maybe).double().mean())
        share += weight * float(maybe.double().mean()) / size
        left += still
        kept += still * count
    return kept, left, float(layout.counts[first].double().mean()), share


def _spaced(count: int, most: int, device: torch.device) -> Tensor:
    some = min(count, most)
    return torch.arange(some, device=device) * count // some
