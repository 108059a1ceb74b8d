import pytest
from scipy import stats

from embedscope.ops.statistics import mean_and_std, paired_difference


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
