"""The metrics that are read from one spectrum."""

import numpy as np
import pytest
import torch

from embedscope import plugins
from embedscope.errors import UndefinedError
from embedscope.metrics.power_law_alpha import power_law_alpha
from embedscope.ops.blocks import limits
from embedscope.ops.gathering import gathered
from embedscope.ops.spectrum import covariance
from tests.oracles import metrics as oracles

NAMES = ["effective_rank", "rankme", "participation_ratio", "stable_rank", "power_law_alpha"]


def measured(name, features):
    return float(plugins.load("metrics", name)(features, torch.zeros(len(features), dtype=torch.int64)))


@pytest.mark.parametrize("shape", [(60, 7), (7, 60), (20, 20), (2, 5)])
@pytest.mark.parametrize("name", NAMES)
def test_equals_singular_values(name, shape):
    if name == "power_law_alpha" and shape == (2, 5):
        pytest.skip("two rows have one eigenvalue, and so no slope")
    generator = np.random.default_rng(shape[0])
    features = generator.normal(size=shape) * np.arange(1, shape[1] + 1) + 3
    # Square roots of eigenvalues of a product: half of the digits of the smallest.
    assert measured(name, torch.from_numpy(features)) == pytest.approx(getattr(oracles, name)(features), rel=1e-7)


@pytest.mark.parametrize("name", ["effective_rank", "participation_ratio", "stable_rank"])
def test_counts_directions_that_are_used_alike(name):
    features = torch.cat([torch.eye(6), -torch.eye(6)]).double()[:, :4]
    features = features[features.abs().sum(dim=1) > 0]
    assert measured(name, features @ torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0] + 5) == pytest.approx(4)


def test_power_law_of_a_sample_is_that_of_the_population():
    """Over all ranks the slope would measure N / D: 2.0 here."""
    scale = torch.arange(1, 257, dtype=torch.float64) ** -0.5
    features = torch.randn(2570, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * scale
    found = power_law_alpha(features, torch.zeros(2570))
    assert float(found) == pytest.approx(1, abs=0.08)
    assert found.note is None
    assert "fewer than 10 per dimension" in power_law_alpha(features[:2000], torch.zeros(2000)).note


def test_noise_follows_no_power_law():
    features = torch.randn(2570, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(power_law_alpha(features, torch.zeros(2570))) < 0.3


def test_power_law_is_recovered():
    scale = torch.arange(1, 31, dtype=torch.float64) ** -0.75  # standard deviations: eigenvalues fall as rank^-1.5
    axes = torch.cat([torch.diag(scale), -torch.diag(scale)])
    assert measured("power_law_alpha", axes) == pytest.approx(1.5, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_equal_rows_are_undefined(name):
    features = torch.zeros(5, 3) if name == "rankme" else torch.full((5, 3), 0.1)
    with pytest.raises(UndefinedError):
        measured(name, features)


@pytest.mark.parametrize("shape", [(500, 12), (12, 500)])
def test_blocks_do_not_change_the_eigenvalues(shape):
    features = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 100
    whole = gathered(covariance, features, None)
    with limits(memory=8 * 8 * 12 * 7):
        cut = gathered(covariance, features, None)
    torch.testing.assert_close(cut.eigenvalues(), whole.eigenvalues(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(cut.second_moment_eigenvalues(), whole.second_moment_eigenvalues(), rtol=1e-10, atol=1e-8)
