import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from embedscope.errors import UndefinedError, UsageError
from embedscope.metrics.explained_variance import explained_variance, explained_variance_curve
from tests.oracles import metrics as oracles


@pytest.mark.parametrize(("rows", "width"), [(50, 8), (8, 50), (20, 20), (2, 3), (30, 1)])
def test_equals_singular_values(rows, width):
    # Both sides of the choice between covariance and Gram matrix.
    features = np.random.default_rng(rows).normal(size=(rows, width)) * np.arange(1, width + 1)
    found = explained_variance_curve(torch.from_numpy(features))
    assert len(found) == min(rows, width)
    np.testing.assert_allclose(found, oracles.explained_variance(features), atol=1e-10, rtol=0)


def test_digits_equal_sklearn(digits):
    expected = np.cumsum(PCA().fit(digits[0].numpy()).explained_variance_ratio_)
    np.testing.assert_allclose(explained_variance_curve(digits[0]), expected, atol=1e-10, rtol=0)
    assert float(explained_variance(digits[0])) == int(np.argmax(expected >= 0.95)) + 1


def test_offset_costs_no_digits():
    features = torch.randn(200, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = explained_variance_curve(features + 1e6)
    torch.testing.assert_close(found, explained_variance_curve(features), atol=1e-9, rtol=0)


def test_threshold_is_met_exactly():
    # Four orthogonal directions of equal variance: each holds a quarter.
    features = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    assert [float(explained_variance(features, threshold=share)) for share in (0.25, 0.26, 0.5, 1.0)] == [1, 2, 2, 4]


@pytest.mark.parametrize("threshold", [0, 1.1, "most", True])
def test_threshold_is_a_share(threshold):
    with pytest.raises(UsageError, match="threshold must be a number above 0 and at most 1"):
        explained_variance(torch.randn(5, 2), threshold=threshold)


def test_equal_rows_are_undefined():
    for value in (1.0, 0.1, 1e6 / 3):  # the mean of the latter two is rounded
        with pytest.raises(UndefinedError, match="all rows are equal"):
            explained_variance(torch.full((5, 2), value, dtype=torch.float64))


def test_features_beyond_squaring_are_undefined():
    features = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e200
    with pytest.raises(UndefinedError, match="features are too large: their squares overflow"):
        explained_variance(features)


def test_components_for_several_shares(digits):
    curve = explained_variance_curve(digits[0])
    assert explained_variance(digits[0], digits[1]).arrays["components"] == {
        str(share): int((curve < share).sum()) + 1 for share in (0.9, 0.95, 0.99)
    }
