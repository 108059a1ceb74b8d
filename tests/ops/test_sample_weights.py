import math

import pytest
import torch

from embedscope.errors import InputError, UsageError
from embedscope.ops.sample_weights import weights


@pytest.mark.parametrize(("eta", "gamma"), [(1.0, 5.0), (0.0, 2.0), (0.3, 0.0)])
def test_equals_the_formula(eta, gamma):
    likelihood = [0.0, 0.02, 0.5, 0.9, 1.0]
    expected = [(eta + (1 - p) ** gamma) / (eta + 1) for p in likelihood]
    assert weights(torch.tensor(likelihood, dtype=torch.float64), eta, gamma).tolist() == pytest.approx(expected, abs=1e-15)


def test_defaults_halve_a_certain_sample():
    assert weights(torch.tensor([0.0, 1.0])).tolist() == [1.0, 0.5]


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_likelihoods_are_shares(value):
    with pytest.raises(InputError, match="from 0 to 1"):
        weights(torch.tensor([0.5, value]))


@pytest.mark.parametrize("options", [{"eta": -1}, {"gamma": -0.5}])
def test_options_are_not_negative(options):
    with pytest.raises(UsageError, match="must be a number from 0"):
        weights(torch.tensor([0.5]), **options)
