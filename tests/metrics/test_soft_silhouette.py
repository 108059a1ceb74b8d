import math

import numpy as np
import pytest
import torch

from embedscope.errors import UsageError
from embedscope.metrics.silhouette import silhouette_samples
from embedscope.metrics.soft_silhouette import soft_silhouette, soft_silhouette_samples
from tests.oracles import metrics as oracles


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    features[3] = features[9]
    labels = torch.tensor([0, 1, 2, 3, 4] * 5 + [7, 8, 8, 9, 9])
    return features, labels


@pytest.mark.parametrize("softmin", ["lse", "lme", "weighted", "hard"])
@pytest.mark.parametrize("distance", ["euclidean", "sqeuclidean", "cosine"])
@pytest.mark.parametrize(("tau_s", "tau_m", "normalize"), [(0.1, 0.1, True), (0.5, 0.2, True), (1.0, 0.7, False)])
def test_equals_naive_loops(sample, softmin, distance, tau_s, tau_m, normalize):
    options = {"tau_s": tau_s, "tau_m": tau_m, "softmin": softmin, "distance": distance, "normalize": normalize}
    found = soft_silhouette_samples(*sample, **options)
    np.testing.assert_allclose(found, oracles.soft_silhouette(*sample, **options), atol=1e-10, rtol=1e-10)


def test_cold_temperatures_give_the_hard_silhouette(sample):
    features, labels = sample
    found = soft_silhouette_samples(features, labels, tau_s=1e-4, tau_m=1e-4, normalize=False)
    # Off by at most tau_s ln K' in b, and tau_m ln 2 below, over distances of about 2.
    torch.testing.assert_close(found, silhouette_samples(features, labels), atol=5e-4, rtol=0)


def test_two_classes_have_one_soft_minimum(sample):
    features, labels = sample[0], sample[1] % 2
    results = [soft_silhouette_samples(features, labels, softmin=form) for form in ("lse", "lme", "weighted", "hard")]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("others", [2, 9, 99])
def test_collapsed_features(others):
    labels = torch.arange(others + 1).repeat(2)
    found = soft_silhouette(torch.ones(len(labels), 3), labels)
    assert float(found) == pytest.approx(-math.log(others) / math.log1p(1 / others), rel=1e-12)


def test_note_counts_samples_with_a_negative_soft_minimum(sample):
    assert soft_silhouette(sample[0], sample[1], tau_s=1.0).note.startswith("b(i) < 0 for 100.0% of the samples")
    assert soft_silhouette(sample[0], sample[1], softmin="lme").note is None


@pytest.mark.parametrize("softmin", ["lme", "weighted", "hard"])
def test_other_minima_stay_within_one(sample, softmin):
    found = soft_silhouette_samples(*sample, tau_s=2.0, softmin=softmin)
    assert found.abs().max() < 1


@pytest.mark.parametrize(
    ("option", "value", "got"),
    [("tau_s", 0.0, "0.0"), ("tau_m", -1.0, "-1.0"), ("tau_s", "warm", "'warm'"), ("tau_m", math.inf, "inf")],
)
def test_temperatures_are_positive(sample, option, value, got):
    with pytest.raises(UsageError, match=f"^{option} must be a number above 0, got {got}$"):
        soft_silhouette(*sample, **{option: value})


def test_unknown_soft_minimum(sample):
    with pytest.raises(UsageError, match="no softmin 'lsee'; did you mean 'lse'"):
        soft_silhouette(*sample, softmin="lsee")
