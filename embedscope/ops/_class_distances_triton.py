"""The pass of `class_distances` as one fused GPU kernel: tiles of the distance matrix live and die on the chip.

A program takes a tile of rows and walks over all columns, which are sorted by class and padded so that a tile of columns
belongs to one class. A tile is a product, turned into distances and added up in registers; at the end of a class its mean goes
into the row's running minimum. Nothing of size N x N or N x K is ever written.

Products are of float32 rows about the mean, by three TF32 products each, which is float32 precision; sums over a class are in
float64. Rows with a neighbor so near that the product loses digits are marked, and the caller computes these again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from embedscope.ops.minima import MinimumForm, RunningMinimum
from embedscope.ops.pairwise import PreparedRows

if TYPE_CHECKING:
    from embedscope.ops.class_moments import Classes
    from embedscope.ops.pairwise import Frame


@dataclass(frozen=True)
class Tiling:
    """Rows, columns and depth of a tile, and how its product is computed."""

    rows: int = 128
    columns: int = 64
    depth: int = 32
    precision: str = "tf32x3"
    warps: int = 8


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    rows_at,  # (P, stride) float32, sorted by class; dummies fill each class up to whole tiles of columns
    norms_at,  # (P,) float32, |x|²
    classes_at,  # (P,) int32, the class of a row; -1 for a dummy
    first_at,  # (K + 1,) int32, the first tile of columns of each class
    counts_at,  # (K,) int32
    own_at,  # (P,) float64, out: sum of the distances to the own class
    lowest_at,  # (P,) float64, out: smallest mean distance to another class
    nearest_at,  # (P,) int32, out: which class that is
    top_at,  # (P,) float64, out: largest of -mean / tau
    total_at,  # (P,) float64, out: sum of exp(-mean / tau - top)
    weighted_at,  # (P,) float64, out: sum of mean exp(-mean / tau - top)
    near_at,  # (P,) int32, out: how many columns are too near for the product
    positions,
    classes,
    stride,
    share,
    tau,
    WIDTH: tl.constexpr,
    SOFT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = row < positions
    mine = tl.load(classes_at + row, mask=live, other=-1)
    row_norms = tl.load(norms_at + row, mask=live, other=0.0)
    own = tl.zeros((ROWS,), tl.float64)
    lowest = tl.full((ROWS,), float("inf"), tl.float64)
    nearest = tl.full((ROWS,), -1, tl.int32)
    top = tl.full((ROWS,), float("-inf"), tl.float64)
    total = tl.zeros((ROWS,), tl.float64)
    weighted = tl.zeros((ROWS,), tl.float64)
    near = tl.zeros((ROWS,), tl.int32)
    for label in range(classes):
        count = tl.load(counts_at + label)
        first = tl.load(first_at + label)
        last = tl.load(first_at + label + 1)
        sums = tl.zeros((ROWS,), tl.float64)
        for tile in range(first, last):
            column = tl.arange(0, COLUMNS).to(tl.int64) + tile * COLUMNS
            product = tl.zeros((ROWS, COLUMNS), tl.float32)
            for start in range(0, WIDTH, DEPTH):
                axis = start + tl.arange(0, DEPTH)
                left = tl.load(
                    rows_at + row[:, None] * stride + axis[None, :], mask=live[:, None] & (axis < WIDTH)[None, :], other=0.0
                )
                right = tl.load(rows_at + column[:, None] * stride + axis[None, :], mask=(axis < WIDTH)[None, :], other=0.0)
                product += tl.dot(left, tl.trans(right), input_precision=PRECISION)
            norms = row_norms[:, None] + tl.load(norms_at + column)[None, :]
            squared = norms - 2 * product
            real = ((tile - first) * COLUMNS + tl.arange(0, COLUMNS)) < count
            other = real[None, :] & (row[:, None] != column[None, :])
            near += tl.sum((other & (squared <= share * norms)).to(tl.int32), 1)
            sums += tl.sum(tl.where(other, tl.sqrt(tl.maximum(squared, 0.0)), 0.0), 1).to(tl.float64)
        is_own = mine == label
        own = tl.where(is_own, sums, own)
        mean = sums / count
        closer = (mean < lowest) & ~is_own
        lowest = tl.where(closer, mean, lowest)
        nearest = tl.where(closer, label, nearest)
        if SOFT:
            exponent = -mean / tau
            higher = tl.where(is_own, top, tl.maximum(top, exponent))
            kept = tl.where(top == float("-inf"), 0.0, tl.exp(top - higher))
            added = tl.where(is_own, 0.0, tl.exp(exponent - higher))
            total = total * kept + added
            weighted = weighted * kept + mean * added
            top = higher
    tl.store(own_at + row, own, mask=live)
    tl.store(lowest_at + row, lowest, mask=live)
    tl.store(nearest_at + row, nearest, mask=live)
    tl.store(top_at + row, top, mask=live)
    tl.store(total_at + row, total, mask=live)
    tl.store(weighted_at + row, weighted, mask=live)
    tl.store(near_at + row, near, mask=live)


def fused_class_distances(
    features: Tensor, classes: Classes, frame: Frame, *, unit: bool, form: MinimumForm, tiling: Tiling | None = None
) -> tuple[Tensor, RunningMinimum, Tensor]:
    """Sum the distances of every row to every class: own sums (N,), the minima, and which rows must be recomputed (N,).

    `features` (N, D) of at most 32 bits and the frame are as for `PreparedRows`, and so is the unit of length. Each pair is
    computed twice, once a side.
    """
    tiling = tiling or Tiling()
    device, size = features.device, len(classes)
    tiles = -(-classes.counts // tiling.columns)
    ends = tiles.cumsum(0) * tiling.columns
    order = classes.index.argsort(stable=True)
    starts = classes.counts.cumsum(0) - classes.counts
    place = (ends - tiles * tiling.columns - starts)[classes.index[order]] + torch.arange(len(order), device=device)
    positions = int(ends[-1])
    taken = torch.zeros(positions, dtype=torch.int64, device=device)  # any row stands for a dummy, the kernel masks them
    taken[place] = order
    rows = PreparedRows(features, taken, frame, unit=unit)
    row_class = torch.full((positions,), -1, dtype=torch.int32, device=device)
    row_class[place] = classes.index[order].int()
    first = torch.nn.functional.pad(tiles.cumsum(0), (1, 0)).int()
    doubles = torch.empty(5, positions, dtype=torch.float64, device=device)
    whole = torch.empty(2, positions, dtype=torch.int32, device=device)
    own, lowest, top, total, weighted = doubles
    nearest, near = whole
    _kernel[(triton.cdiv(positions, tiling.rows),)](
        rows.left,
        rows.norms,
        row_class,
        first,
        classes.counts.int(),
        own,
        lowest,
        nearest,
        top,
        total,
        weighted,
        near,
        positions,
        size,
        rows.left.shape[1],
        rows.near,
        form.tau,
        WIDTH=features.shape[1],
        SOFT=form.form != "hard",
        ROWS=tiling.rows,
        COLUMNS=tiling.columns,
        DEPTH=tiling.depth,
        PRECISION=tiling.precision,
        num_warps=tiling.warps,
    )
    back = place[order.argsort()]
    found = RunningMinimum(0, form, device)
    found.lowest, found.nearest = lowest[back], nearest[back].long()
    found.log, found.mean = (top + total.log())[back], (weighted / total)[back]
    return own[back], found, near[back] > 0
