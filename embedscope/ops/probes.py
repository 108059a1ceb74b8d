"""Linear probes: multinomial logistic regression on standardized features, and its predictions of rows left out of the fit."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedscope import distributed
from embedscope.arguments import check_number, check_whole
from embedscope.errors import UndefinedError
from embedscope.ops import blocks
from embedscope.ops.class_moments import Classes, present_classes
from embedscope.ops.keeping import fingerprint, kept
from embedscope.ops.rows import gathered
from embedscope.ops.statistics import random_groups, stratified_sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from embedscope.ops.rows import Rows

# Strengths that are tried, weakest model first, until the loss on validation rows rises.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)

# Rows times dimensions times classes from which a fit is of fewer rows: five folds of this take about half a minute of CPU.
_WORK = 4e8

# The same from which products are in float32, and fits stop at a wider tolerance.
_LARGE = 1e7

# Where a fit stops: the largest slope that may be left, and the least share by which a step must lower the loss. Fits that
# compare strengths are rough.
_ENDS = {"exact": (1e-6, 1e-10), "large": (1e-5, 1e-6), "rough": (1e-4, 1e-4)}

# Steps that L-BFGS remembers.
_MEMORY = 15

# Rows per class that a fit keeps whatever it costs.
_LEAST_PER_CLASS = 20


@dataclass(frozen=True)
class LinearProbe:
    """A fitted multinomial logistic regression.

    Attributes:
        center: (D,) float64, mean of the rows that it was fitted to.
        scale: (D,) float64, their standard deviation; 1 for a channel that does not vary.
        weight: (D, k) of standardized channels.
        bias: (k,).
        known: (k,) int64, the columns out of `num_classes` that had rows.
        num_classes: K.
        C: inverse strength of the penalty.
        rows: number of rows that it was fitted to.
    """

    center: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    known: Tensor
    num_classes: int
    C: float
    rows: int

    def logits(self, rows: Tensor) -> Tensor:
        """Compute the logits of the known classes: (B, D) -> (B, k) float64."""
        return ((rows.double() - self.center) / self.scale) @ self.weight.double() + self.bias.double()

    def probabilities(self, rows: Tensor) -> Tensor:
        """Compute class probabilities: (B, D) -> (B, K) float64, rows sum to 1; 0 for a class that the fit had no rows of."""
        found = self.logits(rows).softmax(dim=1)
        return rows.new_zeros(len(rows), self.num_classes, dtype=torch.float64).index_copy(1, self.known, found)


def fit(rows: Tensor, index: Tensor, num_classes: int, *, C: float | None = None, seed: int = 0) -> LinearProbe:
    """Fit a linear probe: (n, D), (n,) in [0, K) -> LinearProbe.

    Minimizes C * sum of -ln p(y) + |weight|² / 2 over standardized rows, the intercept free: scikit-learn's
    LogisticRegression after its StandardScaler.

    Args:
        rows: any float dtype.
        index: column of each row's class; classes without a row get probability 0.
        num_classes: K.
        C: inverse strength of the penalty. If None, that of STRENGTHS with the least loss on a fifth of the rows, drawn class
            by class, with the probe fitted to the others.
        seed: of that draw.
    """
    if C is None:
        C = _chosen_strength(rows, index, num_classes, seed)
    problem = _Problem(rows, index, num_classes)
    return problem.probe(problem.solve(C), C)


def cross_fitted_probabilities(
    features: Rows, labels: Tensor, folds: int = 5, seed: int = 0, *, C: float | None = None
) -> Tensor:
    """Return out-of-sample class probabilities: each row's come from a linear probe fitted without its fold.

    Args:
        features: (N, D), any float dtype, in memory or on disk.
        labels: (N,) integers; gaps allowed.
        folds: at least 2; drawn class by class. With fewer than `folds` rows, a class is missing from some of them; the only
            row of a class is predicted by a probe that does not know its class, so its own probability is 0.
        seed: of the folds.
        C: inverse strength of the penalty, see `fit`; chosen inside the training part of each fold if None.

    Returns:
        (N, K) float64, rows sum to 1, on the device of the labels; columns are the labels that occur, ascending, as in
        `present_classes(labels).labels`. The same for any number of processes.

    Raises:
        UndefinedError: fewer than two classes.
    """
    classes = present_classes(labels)
    found = torch.zeros(len(labels), len(classes), dtype=torch.float64, device=labels.device)
    for _, positions, probabilities, _ in out_of_sample(features, classes, folds=folds, seed=seed, C=C):
        found[positions] = probabilities
    distributed.all_reduce([found])
    return found


def out_of_sample(
    features: Rows, classes: Classes, *, folds: int, seed: int, C: float | None
) -> Iterator[tuple[int, Tensor, Tensor, LinearProbe]]:
    """Fit a probe without each fold in turn, and predict the fold: its number, positions (B,), probabilities (B, K), the probe.

    A fold comes in blocks of rows. Each process takes its share of the folds. Inside `keeping`, the same rows are fitted once.

    Raises:
        UndefinedError: fewer than two classes.
    """
    folds = check_whole("folds", folds, low=2)
    if C is not None:
        check_number("C", C, above=0)
    if len(classes) < 2:
        raise UndefinedError("a linear probe needs at least two classes")
    results = kept(8 * len(classes.index) * len(classes))
    if results is None:
        yield from _folds(features, classes, folds, seed, C)
        return
    key = "probes", fingerprint(features, classes.index), folds, seed, C
    if key not in results:
        results[key] = list(_folds(features, classes, folds, seed, C))
    yield from results[key]


def predicted(
    features: Rows, classes: Classes, train: Tensor, test: Tensor, *, C: float | None, seed: int
) -> tuple[Tensor, LinearProbe]:
    """Fit a probe to some rows and predict others, at ascending positions: (n, K) probabilities float64, the probe.

    Every process fits the same.

    Raises:
        UndefinedError: fewer than two classes among the training rows.
    """
    if C is not None:
        check_number("C", C, above=0)
    if len(torch.unique(classes.index[train])) < 2:
        raise UndefinedError("a linear probe needs at least two classes to be fitted to")
    width, device = features.shape[1], classes.index.device
    train = _at_most(train, classes.index, most_rows(width, len(classes)), seed)
    probe = fit(gathered(features, train).to(device), classes.index[train], len(classes), C=C, seed=seed)
    found = [
        probe.probabilities(gathered(features, test[block]).to(device))
        for block in blocks.row_slices(len(test), 8 * (3 * width + 2 * len(classes)))
    ]
    return torch.cat(found), probe


def _folds(
    features: Rows, classes: Classes, folds: int, seed: int, C: float | None
) -> Iterator[tuple[int, Tensor, Tensor, LinearProbe]]:
    width, device = features.shape[1], classes.index.device
    fold = random_groups(classes.index, folds, seed, stratified=True)
    mine = range(int(fold.max()) + 1)[distributed.rank() :: distributed.world_size()]
    for each in blocks.tracked(mine, "fitting linear probes", len(mine)):
        train = (fold != each).nonzero().squeeze(1)
        train = _at_most(train, classes.index, most_rows(width, len(classes)), seed)
        probe = fit(gathered(features, train).to(device), classes.index[train], len(classes), C=C, seed=seed)
        held_out = (fold == each).nonzero().squeeze(1)
        for block in blocks.row_slices(len(held_out), 8 * (3 * width + 2 * len(classes))):
            positions = held_out[block]
            yield each, positions, probe.probabilities(gathered(features, positions).to(device)), probe


def most_rows(width: int, num_classes: int) -> int:
    """Return how many rows a fit takes at most, for what it costs and for what fits in memory."""
    affordable = max(int(_WORK) // (width * num_classes), _LEAST_PER_CLASS * num_classes)
    return max(2 * num_classes, min(affordable, blocks.memory() // (8 * (4 * width + 4 * num_classes))))


def _at_most(positions: Tensor, index: Tensor, most: int, seed: int) -> Tensor:
    """Draw some of the positions, class by class, in ascending order; all if they are few enough."""
    if len(positions) <= most:
        return positions
    return positions[stratified_sample(index[positions], most, seed)]


def _chosen_strength(rows: Tensor, index: Tensor, num_classes: int, seed: int) -> float:
    """Choose C by the loss on validation rows, out of a sample of the rows if they are many."""
    everyone = torch.arange(len(index), device=index.device)
    kept = _at_most(everyone, index, max(most_rows(rows.shape[1], num_classes) // 8, 10 * num_classes), seed)
    fold = random_groups(index[kept], 5, seed, stratified=True)
    train, held_out = kept[fold != 0], kept[fold == 0]
    if not len(train):
        return 1.0
    problem = _Problem(rows[train], index[train], num_classes)
    best, chosen, weights = torch.inf, 1.0, None
    for C in STRENGTHS:
        weights = problem.solve(C, weights, rough=True)
        probabilities = problem.probe(weights, C).probabilities(rows[held_out])
        own = probabilities.gather(1, index[held_out, None]).clamp(min=1e-12)  # of a class without training rows: 0 for any C
        loss = float(-own.log().mean())
        if loss >= best:
            break
        best, chosen = loss, C
    return chosen


class _Problem:
    """The rows of a fit, standardized, in coordinates of at most n dimensions."""

    def __init__(self, rows: Tensor, index: Tensor, num_classes: int) -> None:
        rows = rows.double()
        self.num_classes, self.count = num_classes, len(rows)
        self.known, self.target = torch.unique(index, return_inverse=True)
        self.center = rows.mean(dim=0)
        spread = (rows - self.center).square().mean(dim=0).sqrt()
        rounding = 1e-12 * rows.abs().amax(dim=0)  # a channel that does not vary keeps this much around a rounded mean
        self.scale = spread.masked_fill(spread <= rounding, 1)
        rows = (rows - self.center) / self.scale
        # The penalty is the same in any rotation, and the best weights lie in the span of the rows.
        self.basis: Tensor | None = None
        if rows.shape[1] > self.count:
            self.basis, upper = torch.linalg.qr(rows.T)
            rows = upper.T
        self.gram = rows.T @ rows / (2 * self.count)
        self.large = rows.numel() * len(self.known) >= _LARGE
        self.rows = rows.float() if self.large else rows

    def solve(self, C: float, start: tuple[Tensor, Tensor] | None = None, *, rough: bool = False) -> tuple[Tensor, Tensor]:
        """Find weights (d, k) float64 and bias (k,), from those of a neighboring C if given; `rough` to compare strengths.

        L-BFGS in the coordinates in which Böhning's bound of the Hessian, X'X / 2 + penalty, is the identity
        (doi:10.1007/BF00048682): correlated channels then take no more steps than independent ones.
        """
        width, classes = self.rows.shape[1], len(self.known)
        penalty = 1 / (C * self.count)
        ridge = penalty * torch.eye(width, dtype=torch.float64, device=self.gram.device)
        root = torch.linalg.cholesky(self.gram + ridge)  # (d, d), lower
        places = torch.arange(self.count, device=self.gram.device)

        def loss(point: Tensor) -> tuple[float, Tensor]:
            weight, bias = torch.linalg.solve_triangular(root.T, point[:-1], upper=True), point[-1]
            logits = torch.addmm(bias.to(self.rows.dtype), self.rows, weight.to(self.rows.dtype))  # (n, k)
            logs = logits.log_softmax(dim=1)
            value = -float(logs[places, self.target].mean(dtype=torch.float64)) + penalty / 2 * float(weight.square().sum())
            residual = logs.exp_()
            residual[places, self.target] -= 1
            residual /= self.count
            slope = (self.rows.T @ residual).double() + penalty * weight
            slope = torch.linalg.solve_triangular(root, slope, upper=False)
            return value, torch.cat([slope, residual.sum(dim=0, dtype=torch.float64)[None]])

        if start is None:
            start = self.gram.new_zeros(width, classes), self.gram.new_zeros(classes)
        first = torch.cat([root.T @ start[0], start[1][None]])
        slope, gain = _ENDS["rough" if rough else "large" if self.large else "exact"]
        found = minimized(loss, first, slope=slope, gain=gain)
        return torch.linalg.solve_triangular(root.T, found[:-1], upper=True), found[-1]

    def probe(self, solution: tuple[Tensor, Tensor], C: float) -> LinearProbe:
        """Turn weights of these coordinates into those of channels."""
        weight, bias = solution
        weight = weight if self.basis is None else self.basis @ weight
        return LinearProbe(self.center, self.scale, weight, bias, self.known, self.num_classes, C, self.count)


def minimized(
    function: Callable[[Tensor], tuple[float, Tensor]], start: Tensor, *, slope: float, gain: float, steps: int = 500
) -> Tensor:
    """Find the minimum of a smooth convex function by L-BFGS with halved steps, from a start of any shape.

    Stops where no element of the gradient is above `slope`, a step lowers the value by less than its share `gain`, or after
    a number of steps. scipy's L-BFGS-B, which also handles bounds, takes longer for a step than the products of 5,000 rows.
    """
    point, (value, gradient) = start, function(start)
    pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=_MEMORY)
    for _ in range(steps):
        if float(gradient.abs().max()) <= slope:
            break
        direction = _direction(gradient, pairs)
        descent, size = float((direction * gradient).sum()), 1.0
        new, (new_value, new_gradient) = point + direction, function(point + direction)
        while not new_value <= value + 1e-4 * size * descent and size > 1e-6:
            size /= 2
            new = point + size * direction
            new_value, new_gradient = function(new)
        if not new_value < value:  # what is left is rounding
            break
        moved, turned = new - point, new_gradient - gradient
        if (curvature := float((moved * turned).sum())) > 0:
            pairs.append((moved, turned, curvature))
        gained = value - new_value
        point, value, gradient = new, new_value, new_gradient
        if gained <= gain * abs(value):
            break
    return point


def _direction(gradient: Tensor, pairs: Sequence[tuple[Tensor, Tensor, float]]) -> Tensor:
    """Multiply the gradient by minus the inverse Hessian that the last steps suggest: two loops (Nocedal 1980)."""
    found, shares = -gradient, []
    for moved, turned, curvature in reversed(pairs):
        shares.append(float((moved * found).sum()) / curvature)
        found = found - shares[-1] * turned
    if pairs:
        _, turned, curvature = pairs[-1]
        found = found * (curvature / float(turned.square().sum()))
    for (moved, turned, curvature), share in zip(pairs, reversed(shares), strict=True):
        found = found + (share - float((turned * found).sum()) / curvature) * moved
    return found
