"""Bounds on the mean distance of a row to a class, from a few numbers of the class: proved, not estimated.

For a row x and a class of n rows y with mean mu: d = x - mu, R = y - mu, q = |R|², Z = |x - y|², C = E[R R'], w = E[R q].
    m = E[Z] = |d|² + E[q]
    V = Var(Z) = 4 d'Cd + Var(q) - 4 d'w             (exact, since E[R] = 0)
    E[sqrt Z] <= sqrt(m)                             (Jensen)
    E[sqrt Z] >= |d|                                 (Jensen)
    E[sqrt Z] >= sqrt(m) / sqrt(1 + V / m²)          (Hölder: E[Z] <= E[sqrt Z]^(2/3) E[Z²]^(1/3))
V is bounded from above in two stages. With any orthonormal Q (D x r), A = R Q, P = R - A Q', p = Q'd:
    d'Cd <= (s + t) |d|² + sum over j of (l_j - s) p_j²,    s >= |P'P / n| (operator), t = |P'A / n| (Frobenius),
where A'A / n is diagonal, with l_j on it; s = (tr (P'P / n)^8)^(1/8). Q comes from a few steps of subspace iteration: a poor
one weakens the bound and never breaks it. Stage 2 computes this and d'w, r + 1 products per class; stage 1 needs one, since
d'Cd <= (max(l, s) + t) |d|² and -d'w <= sqrt(d'Cd Var(q)).

Rounding: a product of D terms is off by less than (D + 16) eps of the lengths multiplied, even if every addition rounds the
wrong way. These margins are in all that follows, so that what rounding alone decides is never ruled out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

# Rows of a large class that are taken in at a time.
_ROWS = 1024

# Steps of subspace iteration.
_STEPS = 3


def rounding(width: int, dtype: torch.dtype) -> float:
    """Bound the error of a product of vectors, in units of their lengths."""
    return (width + 16) * torch.finfo(dtype).eps


@dataclass(frozen=True)
class ClassBounds:
    """What bounds the distances to K classes, as right-hand sides of products with `PreparedRows.left`, [x, |x|², 1].

    Attributes:
        upper: (K, D + 2), whose product is m, plus the class's part of the rounding.
        slack: (K,), that part.
        spread: (K,), E[q].
        slope, level: (K,) each, V <= slope m + level in stage 1.
        columns: (r + 1, K, D + 2); in stage 2, V <= the squares of the first r products and the last, added up.
    """

    upper: Tensor
    slack: Tensor
    spread: Tensor
    slope: Tensor
    level: Tensor
    columns: Tensor

    def packed(self) -> Tensor:
        """Lay everything out in one row per class: (K, F)."""
        size = len(self.upper)
        scalars = torch.stack([self.slack, self.spread, self.slope, self.level], dim=1)
        return torch.cat([self.upper, scalars, self.columns.transpose(0, 1).reshape(size, -1)], dim=1)


def unpacked(packed: Tensor, width: int) -> ClassBounds:
    """Read what `ClassBounds.packed` laid out: (K, F) -> bounds for rows of `width`."""
    upper, scalars, columns = torch.split(packed, [width + 2, 4, packed.shape[1] - width - 6], dim=1)
    columns = columns.view(len(packed), -1, width + 2).transpose(0, 1).contiguous()
    slack, spread, slope, level = scalars.T.contiguous()
    return ClassBounds(upper.contiguous(), slack, spread, slope, level, columns)


def fields(width: int, rank: int) -> int:
    """Return how many numbers `ClassBounds.packed` has for a class, F."""
    return (rank + 2) * (width + 2) + 4


def class_bounds(rows: Tensor, counts: Tensor, rank: int) -> ClassBounds:
    """Compute what bounds the distances to a few classes of about one size.

    Args:
        rows: (P, D) in the frame, class after class.
        counts: (K,) int64, how many rows each class has, at least 1 each; P in all. One class, or all with fewer rows than D.
        rank: r, how many directions of each class are told apart.
    """
    width = rows.shape[1]
    sums = torch.stack([part.sum(dim=0, dtype=torch.float64) for part in torch.split(rows, counts.tolist())])
    means = (sums / counts[:, None]).to(rows.dtype)  # (K, D)
    rank_here = min(rank, width, int(counts.max()))
    if len(counts) == 1 and len(rows) >= width:
        covariance, q, w = _moments_of_one(rows, means[0])
        split = _split_covariance(covariance, rank_here)
    else:
        centered = _padded(rows, means, counts)
        squares = centered.square().sum(dim=2)
        w = (squares[:, None] @ centered).squeeze(1) / counts[:, None]
        q = squares.double()
        split = _split_rows(centered / counts.sqrt()[:, None, None].to(rows.dtype), rank_here)
    # q (K, n) is 0 where a class has no row.
    mean_q = q.sum(dim=1) / counts
    gap = (q - mean_q[:, None]).masked_fill_(torch.arange(q.shape[1], device=q.device) >= counts[:, None], 0)
    return _bounds(means, split, mean_q, gap.square().sum(dim=1) / counts, w.to(rows.dtype), rank)


def _padded(rows: Tensor, means: Tensor, counts: Tensor) -> Tensor:
    """Return the rows of each class about its mean, zeros for rows that it lacks: (K, n, D)."""
    index = torch.repeat_interleave(counts)
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[index]
    centered = rows.new_zeros(len(counts), int(counts.max()), rows.shape[1])
    centered[index, place] = rows - means[index]
    return centered


def _moments_of_one(rows: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the covariance (1, D, D), q (1, n) float64 and w (1, D) of one class, a part of its rows at a time."""
    width = rows.shape[1]
    covariance = torch.zeros(width, width, dtype=torch.float64, device=rows.device)
    w = covariance.new_zeros(width)
    parts = []
    for part in torch.split(rows, _ROWS):
        centered = part - mean
        q = centered.square().sum(dim=1)
        covariance += centered.T @ centered
        w += q @ centered
        parts.append(q.double())
    return (covariance / len(rows)).to(rows.dtype)[None], torch.cat(parts)[None], (w / len(rows))[None]


def _bounds(means: Tensor, split: _Split, spread: Tensor, variance: Tensor, w: Tensor, rank: int) -> ClassBounds:
    """Assemble the bounds: means (K, D), the split of C, E[q] and Var(q) (K,) float64, w (K, D)."""
    dtype, (size, width), tiny = means.dtype, means.shape, torch.finfo(torch.float32).tiny
    error = rounding(max(width, _ROWS), dtype)
    rest = split.rest + error * spread
    common = split.across + 4 * error * spread
    error = rounding(width, dtype)
    norms = means.double().square().sum(dim=1)
    slack = 2 * error * (norms + spread)
    variance = variance + 8 * error * spread.square()

    # Stage 1: 2 sqrt(l |d|²) sd <= l |d|² sd / g + g sd for any g; this one is best where |d|² is about `typical`. An error e
    # of the squared lengths is at most error (2 m + 3 |mu|²).
    whole = torch.maximum(split.values.amax(dim=1), rest) + common
    typical = spread + norms + tiny
    slope = 4 * whole + 2 * variance.sqrt() * (whole / typical).sqrt()
    level = variance + 2 * variance.sqrt() * (whole * typical).sqrt() - slope * spread
    level, slope = level + 3 * error * slope * norms, slope * (1 + 2 * error)

    # Stage 2. Lengths are at most (square / h + h) / 2 for any h.
    steep = 4 * (rest + common)
    scaled = (2 * (split.values - rest[:, None]).clamp(min=0).sqrt()).to(dtype)[:, None] * split.q  # (K, D, r)
    wrong = 6 * error * (scaled.double().square().sum(dim=(1, 2)) + steep)
    length = 8 * error * torch.linalg.vector_norm(w.double(), dim=1)
    h = typical.sqrt()
    base = variance - steep * spread + 3 * wrong * norms + length * (h + 3 * norms.sqrt())
    steep = steep + 2 * wrong + length / h
    columns = means.new_zeros(rank + 1, size, width + 2)
    columns[: scaled.shape[2], :, :width] = scaled.permute(2, 0, 1)
    columns[: scaled.shape[2], :, -1] = -(means[:, None] @ scaled).squeeze(1).T
    columns[-1, :, :width] = -4 * w - 2 * steep[:, None].to(dtype) * means
    columns[-1, :, -2] = steep
    columns[-1, :, -1] = steep * (norms + spread) + 4 * (w * means).double().sum(dim=1) + base
    upper = torch.cat([-2 * means, torch.ones_like(means[:, :1]), (norms + spread + slack)[:, None].to(dtype)], dim=1)
    return ClassBounds(upper, slack.to(dtype), spread.to(dtype), slope.to(dtype), level.to(dtype), columns)


@dataclass(frozen=True)
class _Split:
    """Covariances C = E[R R'] told apart in a few directions, and the rest.

    Attributes:
        q: (K, D, r) orthonormal.
        values: (K, r) float64, the variances along them, l.
        rest: (K,) float64, what bounds the variance in any other direction, s.
        across: (K,) float64, what bounds the covariance between the two, t.
    """

    q: Tensor
    values: Tensor
    rest: Tensor
    across: Tensor


def _split_rows(root: Tensor, rank: int) -> _Split:
    """Split the covariances of R / sqrt(n), (K, n, D) with n < D."""
    q = _start(root, rank)
    for _ in range(_STEPS):
        q = _of_length_one(root.mT @ (root @ q))
    q = torch.linalg.qr(q).Q
    a = root @ q
    values, turn = _turn(a.mT @ a)
    q, a = q @ turn, a @ turn
    p = root - a @ q.mT  # (K, n, D)
    return _Split(q, values, _largest_value(p @ p.mT), torch.linalg.matrix_norm((p.mT @ a).double()))


def _split_covariance(covariance: Tensor, rank: int) -> _Split:
    """Split covariances (K, D, D)."""
    q = _start(covariance, rank)
    for _ in range(_STEPS):
        q = _of_length_one(covariance @ q)
    q = torch.linalg.qr(q).Q
    image = covariance @ q
    values, turn = _turn(q.mT @ image)
    q, image = q @ turn, image @ turn
    inside = q.mT @ image
    rest = covariance - image @ q.mT - q @ (image - q @ inside).mT
    return _Split(q, values, _largest_value(rest), torch.linalg.matrix_norm((image - q @ inside).double()))


def _start(like: Tensor, rank: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(like.shape[2], rank, generator=generator).to(like).expand(len(like), -1, -1)


def _of_length_one(q: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(q, dim=1, keepdim=True)
    return q / lengths.clamp(min=torch.finfo(q.dtype).tiny)


def _turn(inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variances along the axes of covariances (K, r, r), and the turn that makes these the directions."""
    values, turn = torch.linalg.eigh((inside + inside.mT).double() / 2)
    return values.clamp(min=0), turn.to(inside.dtype)


def _largest_value(gram: Tensor) -> Tensor:
    """Bound the largest eigenvalue of symmetric matrices by (tr G^8)^(1/8): (K, m, m) -> (K,) float64."""
    scale: Tensor = torch.linalg.matrix_norm(gram).clamp(min=torch.finfo(torch.float32).tiny)
    gram = gram / scale[:, None, None]
    gram = gram @ gram
    gram = gram @ gram
    norm: Tensor = torch.linalg.matrix_norm(gram.double())
    return scale.double() * norm.sqrt().sqrt()


@dataclass(frozen=True)
class Candidates:
    """The classes that may be nearest to some rows.

    Attributes:
        first: (n,) the class with the smallest upper bound.
        rows, classes: (c,) int64 each, the other pairs that are not ruled out, by row.
        lower: (c,) the square of the lower bound of each.
    """

    first: Tensor
    rows: Tensor
    classes: Tensor
    lower: Tensor


def candidates(left: Tensor, norms: Tensor, own: Tensor, bounds: ClassBounds, piece: int) -> Candidates:
    """Rule out classes: rows (n, D + 2) as `PreparedRows.left`, |x|² (n,), their classes (n,); products of `piece` numbers."""
    m = (left @ bounds.upper.T).scatter_(1, own[:, None], torch.inf)  # (n, K)
    best, first = m.min(dim=1)
    square = square_of_upper(best, norms, left.shape[1] - 2)
    keep = stage_one(m, norms, square, bounds).scatter_(1, own[:, None], False).scatter_(1, first[:, None], False)
    union = keep.any(dim=0).nonzero().squeeze(1)
    size, step = m.shape[1], max(1, piece // (len(left) * len(bounds.columns)))
    parts: Sequence[slice | Tensor]
    if 2 * len(union) > size:  # most classes: all of them, which need not be copied
        parts = [slice(start, min(start + step, size)) for start in range(0, size, step)]
    else:
        parts = list(torch.split(union, step))
    found: list[tuple[Tensor, ...]] = []
    for part in parts:
        near = m[:, part]
        still, spread = stage_two(left, near, square, bounds.columns[:, part])
        row, column = still.logical_and_(keep[:, part]).nonzero(as_tuple=True)
        near, spread = near[row, column].clamp(min=0), spread[row, column]
        lower = near.pow(3) / (near.square() + spread)
        found.append((row, column + part.start if isinstance(part, slice) else part[column], lower.nan_to_num_(0)))
    none = own[:0]
    return Candidates(first, *map(torch.cat, zip((none, none, m.new_zeros(0)), *found, strict=True)))


def square_of_upper(best: Tensor, norms: Tensor, width: int) -> Tensor:
    """Return the square of the smallest upper bound of each row, rounded up: smallest m (n,), |x|² (n,) -> (n, 1)."""
    slack = 2 * rounding(width, best.dtype) * norms
    return ((best + slack) * (1 + 16 * torch.finfo(best.dtype).eps))[:, None]


def stage_one(m: Tensor, norms: Tensor, square: Tensor, bounds: ClassBounds) -> Tensor:
    """Tell which classes are left by one product: m (n, K), made as small as rounding allows in place -> (n, K) bool.

    Ruled out is a class with m / (1 + V / m²) > square or |d|² > square.
    """
    spread = torch.addcmul(bounds.level, m, bounds.slope).clamp_(min=0)
    m.sub_(2 * bounds.slack).sub_((2 * rounding(bounds.upper.shape[1] - 2, m.dtype) * norms)[:, None])
    above = m - square
    keep = above <= bounds.spread
    by_variance: Tensor = above.mul_(m).mul_(m) <= spread.mul_(square)
    return by_variance.logical_and_(keep)


def stage_two(rows: Tensor, m: Tensor, square: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Tell which classes are left by r + 1 more products, and V: small m (n, u), columns (r + 1, u, D + 2) -> (n, u) both."""
    products = [torch.mm(rows, each.T) for each in columns]  # (n, u) each
    spread = products.pop()
    for product in products:
        spread.addcmul_(product, product)
    spread.clamp_(min=0)
    left: Tensor = (m - square).mul_(m).mul_(m) <= spread * square
    return left, spread
