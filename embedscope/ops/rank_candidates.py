"""Ranks of rows from short products: candidates by their lower bounds, exact distances only where those leave the order open.

Only the order between its own class and all others matters, and only among the R nearest of a row. All rows whose lower bound
is below a threshold that at least R squared distances do not exceed are candidates. Bounds settle the order of most of them;
where a row of the own class and one of another are closer to each other than the bounds are wide, both are measured again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope.ops import blocks
from embedscope.ops.neighbor_space import LaidRows, Space, lower_bounds, pair_distances
from embedscope.ops.neighbor_tiles import Candidates, kept_count
from embedscope.ops.rank_keys import precisions
from embedscope.ops.rows import gathered_in_any_order

if TYPE_CHECKING:
    from embedscope.ops.class_moments import Classes
    from embedscope.ops.rows import Rows

# Numbers of a row that are looked at together; their minima give a threshold at a sixteenth of the price.
_GROUP = 16

# Fewest rows in order, so that the first one of the own class is usually among them.
_FEWEST = 64

# Up to which R candidates are cheaper than keys: at least so many, and this part of all rows.
_FEW, _PART = 256, 32

# The part of all rows that may be measured again for one row before keys are cheaper.
_OPEN_PART = 64

# The rows of a block: enough for the full speed of a product.
_ROWS = 512


@dataclass(frozen=True)
class RankedRows:
    """What candidates tell of n rows.

    Attributes:
        ranks: (n, 3) float64, the first rank, R-precision, average precision at R; NaN for lone rows.
        open: (n,) bool, rows whose ranks they do not tell.
        nearest: candidates for k neighbors, if any are wanted.
    """

    ranks: Tensor
    open: Tensor
    nearest: Candidates | None


def worth_candidates(sizes: Tensor, count: int) -> Tensor:
    """Tell where candidates are cheaper than keys: (n,) R among `count` rows -> (n,) bool."""
    return sizes <= max(_FEW, count // _PART)


def ranks_by_candidates(space: Space, features: Rows, classes: Classes, positions: Tensor, *, k: int = 0) -> RankedRows:
    """Rank some rows, and collect candidates for their k nearest on the way.

    Args:
        space: where to compare.
        features: (N, D), searched.
        classes: of all rows.
        positions: (n,) which rows to rank.
        k: how many neighbors candidates are collected for.
    """
    count, device = features.shape[0], space.center.device
    sizes = classes.counts[classes.index[positions]] - 1
    near = worth_candidates(sizes, count)
    kept = kept_count(k, count - 1) if k else 0
    ranks = torch.full((len(positions), 3), torch.nan, dtype=torch.float64, device=device)
    still = torch.ones_like(near)
    lower = torch.full((len(positions), kept), torch.inf, dtype=space.dtype, device=device)
    indices = torch.zeros(len(positions), kept, dtype=torch.int64, device=device)
    norms = torch.empty(len(positions), dtype=torch.float64, device=device)
    searched = _Searched(space, features)
    order = torch.where(near, sizes, -1).argsort(stable=True)  # rows of one block need about as many candidates
    most = int(sizes[near].max()) if bool(near.any()) else 0
    room = count * (24 + space.dtype.itemsize) + 100 * _most_candidates(max(most, kept))
    step = min(_ROWS, blocks.memory() // 8 // room)
    slices = blocks.row_slices(len(order), 1, max(1, step))
    buffer = torch.empty(min(max(1, step), len(order)) * count, dtype=space.dtype, device=device)
    for block in blocks.tracked(slices, "ranks", len(slices)):
        here = order[block]
        own = torch.where(near[here], sizes[here], 0)
        rows = gathered_in_any_order(features, positions[here]).to(device)
        x = space.laid(rows, slice(0, len(here)))
        bounds = searched.bounds(x, positions[here], buffer[: len(here) * count].view(len(here), count))
        norms[here] = x.norms
        found = _Block.of(space, x, bounds, min(max(int(own.max()), kept, _FEWEST), count - 1))
        fits = here[found.rows]
        if kept:
            lower[fits], indices[fits] = found.values[:, :kept], found.positions(kept)
        ranks[fits], still[fits] = found.ranks(space, features, rows, classes, positions[fits])
    ranks[still | (sizes == 0)] = torch.nan
    nearest = Candidates(lower, indices, norms, searched.norms, complete=kept == count - 1) if kept else None
    return RankedRows(ranks, still & (sizes > 0), nearest)


def _most_candidates(wanted: int) -> int:
    return 2 * wanted + 512


class _Searched:
    """All rows as the right-hand side of products; kept in memory where that fits."""

    def __init__(self, space: Space, features: Rows) -> None:
        self.space, self.features = space, features
        count, width = features.shape
        self.norms = torch.empty(count, dtype=torch.float64, device=space.center.device)
        size = 2 * (width + 2) * space.dtype.itemsize
        step = count if count * size <= blocks.memory() // 4 else max(1, blocks.memory() // 8 // size)
        self._spans = blocks.row_slices(count, 1, step)
        self._kept: tuple[LaidRows, Tensor] | None = None

    def bounds(self, x: LaidRows, positions: Tensor, out: Tensor) -> Tensor:
        """Compute lower bounds of the squared distances of all rows, of themselves infinite, into `out`: (B, N)."""
        for span in self._spans:
            laid, right = self._kept or self._laid(span)
            self.norms[span] = laid.norms
            lower_bounds(x, laid, right, out[:, span])
        out[torch.arange(len(x), device=out.device), positions] = torch.inf
        return out

    def _laid(self, span: slice) -> tuple[LaidRows, Tensor]:
        laid = self.space.laid(self.features, span)
        found = laid, laid.right()
        if len(self._spans) == 1:
            self._kept = found
        return found


@dataclass(frozen=True)
class _Block:
    """The candidates of some rows of a block.

    Attributes:
        rows: (b,) which rows of the block.
        found: (b, C) int64, positions of the candidates, ascending.
        order: (b, C) int64, which of these are the first by (lower bound, position).
        values: (b, C) lower bounds in this order, infinite beyond the candidates.
        widths: (b,) float64, by how much a squared distance may exceed its lower bound.
        wanted: how many of each row are in order once the open ones are measured.
    """

    rows: Tensor
    found: Tensor
    order: Tensor
    values: Tensor
    widths: Tensor
    wanted: int

    def positions(self, first: int) -> Tensor:
        """Return the positions of the first ones by lower bound: (b, first)."""
        return self.found.gather(1, self.order[:, :first])

    @classmethod
    def of(cls, space: Space, x: LaidRows, bounds: Tensor, wanted: int) -> _Block:
        """Collect everything that may be among the `wanted` nearest; rows that have too much of it are left out."""
        count = bounds.shape[1]
        group = max(1, min(_GROUP, count // (2 * wanted)))
        minima = bounds[:, : count // group * group].view(len(x), group, -1).amin(dim=1)  # (B, G): of rows far from each other
        # So many squared distances are at most this far above the last of so many minima; candidates are all below that.
        last = minima.topk(wanted, dim=1, largest=False, sorted=False).values.amax(dim=1)
        threshold = last.double() + space.excess(x.norms, last)
        limit = torch.nextafter(threshold.to(bounds.dtype), torch.full_like(last, torch.inf))
        row, position = (bounds <= limit[:, None]).nonzero(as_tuple=True)
        counts = torch.bincount(row, minlength=len(x))
        fits = counts <= _most_candidates(wanted)
        if not bool(fits.all()):
            row, position = row[fits[row]], position[fits[row]]
        kept = fits.nonzero().squeeze(1)
        sizes = counts[kept]
        line = (fits.cumsum(0) - 1)[row]
        slot = torch.arange(len(row), device=row.device) - (sizes.cumsum(0) - sizes)[line]
        values = bounds.new_full((len(kept), max(wanted, int(sizes.max()) if len(kept) else 0)), torch.inf)
        positions = torch.zeros_like(values, dtype=torch.int64)
        values[line, slot], positions[line, slot] = bounds[row, position], position
        values, order = values.sort(dim=1, stable=True)
        return cls(kept, positions, order, values, space.excess(x.norms, threshold)[kept], wanted)

    def ranks(self, space: Space, features: Rows, rows: Tensor, classes: Classes, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Measure what is open, and rank: (B, D) rows of the block, (b,) positions -> (b, 3) float64, (b,) bool still open."""
        own = classes.index[positions, None]
        same = classes.index[self.found] == own
        hits = same.gather(1, self.order)
        unsure = self._open(hits)
        sizes = classes.counts[own[:, 0]] - 1
        still = (unsure.sum(dim=1) > max(_FEWEST, features.shape[0] // _OPEN_PART)) | (sizes > self.wanted)
        unsure &= ~still[:, None]
        row, slot = unsure.nonzero(as_tuple=True)
        if len(row):
            place = self.order[row, slot]
            squared = pair_distances(space, features, space.exact(rows[self.rows]), row, self.found[row, place])
            exact = torch.empty_like(self.values, dtype=torch.float64).scatter_(1, self.order, self.values.double())
            exact[row, place] = _rounded(squared)
            hits = same.gather(1, exact.argsort(dim=1, stable=True))
        hits = hits[:, : self.wanted]
        first = hits.double().argmax(dim=1) + 1
        return torch.cat([first.double()[:, None], precisions(hits, sizes)], dim=1), still | ~hits.any(dim=1)

    def _open(self, hits: Tensor) -> Tensor:
        """Tell which candidates may change places with one of the other kind, own class or not: (b, C) bool."""
        values, widths = self.values, (1.001 * self.widths).to(self.values.dtype)[:, None]
        below = torch.where(
            hits,
            values.masked_fill(hits, -torch.inf).cummax(dim=1).values,
            values.masked_fill(~hits, -torch.inf).cummax(dim=1).values,
        )
        above = torch.where(
            hits,
            values.masked_fill(hits, torch.inf).flip(1).cummin(dim=1).values.flip(1),
            values.masked_fill(~hits, torch.inf).flip(1).cummin(dim=1).values.flip(1),
        )
        return ((values - below <= widths) | (above - values <= widths)) & values.isfinite()


def _rounded(squared: Tensor) -> Tensor:
    """Round to 40 significant bits, so that distances that differ by the rounding of their sums alone count as equal."""
    return squared.view(torch.int64).add(2**11).bitwise_and_(~(2**12 - 1)).view(torch.float64)
