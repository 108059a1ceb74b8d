"""Where rows are compared, and how far a product of them may be off: what makes short products safe to select neighbors by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope.ops import blocks
from embedscope.ops.class_moments import unit_rows, zero_rows
from embedscope.ops.pairwise import working_dtype

if TYPE_CHECKING:
    from embedscope.ops.rows import Rows

# Rows that tell where the origin is put.
_SAMPLED = 1024

# Powers of two of the largest number against the typical one up to which squares of both are normal numbers.
_RANGE = {torch.float32: 50, torch.float64: 450}

# The squared distance of a row without a direction from every other one, as of two unit rows with cosine 0.
RIGHT_ANGLE = 2.0


@dataclass(frozen=True)
class LaidRows:
    """Rows laid out so that one product gives a lower bound of squared distances.

    Attributes:
        left: (P, D + 2), [x, (1 - e) |x|², 1]; see `right` for the other side.
        norms: (P,) float64, |x|².
        zero: (P,) bool, which rows have no direction; None if none has, or directions are not compared.
    """

    left: Tensor
    norms: Tensor
    zero: Tensor | None

    def __len__(self) -> int:
        return len(self.left)

    def part(self, rows: slice) -> LaidRows:
        """Return some of them, which stay where they are."""
        zero = None if self.zero is None else self.zero[rows]
        return LaidRows(self.left[rows], self.norms[rows], zero if zero is not None and bool(zero.any()) else None)

    def right(self) -> Tensor:
        """Lay the rows out as the right-hand side, [-2 y, 1, (1 - e) |y|²]: (D + 2, P)."""
        right = torch.empty_like(self.left)
        torch.mul(self.left[:, :-2], -2, out=right[:, :-2])
        right[:, -2], right[:, -1] = 1, self.left[:, -2]
        return right.T


def lower_bounds(x: LaidRows, y: LaidRows, right: Tensor, out: Tensor) -> Tensor:
    """Compute lower bounds of squared distances, (P, Q), into `out`; the upper ones are 2 e (|x|² + |y|²) above."""
    torch.mm(x.left, right, out=out)
    if x.zero is not None:
        out[x.zero] = RIGHT_ANGLE
    if y.zero is not None:
        out[:, y.zero] = RIGHT_ANGLE
    return out


@dataclass(frozen=True)
class Space:
    """Where rows are measured from, in what unit and in what numbers.

    Attributes:
        center: (D,) float64, the median of a sample of the scaled (or unit) rows: near most of them, wherever outliers are.
        scale: a power of two that brings typical numbers to about 1; distances are this many times too large. 1 for unit rows.
        unit: whether rows are divided by their length; the squared distance is then twice 1 - cosine.
        dtype: of the products: float32 or float64.
    """

    center: Tensor
    scale: float
    unit: bool
    dtype: torch.dtype

    @property
    def error(self) -> float:
        """By what share of |x|² + |y|² a squared distance may be off: a bound, not an estimate.

        A product of D + 2 terms is off by (D + 2) eps / 2 of the product of the lengths at most, whatever the order of the
        sum (Higham 2002, doi:10.1137/1.9780898718027, section 3.1); moving and rounding the rows adds a few eps.
        """
        return (len(self.center) + 16) * torch.finfo(self.dtype).eps

    @property
    def vanishing(self) -> float:
        """How much numbers that are too small for the dtype may add to that."""
        return 4 * (len(self.center) + 16) * torch.finfo(self.dtype).tiny

    def exact(self, rows: Tensor) -> Tensor:
        """Return rows in float64, not about the center: (B, D)."""
        rows = rows.to(device=self.center.device, dtype=torch.float64)
        return unit_rows(rows) if self.unit else rows * self.scale

    def squared(self, x: Tensor, y: Tensor) -> Tensor:
        """Squared distances of pairs of exact rows, from their differences: (B, D), (B, D) -> (B,) float64."""
        found = (x - y).square_().sum(dim=1)
        if self.unit:
            found[zero_rows(x) | zero_rows(y)] = RIGHT_ANGLE
        return found

    def laid(self, features: Rows, rows: slice) -> LaidRows:
        """Lay out some of the rows."""
        width, device = features.shape[1], self.center.device
        left = torch.empty(rows.stop - rows.start, width + 2, dtype=self.dtype, device=device)
        norms = torch.empty(len(left), dtype=torch.float64, device=device)
        zero = torch.zeros(len(left), dtype=torch.bool, device=device)
        for block in blocks.row_slices(rows.stop, width * 24, start=rows.start):
            here = slice(block.start - rows.start, block.stop - rows.start)
            values = self.exact(features[block])
            if self.unit:
                zero[here] = zero_rows(values)
            values = values - self.center
            left[here, :width] = values
            norms[here] = values.square_().sum(dim=1)
        left[:, width] = norms * (1 - self.error)
        left[:, width + 1] = 1
        return LaidRows(left, norms, zero if bool(zero.any()) else None)

    def upper(self, lower: Tensor, norms: Tensor) -> Tensor:
        """Turn lower bounds into upper ones, given |x|² + |y|²."""
        return lower + (2 * self.error * norms + self.vanishing)

    def excess(self, norms: Tensor, lower: Tensor) -> Tensor:
        """Return by how much squared distances may exceed lower bounds of at most `lower`, given |x|² alone: (B,) float64.

        |y|² is at most twice |x|² plus the squared distance, so that no norms of the others are needed.
        """
        share = 4 * self.error
        if share > 0.5:  # hundreds of thousands of dimensions
            return torch.full_like(norms, torch.inf)
        return (1.5 * share * norms + share * lower.double().clamp(min=0) + self.vanishing) / (1 - share)


def pair_distances(space: Space, features: Rows, here: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
    """Compute the squared distances of pairs: exact (B, D) rows, (P,) of these, (P,) positions in features -> (P,) float64."""
    exact = torch.empty(len(rows), dtype=torch.float64, device=here.device)
    if isinstance(features, Tensor):
        for block in blocks.row_slices(len(rows), features.shape[1] * 24):
            exact[block] = space.squared(here[rows[block]], space.exact(features[positions[block].to(features.device)]))
        return exact
    order = positions.argsort()
    sorted_positions = positions[order]
    for span in blocks.row_slices(features.shape[0], features.shape[1] * 24):
        ends = torch.searchsorted(sorted_positions, torch.tensor([span.start, span.stop], device=here.device)).tolist()
        if ends[0] == ends[1]:
            continue
        values = space.exact(features[span])
        for block in blocks.row_slices(ends[1], features.shape[1] * 24, start=ends[0]):
            pairs = order[block]
            exact[pairs] = space.squared(here[rows[pairs]], values[positions[pairs] - span.start])
    return exact


def surveyed(features: Rows, queries: Rows | None, *, unit: bool, device: torch.device) -> Space:
    """Pass over the rows once, and over the queries, to find where they lie and what numbers their products need."""
    step, largest, found = max(1, features.shape[0] // _SAMPLED), 0.0, []
    for rows in (features,) if queries is None else (features, queries):
        for block, values in blocks.over_all_rows(rows, torch.float64, device, copies=2, description="median"):
            lowest, highest = map(float, values.aminmax())
            largest = max(largest, -lowest, highest)
            if rows is features:
                sampled = values[-block.start % step :: step]
                found.append(unit_rows(sampled) if unit else sampled.clone())
    sample = torch.cat(found)
    center = sample.median(dim=0).values
    dtype = working_dtype(features.dtype)
    if unit:
        return Space(center, 1.0, unit, dtype)
    typical = float((sample - center).abs().amax(dim=1).median()) or largest
    power = -math.frexp(typical)[1] if 0 < typical < math.inf else 0
    reach = math.frexp(largest)[1] + power if 0 < largest < math.inf else 0
    if reach > _RANGE[dtype]:
        dtype, power = torch.float64, power - max(0, reach - _RANGE[torch.float64])
    scale = 2.0 ** max(-1000, min(1000, power))
    return Space(center * scale, scale, unit, dtype)
