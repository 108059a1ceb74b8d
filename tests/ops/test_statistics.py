import numpy as np
import pytest
import torch
from scipy import stats

from embedscope.errors import UsageError
from embedscope.ops.statistics import (
    half_sample_bias,
    mean_with_error,
    random_groups,
    stratified_mean,
    stratified_sample,
)


def labels_of(*counts):
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


@pytest.mark.parametrize("size", [4, 5, 17, 60, 99, 100, 150])
def test_stratified_sample_keeps_shares_and_every_class(size):
    labels = labels_of(60, 29, 10, 1)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    found = stratified_sample(labels, size, seed=1)
    assert len(found) == min(size, 100)
    assert found.tolist() == sorted(set(found.tolist()))
    counts = torch.bincount(labels[found], minlength=4)
    assert counts.min() >= 1
    np.testing.assert_allclose(counts, np.array([60, 29, 10, 1]) * min(size, 100) / 100, atol=2)


def test_stratified_sample_is_seeded():
    labels = labels_of(50, 50)
    assert torch.equal(stratified_sample(labels, 10, 3), stratified_sample(labels, 10, 3))
    assert not torch.equal(stratified_sample(labels, 10, 3), stratified_sample(labels, 10, 4))


def test_sample_smaller_than_the_classes():
    with pytest.raises(UsageError, match="a sample of 3 rows is too small for 4 classes"):
        stratified_sample(labels_of(2, 2, 2, 2), 3, 0)


def test_stratified_mean_is_unbiased_and_covers():
    """Over many samples of one population: the mean of the estimates is the truth, and 95 % of the intervals hold it."""
    generator = torch.Generator().manual_seed(0)
    labels = labels_of(300, 150, 50)
    values = torch.randn(500, generator=generator, dtype=torch.float64) + labels * 2
    truth = float(values.mean())
    found = []
    for seed in range(400):
        drawn = stratified_sample(labels, 60, seed)
        mean, (low, high) = stratified_mean(values[drawn], labels[drawn], labels)
        found.append((mean, low, high))
    estimates, lows, highs = map(np.array, zip(*found, strict=True))
    assert estimates.mean() == pytest.approx(truth, abs=4 * estimates.std() / 20)
    assert 0.91 < np.mean((lows <= truth) & (truth <= highs)) < 0.98


def test_stratified_mean_of_everything_is_exact():
    labels = labels_of(5, 3)
    values = torch.arange(8, dtype=torch.float64)
    assert stratified_mean(values, labels, labels) == (3.5, (3.5, 3.5))
    labels = labels_of(4, 3)  # shares that are not sums of powers of two
    assert stratified_mean(values[:7], labels, labels)[0] == pytest.approx(3, abs=1e-14)


def test_stratified_mean_of_one_sample_a_class_has_no_interval():
    labels = labels_of(5, 3)
    drawn = torch.tensor([1, 6])
    assert stratified_mean(torch.tensor([1.0, 2.0]).double(), labels[drawn], labels) == (1.375, None)


def test_mean_with_error_equals_scipy():
    values = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = mean_with_error(values)
    expected = stats.ttest_1samp(values.numpy(), 0).confidence_interval(0.95)
    np.testing.assert_allclose(found.interval, expected, rtol=1e-12)


def test_groups_of_fixed_size_count_their_own_spread_only():
    values = torch.tensor([1.0, 2.0, 3.0, 11.0, 12.0, 13.0, 14.0], dtype=torch.float64)
    groups = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    within = (3 * values[:3].var() / 7 + 4 * values[3:].var() / 7) / 7  # of a mean over strata with fixed numbers
    assert mean_with_error(values, groups).error == pytest.approx(float(within.sqrt()), rel=1e-12)
    assert mean_with_error(values, groups).error < mean_with_error(values).error


def test_one_value_has_no_error():
    assert mean_with_error(torch.tensor([2.0])).interval is None


def test_groups_are_of_one_size():
    labels = labels_of(30, 10, 7)
    for stratified in (False, True):
        groups = random_groups(labels, 10, 0, stratified=stratified)
        assert torch.bincount(groups).tolist() == [5] * 7 + [4] * 3
    assert torch.bincount(groups[:30]).tolist() == [3] * 10


def test_bias_of_a_maximum_is_seen_in_halves():
    # The expected maximum of n uniform numbers is n / (n + 1): the bias of 40 is -1/41.
    def bias(seed):
        values = torch.rand(40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return half_sample_bias(float(values.max()), lambda kept: float(values[kept].max()), torch.zeros(40))

    assert np.mean([bias(seed) for seed in range(200)]) == pytest.approx(-1 / 41 * 1.25, rel=0.15)


def test_bias_of_a_mean_is_none():
    values = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert half_sample_bias(float(values.mean()), lambda kept: float(values[kept].mean()), torch.zeros(40)) == pytest.approx(0)
