import numpy as np
import pytest
from scipy import stats

from benchmarks import verdict
from embedscope.ops.paired import (
    bootstrap_of_rows,
    holm,
    mean_and_std,
    mean_interval,
    paired_difference,
    pairs_needed,
    power,
    signed_rank_p,
    split_means,
)


def test_paired_difference_equals_scipy():
    values, reference = [0.5, 0.7, 0.6, 0.9], [0.4, 0.65, 0.61, 0.7]
    found = paired_difference(values, reference)
    expected = stats.ttest_rel(values, reference)
    assert found.difference == pytest.approx(0.085)
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-14)
    assert found.ci95 == pytest.approx(tuple(expected.confidence_interval(0.95)), abs=1e-14)


@pytest.mark.parametrize(("values", "reference"), [([0.5], [0.4]), ([0.5, 0.6], [0.5, 0.6])])
def test_nothing_to_estimate_from(values, reference):
    found = paired_difference(values, reference)
    assert found.ci95 is None
    assert found.p_value is None


def test_mean_and_std():
    assert mean_and_std([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert mean_and_std([1.0]) == (1.0, None)


def test_signed_rank_p_equals_scipy():
    values, reference = [0.5, 0.6, 0.72, 0.61, 0.7], [0.4, 0.55, 0.6, 0.63, 0.5]
    assert signed_rank_p(values, reference) == pytest.approx(stats.wilcoxon(values, reference).pvalue, abs=1e-12)
    assert signed_rank_p([1.0, 2.0], [1.0, 2.0]) is None
    assert signed_rank_p([1.0], [2.0]) is None


def test_all_that_five_trials_can_show_by_ranks():
    assert signed_rank_p([1.0, 2.1, 3.2, 4.3, 5.5], [0.0] * 5) == pytest.approx(2 / 2**5)


@pytest.mark.parametrize("p_values", [[0.01], [0.03, 0.01, 0.02], [0.5, 0.9, 0.9], [0.04, 0.04, 0.001, 0.2]])
def test_holm_by_its_definition(p_values):
    expected = []
    for p in p_values:
        smaller = sorted(q for q in p_values if q <= p)
        steps = [min(1.0, q * (len(p_values) - sorted(p_values).index(q))) for q in smaller]
        expected.append(max(steps))
    assert holm(p_values) == pytest.approx(expected)


def test_holm_of_nothing():
    assert holm([]) == []


def resampled_t(gaps, test_rows, other_rows):
    """The corrected resampled t test as in the paper, by loops: statistic and two-sided p-value."""
    count = len(gaps)
    mean = sum(gaps) / count
    variance = sum((gap - mean) ** 2 for gap in gaps) / (count - 1)
    statistic = mean / ((1 / count + test_rows / other_rows) * variance) ** 0.5
    return statistic, 2 * stats.t.sf(abs(statistic), count - 1)


def test_corrected_resampled_t_by_its_definition():
    values, reference = [0.5, 0.7, 0.6, 0.9, 0.4], [0.4, 0.65, 0.61, 0.7, 0.45]
    gaps = [a - b for a, b in zip(values, reference, strict=True)]
    statistic, expected = resampled_t(gaps, 25, 75)
    found = paired_difference(values, reference, ratio=25 / 75)
    assert found.p_value == pytest.approx(expected, abs=1e-14)
    reach = stats.t.ppf(0.975, 4) * found.difference / statistic
    assert found.ci95 == pytest.approx((found.difference - reach, found.difference + reach), abs=1e-14)
    assert mean_interval(gaps, 25 / 75) == pytest.approx(found.ci95)


@pytest.mark.parametrize("comparisons", [1, 4])
def test_simultaneous_interval_is_that_of_a_share_of_the_level(comparisons):
    gaps = np.random.default_rng(0).normal(0.1, 0.1, size=6)
    found = paired_difference(gaps, [0.0] * 6, comparisons=comparisons)
    expected = stats.ttest_1samp(gaps, 0.0).confidence_interval(1 - 0.05 / comparisons)
    assert found.simultaneous == pytest.approx(tuple(expected), abs=1e-14)


def test_interval_and_corrected_p_value_say_the_same():
    generator, called = np.random.default_rng(0), 0
    for _ in range(300):
        found = paired_difference(generator.normal(1.2, 1, size=5), np.zeros(5), comparisons=3, ratio=0.1)
        low, high = found.simultaneous
        assert (not low <= 0 <= high) == (found.p_corrected < 0.05)
        called += found.p_corrected < 0.05
    assert 30 < called < 270


def test_split_means_keep_the_trials_of_one_split():
    assert split_means([1.0, 2.0, 3.0, 6.0], 1) == [1.0, 2.0, 3.0, 6.0]
    assert split_means([1.0, 2.0, 3.0, 6.0], 2) == [1.5, 4.5]


def test_power_is_the_share_of_draws_that_show_it():
    generator = np.random.default_rng(0)
    gaps = generator.normal(1.5, 1, size=(4000, 6))
    shown = stats.ttest_1samp(gaps, 0.0, axis=1).pvalue < 0.05 / 2
    expected = power(1.5, 6, comparisons=2)
    assert shown.mean() == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 4000) ** 0.5)
    assert power(1e6, 5) == 1.0


@pytest.mark.parametrize(("effect", "ratio"), [(0.5, 0.0), (-0.5, 0.0), (1.1, 0.0), (2.0, 1 / 3)])
def test_pairs_needed_are_the_fewest(effect, ratio):
    found = pairs_needed(effect, least=5, comparisons=3, ratio=ratio)
    assert power(effect, found, comparisons=3, ratio=ratio) >= 0.8
    assert power(effect, found - 1, comparisons=3, ratio=ratio) < 0.8


def test_pairs_needed_is_at_least_what_a_verdict_takes():
    assert pairs_needed(100.0, least=5) == 5
    assert pairs_needed(0.001, least=5) is None
    assert pairs_needed(1.0, least=5, ratio=1 / 3) is None  # more splits of the same rows do not help


def naive_macro_f1(labels, predicted):
    found = []
    for code in sorted({*labels, *predicted}):
        hits = sum(a == b == code for a, b in zip(labels, predicted, strict=True))
        found.append(2 * hits / (labels.count(code) + predicted.count(code)))
    return sum(found) / len(found)


def test_bootstrap_of_rows_against_a_loop():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, size=40)
    good, poor = (
        np.where(generator.random((2, 40)) < share, labels, generator.integers(0, 3, size=(2, 40))) for share in (0.8, 0.5)
    )
    found = bootstrap_of_rows(labels, good, poor)
    gaps = {"accuracy": [], "macro_f1": []}
    for rows in generator.integers(0, 40, size=(600, 40)):
        drawn = labels[rows].tolist()
        for name, measure in (("accuracy", lambda a, b: np.mean(np.equal(a, b))), ("macro_f1", naive_macro_f1)):
            trials = [
                measure(drawn, z[rows].tolist()) - measure(drawn, w[rows].tolist()) for z, w in zip(good, poor, strict=True)
            ]
            gaps[name].append(np.mean(trials))
    for name, values in gaps.items():
        assert found[name] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.04), name  # of a width of 0.3


def test_bootstrap_of_equal_predictions_is_nothing():
    labels = np.array([0, 1, 2, 1])
    assert bootstrap_of_rows(labels, labels[None], labels[None]) == {"accuracy": (0.0, 0.0), "macro_f1": (0.0, 0.0)}


@pytest.mark.parametrize("others", [1, 4])
def test_calls_are_wrong_and_intervals_hold_as_often_as_they_say(others):
    draws = 400
    found = verdict.simulate(5, others, effects=[0.0] * others, draws=draws, seed=1)
    error = (0.05 * 0.95 / draws) ** 0.5
    assert found.any_false < 0.05 + 3 * error
    assert found.covered > 0.95 - 3 * error
    assert verdict.simulate(5, others, effects=[2.0] + [0.0] * (others - 1), draws=draws, seed=2).covered > 0.95 - 3 * error


def test_one_primary_metric_shows_more_than_the_correction_for_all_metrics():
    found = verdict.simulate(5, 1, effects=[2.0], draws=300, seed=3)
    assert found.power > 0.84  # 0.91 less 4 standard errors
    assert found.power_before < 0.5


def test_too_few_trials_are_never_called():
    assert verdict.simulate(3, 4, effects=[5.0] * 4, draws=50, seed=4).power == 0.0


def test_splits_that_share_rows_keep_the_level():
    found, draws = verdict.simulate_splits(5, 1, ratio=1 / 3, draws=600, seed=5), 600
    assert found.any_false < 0.05 + 3 * (0.05 * 0.95 / draws) ** 0.5
    assert found.uncorrected > 0.1
