"""How far other rows, such as those of production, are from the rows of an embedding, such as those of training."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope.errors import InputError
from embedscope.evaluation.pairing import are_row_numbers
from embedscope.ops.blocks import memory
from embedscope.ops.neighbors import nearest_neighbors
from embedscope.ops.probes import fit
from embedscope.ops.rows import gathered
from embedscope.ops.statistics import Z95
from embedscope.ops.two_samples import auc_with_variance, linear_kernel, mmd_test, rbf_kernel
from embedscope.store import check_finite
from embedscope.text import counted

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.store.features import FeatureSet

    Array = np.ndarray[Any, Any]

# Rows of either side that are drawn: for the classifier and the kernel, for neighbors, and of a class.
ROWS = 2000
NEIGHBOR_ROWS = 10_000
CLASS_ROWS = 500

# Inverse penalty of the classifier; with a column of weights for either side, half of that of a single column of differences.
_STRENGTH = 0.5

PERMUTATIONS = 499
_MOST_PERMUTATIONS = 9999
FOLDS = 5
NEIGHBORS = 10
LEAST = 20

# Two tests, each at 2.5%: without a shift, either alarms in at most 5% of cases.
_LEVEL = 0.025

# Error rate of the tests of all classes together.
_CORRECTED = 0.05
_FURTHEST = 20


@dataclass(frozen=True)
class ClassShift:
    """How far a class has moved.

    Attributes:
        name: of the class.
        samples: rows of it here and in the other data.
        shares: of the labeled rows, here and in the other data.
        distance: between its means, in units of its spread here (root mean square distance to its mean); None for a class with
            fewer than two rows on a side, or without spread.
        by_chance: the distance that 95% of random divisions of its pooled rows stay below.
        p_value: share of such divisions with at least this distance, times the number of classes that are tested, at most 1.
            With more than 500 classes, fewer than 10 of 9,999 divisions give way to the tail of a distribution fitted to all.
    """

    name: str
    samples: tuple[int, int]
    shares: tuple[float, float]
    distance: float | None = None
    by_chance: float | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class FarRow:
    """A row far from all rows here: its id, and its distance to the k-th nearest over the median of that distance here."""

    id: str
    ratio: float


@dataclass(frozen=True, repr=False)
class Shift:
    """How far other rows are from those of an embedding.

    Attributes:
        name: of the embedding.
        against: name of the other rows.
        layer: of the embedding.
        rows: of both.
        drawn: rows of both that the classifier and the kernel see.
        shared: ids that are on both sides, if ids are more than row numbers; copies of a row push the AUC below 0.5.
        auc: of a classifier of the origin of rows, by cross-validation: 0.5 where they cannot be told apart, 1 for a gap.
        auc_ci95: 95% interval.
        mmd: squared MMD, unbiased, with an RBF kernel of the median distance: about 0 without a shift.
        mmd_p_value: share of random divisions of the pooled rows with at least this value.
        permutations: how many divisions.
        detected: whether the p-value is at most 0.025 or the interval of the AUC lies above 0.5: without a shift, that happens
            in at most 5% of cases.
        beyond: share of other rows further from their k-th nearest row here than 99% of the rows here are from theirs.
        beyond_expected: that share without a shift, 1% or, with few rows, a little more.
        neighbors: k.
        neighbor_rows: rows of both among which that is measured.
        furthest: the rows furthest out, the furthest first.
        classes: those of either side; empty where a side has no labels.
        proportions_p_value: of the chi-squared test that classes have the same shares; None where a side has no labels.
    """

    name: str
    against: str
    layer: str
    rows: tuple[int, int]
    drawn: tuple[int, int]
    shared: int
    auc: float
    auc_ci95: tuple[float, float]
    mmd: float
    mmd_p_value: float
    permutations: int
    detected: bool
    beyond: float
    beyond_expected: float
    neighbors: int
    neighbor_rows: tuple[int, int]
    furthest: tuple[FarRow, ...]
    classes: tuple[ClassShift, ...] = ()
    proportions_p_value: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Lay the shift out for `score --json`."""
        return asdict(self)

    def __repr__(self) -> str:
        low, high = self.auc_ci95
        return (
            f"shift from {self.name} to {self.against} {'detected' if self.detected else 'not detected'}: AUC {self.auc:.3f} "
            f"[{low:.3f}, {high:.3f}]; MMD² p = {self.mmd_p_value:.3g}; {self.beyond:.1%} far rows"
        )


def measure_shift(here: FeatureSet, other: FeatureSet, *, seed: int = 0) -> Shift:
    """Measure how far other rows are from those of an embedding. Neither needs labels; with labels on both sides, by class.

    Rows are sampled at random if there are many (2,000 of either side for the classifier and the kernel, 10,000 for
    neighbors). A classifier is a logistic regression on standardized features, cross-validated in five folds.

    Args:
        here: the embedding, such as that of the training data.
        other: the rows to compare with it, of the same width.
        seed: of everything that is drawn.

    Raises:
        InputError: another width, fewer than 20 rows on a side, or NaN.

    References: Lopez-Paz and Oquab 2017, arXiv:1610.06545 (classifier two-sample tests); Gretton et al. 2012,
    jmlr.org/papers/v13/gretton12a (MMD).
    """
    widths, counts = (here.features.shape[1], other.features.shape[1]), (len(here.ids), len(other.ids))
    if widths[0] != widths[1]:
        raise InputError(
            f"{here.name}: {counted(widths[0], 'dimension')}, {other.name}: {widths[1]:,}; a shift needs the same layer of both"
        )
    for name, count in zip((here.name, other.name), counts, strict=True):
        if count < LEAST:
            raise InputError(f"{name}: {counted(count, 'row')}, but a shift needs at least {LEAST}")
    check_finite(other)
    here, other = _held(here), _held(other)
    sides = [_drawn(each, ROWS, seed + place)[0] for place, each in enumerate((here, other))]
    auc, interval = _domain_auc(sides[0], sides[1], seed)
    mmd = mmd_test(rbf_kernel(torch.cat(sides)), len(sides[0]), permutations=PERMUTATIONS, seed=seed)
    (beyond, expected), furthest, among = _far_rows(here, other, seed)
    labeled = all((each.labels >= 0).any() for each in (here, other))
    return Shift(
        name=here.name,
        against=other.name,
        layer=here.layer,
        rows=counts,
        drawn=(len(sides[0]), len(sides[1])),
        shared=0 if are_row_numbers(other.ids) else len(set(here.ids) & set(other.ids)),
        auc=auc,
        auc_ci95=interval,
        mmd=mmd.value,
        mmd_p_value=mmd.p_value,
        permutations=PERMUTATIONS,
        detected=mmd.p_value <= _LEVEL or interval[0] > 0.5,
        beyond=beyond,
        beyond_expected=expected,
        neighbors=NEIGHBORS,
        neighbor_rows=among,
        furthest=furthest,
        classes=_class_shifts(here, other, seed) if labeled else (),
        proportions_p_value=_proportions(here, other) if labeled else None,
    )


def _held(features: FeatureSet) -> FeatureSet:
    """Read the rows into memory if they fit: a store is opened for every class otherwise."""
    count, width = features.features.shape
    if isinstance(features.features, torch.Tensor) or count * width * features.features.dtype.itemsize > memory() // 4:
        return features
    return replace(features, features=features.features[:])


def _drawn(features: FeatureSet, most: int, seed: int, among: Array | None = None) -> tuple[Tensor, Array]:
    """Sample a limited number of rows, from all or from some positions: (n, D) float64, and their positions (n,)."""
    among = np.arange(len(features.ids)) if among is None else among
    if len(among) > most:
        among = np.sort(np.random.default_rng(seed).choice(among, most, replace=False))
    return gathered(features.features, torch.from_numpy(among)).cpu().double(), among


def _domain_auc(here: Tensor, other: Tensor, seed: int) -> tuple[float, tuple[float, float]]:
    """Cross-validate a classifier of the origin of rows: the mean AUC over folds, with its interval.

    The variance within a fold is DeLong's. Folds share most of their training rows, so that their mean varies more than that of
    independent ones: Nadeau and Bengio's correction adds the ratio of test to training rows (doi:10.1023/A:1024068626366).
    """
    from sklearn.model_selection import StratifiedKFold

    rows = torch.cat([here, other])
    origin = np.r_[np.zeros(len(here), dtype=int), np.ones(len(other), dtype=int)]
    areas, variances = [], []
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed % 2**32).split(origin, origin):
        probe = fit(rows[train], torch.from_numpy(origin[train]), 2, C=_STRENGTH)
        first, second = probe.logits(rows[test]).unbind(dim=1)
        found = second - first  # probabilities of rows far apart are equal by rounding
        area, variance = auc_with_variance(found[origin[test] == 1], found[origin[test] == 0])
        areas.append(area)
        variances.append(variance)
    mean = float(np.mean(areas))
    reach = Z95 * math.sqrt(float(np.mean(variances)) * (1 / FOLDS + 1 / (FOLDS - 1)))
    return mean, (max(mean - reach, 0.0), min(mean + reach, 1.0))


def _far_rows(
    here: FeatureSet, other: FeatureSet, seed: int
) -> tuple[tuple[float, float], tuple[FarRow, ...], tuple[int, int]]:
    """Find the share beyond 99% of the rows here, each without itself, with what is expected; and the rows furthest out."""
    known, _ = _drawn(here, NEIGHBOR_ROWS, seed)
    asked, positions = _drawn(other, NEIGHBOR_ROWS, seed + 1)
    usual = nearest_neighbors(known, NEIGHBORS).distances[:, -1]
    found = nearest_neighbors(known, NEIGHBORS, queries=asked).distances[:, -1]
    rank = math.ceil(0.99 * len(usual))
    beyond = float((found > usual.sort().values[rank - 1]).double().mean())
    expected = (len(usual) + 1 - rank) / (len(usual) + 1)  # a further row has any rank among them with the same probability
    middle = float(usual.median()) or 1.0
    order = found.argsort(descending=True, stable=True)[:_FURTHEST].tolist()
    furthest = tuple(FarRow(str(other.ids[positions[row]]), float(found[row]) / middle) for row in order)
    return (beyond, expected), furthest, (len(known), len(asked))


def _class_shifts(here: FeatureSet, other: FeatureSet, seed: int) -> tuple[ClassShift, ...]:
    places = [_places(each) for each in (here, other)]
    totals = [sum(map(len, each.values())) for each in places]
    names = list(dict.fromkeys([*places[0], *places[1]]))
    tested = [name for name in names if min(len(each.get(name, ())) for each in places) >= 2]
    # Enough divisions for a p-value below 5% after the correction for the number of classes. With more than 500 classes, no
    # share of 9,999 divisions is small enough, and the tail is fitted.
    permutations = min(max(999, 40 * len(tested)), _MOST_PERMUTATIONS)
    found = []
    for name in names:
        counts = len(places[0].get(name, ())), len(places[1].get(name, ()))
        shift = ClassShift(name, counts, (counts[0] / totals[0], counts[1] / totals[1]))
        if name in tested:
            shift = _moved(shift, here, other, [each[name] for each in places], permutations, len(tested), seed)
        found.append(shift)
    return tuple(found)


def _moved(
    shift: ClassShift, here: FeatureSet, other: FeatureSet, places: list[Array], permutations: int, tests: int, seed: int
) -> ClassShift:
    """Add the distance between the means of a class, and what it is by chance."""
    most = CLASS_ROWS if permutations <= 2000 else CLASS_ROWS // 2
    one, two = (_drawn(each, most, seed, its)[0] for each, its in zip((here, other), places, strict=True))
    spread = float((one - one.mean(dim=0)).square().sum(dim=1).mean().sqrt())
    if spread == 0:
        return shift
    possible = math.comb(len(one) + len(two), len(one)) >= tests / _CORRECTED
    if not possible:  # no division of so few rows can be that rare
        permutations = min(permutations, 999)
    test = mmd_test(
        linear_kernel(torch.cat([one, two])),
        len(one),
        permutations=permutations,
        seed=seed,
        unbiased=False,
        tail=possible and permutations + 1 < tests / _CORRECTED,
    )
    distance, chance = (math.sqrt(max(value, 0.0)) / spread for value in (test.value, test.null95))
    return ClassShift(shift.name, shift.samples, shift.shares, distance, chance, min(1.0, test.p_value * tests))


def _places(features: FeatureSet) -> dict[str, Array]:
    """Class name -> positions of its rows."""
    present = np.unique(features.labels[features.labels >= 0])
    return {features.class_names[label]: np.flatnonzero(features.labels == label) for label in present}


def _proportions(here: FeatureSet, other: FeatureSet) -> float:
    """Test whether the classes have the same shares: p-value, 1 if there is only one class."""
    from scipy import stats

    counts = [{name: len(rows) for name, rows in _places(each).items()} for each in (here, other)]
    names = dict.fromkeys([*counts[0], *counts[1]])
    if len(names) < 2:
        return 1.0
    table = [[each.get(name, 0) for name in names] for each in counts]
    return float(stats.chi2_contingency(table, correction=False).pvalue)
