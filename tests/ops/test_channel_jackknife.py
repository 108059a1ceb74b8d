"""Leaving out each row in closed form equals measuring again without it."""

import pytest
import torch

from embedscope.metrics.class_kl import class_kl
from embedscope.metrics.gini import gini
from embedscope.ops.channel_jackknife import divergence_without_each, gini_without_each, pseudo_values
from embedscope.ops.class_moments import present_classes


@pytest.fixture
def sample():
    """(40, 7) rows: a dead channel, one that a single row activates, one class of a single row."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (40,), generator=generator)
    labels[0] = 9
    features[:, 2:4] = 0
    features[5, 3] = 1
    return features, labels


def again(metric, features, labels, **options):
    kept = [torch.arange(40) != row for row in range(40)]
    return torch.tensor([float(metric(features[each], labels[each], **options)) for each in kept], dtype=torch.float64)


@pytest.mark.parametrize("dead", ["keep", "ignore"])
def test_gini(sample, dead):
    found = gini_without_each(gini(*sample, dead=dead).state, sample[0], dead=dead)
    torch.testing.assert_close(found, again(gini, *sample, dead=dead), atol=1e-14, rtol=0)


@pytest.mark.parametrize("direction", ["target_to_feature", "feature_to_target"])
def test_class_kl(sample, direction):
    found = divergence_without_each(class_kl(*sample).state, sample[0], direction=direction, fixed=False)
    torch.testing.assert_close(found, again(class_kl, *sample, direction=direction), atol=1e-14, rtol=0)


def test_class_kl_with_fixed_numbers_keeps_the_histogram_of_the_labels(sample):
    features, labels = sample
    found = divergence_without_each(class_kl(*sample).state, features, direction="target_to_feature", fixed=True)
    label = present_classes(labels).counts.double() / 40
    kept = torch.arange(40) != 17
    feature = torch.tensor(
        list(class_kl(features[kept], labels[kept]).by_class["feature_histogram"].values()), dtype=torch.float64
    )
    assert float(found[17]) == pytest.approx(float((label * (label / feature).log()).sum()), abs=1e-12)


def test_pseudo_values_of_a_mean_are_the_values():
    values = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
    without = (values.sum() - values) / 2
    torch.testing.assert_close(pseudo_values(float(values.mean()), without), values)
