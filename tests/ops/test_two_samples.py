"""MMD and its null, and the area under the ROC curve, against loops and other libraries."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from embedscope.ops.two_samples import auc_with_variance, linear_kernel, mmd_test, rbf_kernel, tail_probability


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_kernel_has_the_median_distance_as_its_width():
    rows = draw(11, 3) + 100
    gaps = [float((x - y).norm()) for x, y in itertools.combinations(rows, 2)]
    expected = [[np.exp(-float((x - y).square().sum()) / (2 * np.median(gaps) ** 2)) for y in rows] for x in rows]
    np.testing.assert_allclose(rbf_kernel(rows).numpy(), expected, atol=1e-12)
    assert bool((rbf_kernel(torch.ones(4, 2)) == 1).all())


def test_mmd_against_loops():
    rows = draw(13, 3)
    kernel = rbf_kernel(rows)
    one, other = range(5), range(5, 13)
    within = sum(kernel[i, j] for i in one for j in one if i != j) / 20
    without = sum(kernel[i, j] for i in other for j in other if i != j) / 56
    across = sum(kernel[i, j] for i in one for j in other) / 40
    assert mmd_test(kernel, 5, permutations=9, seed=0).value == pytest.approx(float(within + without - 2 * across), abs=1e-13)
    gap = float((rows[:5].mean(dim=0) - rows[5:].mean(dim=0)).square().sum())
    assert mmd_test(linear_kernel(rows), 5, permutations=9, seed=0, unbiased=False).value == pytest.approx(gap, abs=1e-12)


def test_p_values_are_those_of_all_divisions():
    """A share p of 2,000 divisions has the standard error sqrt(p (1 - p) / 2000), 0.011 at most."""
    rows = torch.cat([draw(4, 1) + 0.8, draw(5, 1, seed=1)])
    kernel = linear_kernel(rows)
    gaps = []
    for chosen in itertools.combinations(range(9), 4):
        rest = [row for row in range(9) if row not in chosen]
        gaps.append(float((rows[list(chosen)].mean() - rows[rest].mean()) ** 2))
    expected = np.mean([gap >= gaps[0] - 1e-12 for gap in gaps])
    found = mmd_test(kernel, 4, permutations=2000, seed=0, unbiased=False)
    assert found.p_value == pytest.approx(expected, abs=0.045)
    assert found.null95 == pytest.approx(np.quantile(gaps, 0.95), rel=0.2)


def test_p_values_are_uniform_without_a_shift():
    """60 p-values of the same distribution: Kolmogorov-Smirnov would reject in 1 of 1,000 draws."""
    kernels = [rbf_kernel(draw(40, 4, seed=seed)) for seed in range(60)]
    found = [mmd_test(kernel, 15, permutations=99, seed=seed).p_value for seed, kernel in enumerate(kernels)]
    assert stats.kstest(found, "uniform").pvalue > 0.001
    assert mmd_test(rbf_kernel(torch.cat([draw(30, 4), draw(30, 4, seed=1) + 1])), 30, permutations=99, seed=0).p_value == 0.01


def test_equal_sets_are_no_shift():
    rows = draw(20, 3)
    assert mmd_test(rbf_kernel(torch.cat([rows, rows])), 20, permutations=99, seed=0).p_value > 0.9
    assert mmd_test(rbf_kernel(torch.ones(10, 2)), 5, permutations=9, seed=0).p_value == 1


def test_area_against_scikit_learn_and_its_variance_against_loops():
    one, other = draw(17).round(decimals=1) + 0.5, draw(23, seed=1).round(decimals=1)
    area, variance = auc_with_variance(one, other)
    assert area == pytest.approx(roc_auc_score([1] * 17 + [0] * 23, torch.cat([one, other])), abs=1e-13)
    wins = np.array([[float(x > y) + 0.5 * float(x == y) for y in other] for x in one])
    expected = wins.mean(axis=1).var(ddof=1) / 17 + wins.mean(axis=0).var(ddof=1) / 23
    assert variance == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("freedom", [1, 5, 40, 10_000])
def test_the_tail_of_chi_squared_draws_is_that_of_scipy(freedom):
    draws = torch.from_numpy(np.random.default_rng(0).chisquare(freedom, 20_000))
    for probability in (1e-3, 1e-5):
        value = stats.chi2.isf(probability, freedom)
        # The skewness of 20,000 draws is off by a few per cent, which five standard deviations out is a factor.
        assert 0.4 < tail_probability(draws, value) / probability < 2.5
    assert tail_probability(draws, float(draws.mean()) - 100 * float(draws.std())) == 1


def test_a_fitted_tail_agrees_with_many_divisions_and_passes_their_share():
    rows = torch.from_numpy(np.random.default_rng(1).normal(size=(60, 8)))
    rows[:30, 0] += 1.1
    kernel = linear_kernel(rows)
    exact = mmd_test(kernel, 30, permutations=100_000, seed=0, unbiased=False).p_value
    share = mmd_test(kernel, 30, permutations=499, seed=1, unbiased=False).p_value
    fitted = mmd_test(kernel, 30, permutations=499, seed=1, unbiased=False, tail=True).p_value
    assert share == 1 / 500
    assert exact < fitted < share  # a little high is safe
    rows[:30, 0] += 100
    assert mmd_test(linear_kernel(rows), 30, permutations=499, seed=1, unbiased=False, tail=True).p_value == 1 / 49_900
