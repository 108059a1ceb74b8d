"""Gini and class-histogram KL, which read the same class shares."""

import math

import numpy as np
import pytest
import torch

from embedscope.errors import UndefinedError, UsageError
from embedscope.evaluation import evaluate
from embedscope.metrics.class_kl import class_kl
from embedscope.metrics.gini import gini, gini_channels
from embedscope.ops.blocks import limits
from tests.oracles import metrics as oracles


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(40, 9, generator=generator, dtype=torch.float64)
    features[:, 2] = 0  # dead
    features[:, 5] *= 1e-12
    labels = torch.tensor([5, 0, 0, 2] * 9 + [2, 2, 2, 11])
    return features, labels


def test_gini_equals_naive_loops(sample):
    np.testing.assert_allclose(gini_channels(*sample), oracles.gini(*sample), atol=1e-10, rtol=0)
    assert float(gini(*sample)) == pytest.approx(oracles.gini(*sample).mean(), abs=1e-10)


@pytest.mark.parametrize("direction", ["target_to_feature", "feature_to_target"])
def test_class_kl_equals_naive_loops(sample, direction):
    found = class_kl(*sample, direction=direction)
    assert float(found) == pytest.approx(oracles.class_kl(*sample, direction), abs=1e-10)


def test_dead_channels_are_one_or_left_out(sample):
    assert gini_channels(*sample)[2] == 1
    assert len(gini_channels(*sample, dead="ignore")) == 8
    found = gini(*sample)
    assert found.arrays["dead_channels"] == 1
    assert found.note == "1 of 9 channels is dead, counted as impurity 1"


def test_a_channel_a_class_is_pure():
    features = torch.eye(4, dtype=torch.float64).repeat(3, 1)
    labels = torch.arange(4).repeat(3)
    assert float(gini(features, labels)) == 0
    assert float(class_kl(features, labels)) == pytest.approx(0, abs=1e-9)


def test_even_channels_are_most_impure():
    assert float(gini(torch.ones(12, 5), torch.arange(12) % 4)) == pytest.approx(1 - 1 / 4)


def test_relu_class_that_is_silent_stays_finite():
    features = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    found = class_kl(features, labels, activation="relu")
    assert found.value == pytest.approx(0.5 * math.log(0.5) + 0.5 * math.log(0.5 / 1e-10), rel=1e-9)
    assert found.note == "1 of 2 classes activates no channel"


def test_owned_channels_are_those_that_answer_most(sample):
    features, labels = sample
    owned = gini(features, labels).by_class["owned_channels"]
    classes = sorted(set(labels.tolist()))
    means = np.array([[features[labels == c, i].abs().mean() for c in classes] for i in range(9)])
    alive = means.sum(axis=1) > 0
    expected = np.bincount(means[alive].argmax(axis=1), minlength=len(classes)).tolist()
    assert list(owned) == classes
    assert list(owned.values()) == expected
    assert sum(owned.values()) == 8


def test_both_directions_are_reported(sample):
    for direction, value in class_kl(*sample).arrays["directions"].items():
        assert value == pytest.approx(oracles.class_kl(*sample, direction), abs=1e-10)


def test_histograms_are_by_label(sample):
    found = class_kl(*sample).by_class
    assert list(found["label_histogram"]) == [0, 2, 5, 11]
    assert found["label_histogram"][11] == pytest.approx(1 / 40)
    assert sum(found["feature_histogram"].values()) == pytest.approx(1, abs=1e-9)


def test_blocks_do_not_change_the_result(sample):
    whole = gini_channels(*sample)
    with limits(memory=2400):
        torch.testing.assert_close(gini_channels(*sample), whole, atol=1e-14, rtol=0)


def test_all_dead_is_undefined_without_them():
    with pytest.raises(UndefinedError, match="all 3 channels are dead"):
        gini(torch.zeros(4, 3), torch.tensor([0, 0, 1, 1]), dead="ignore")


@pytest.mark.parametrize("activation", ["abs", "relu"])
def test_class_kl_of_dead_channels_is_undefined(activation):
    features = torch.zeros(4, 3) if activation == "abs" else -torch.ones(4, 3)
    with pytest.raises(UndefinedError, match="all 3 channels are dead"):
        class_kl(features, torch.tensor([0, 0, 1, 1]), activation=activation)


def test_raw_activations_may_not_be_negative(sample):
    with pytest.raises(UndefinedError, match="needs nonnegative features"):
        gini(*sample, activation="none")


def test_unknown_activation(sample):
    with pytest.raises(UsageError, match="no activation 'rely'; did you mean 'relu'"):
        class_kl(*sample, activation="rely")


def test_unknown_direction(sample):
    with pytest.raises(UsageError, match="no direction 'both'"):
        class_kl(*sample, direction="both")


def test_class_kl_of_one_row_has_no_interval():
    found = evaluate((torch.tensor([[1.0, 2.0]]), torch.tensor([0])), "class_kl", ci=True).metrics["class_kl"]
    assert (found.value, found.ci95) == (0.0, None)
