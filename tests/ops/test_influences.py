"""Influences equal the derivative, with respect to the rows' weights, of a mean silhouette written in loops."""

import pytest
import torch

from embedscope.ops.blocks import limits
from embedscope.ops.class_distances import class_distances
from embedscope.ops.influences import silhouette_influences
from embedscope.ops.minima import MinimumForm, minimum
from embedscope.ops.silhouettes import hard_silhouette, soft_silhouette

ROWS = 32


@pytest.fixture
def sample():
    """(32, 5) float64 rows with duplicates and a zero row, (32,) labels with gaps and a class of one row."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (ROWS,), generator=generator)
    labels[0] = 9
    features = torch.randn(ROWS, 5, generator=generator, dtype=torch.float64)
    features += 2 * torch.eye(5, dtype=torch.float64)[labels.clamp(max=4)]
    features[3] = features[4]
    features[7] = 0
    return features, labels


def hard(own, others, alone):
    return hard_silhouette(own, others.amin(dim=0), alone)


def soft(own, others, alone):
    return soft_silhouette(own, minimum(others, MinimumForm("lse", 0.3)), alone, tau=0.2)


def between(features, distance, normalize):
    """(N, N) distances."""
    if normalize or distance == "cosine":
        features = torch.nn.functional.normalize(features, dim=1)
    gaps = features[:, None] - features[None]
    if distance == "euclidean":
        return gaps.norm(dim=2)
    return gaps.square().sum(dim=2) if distance == "sqeuclidean" else (1 - features @ features.T).fill_diagonal_(0)


def weighted_mean(weights, features, labels, silhouette, distance, normalize):
    """The mean silhouette of rows that count as often as their weights say."""
    table = between(features, distance, normalize)
    values = []
    for i in range(ROWS):
        own = (labels == labels[i]) & (torch.arange(ROWS) != i)
        a = (weights[own] * table[i, own]).sum() / weights[own].sum() if own.any() else table.new_zeros(())
        d = [
            (weights[labels == c] * table[i, labels == c]).sum() / weights[labels == c].sum()
            if c != labels[i]
            else table.new_tensor(torch.inf)
            for c in labels.unique()
        ]
        values.append(silhouette(a[None], torch.stack(d)[:, None], torch.tensor([not own.any()]))[0])
    return (weights * torch.stack(values)).sum() / weights.sum()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("distance", ["euclidean", "sqeuclidean", "cosine"])
@pytest.mark.parametrize("silhouette", [hard, soft])
def test_equals_the_derivative_by_weights(sample, silhouette, distance, normalize):
    weights = torch.ones(ROWS, dtype=torch.float64, requires_grad=True)
    value = weighted_mean(weights, *sample, silhouette, distance, normalize)
    (expected,) = torch.autograd.grad(value, weights)
    found = silhouette_influences(*sample, silhouette, distance=distance, normalize=normalize)
    # A Euclidean distance of 0 is the root of rounding, 1e-8, in a product.
    torch.testing.assert_close(found, ROWS * expected, atol=1e-7, rtol=0)
    assert float(found.sum()) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_nearest_class_alone_gives_the_same(sample, normalize):
    everything = silhouette_influences(*sample, hard, normalize=normalize)
    found = class_distances(*sample, normalize=normalize)
    some = silhouette_influences(*sample, hard, normalize=normalize, hard=found)
    torch.testing.assert_close(some, everything, atol=1e-7, rtol=0)


def test_little_memory_changes_nothing(sample):
    whole = silhouette_influences(*sample, soft)
    with limits(memory=8000):
        cut = silhouette_influences(*sample, soft)
    torch.testing.assert_close(cut, whole, atol=1e-12, rtol=0)


def test_float32_far_from_the_origin(sample):
    features, labels = sample
    found = silhouette_influences((features + 1000).float(), labels, hard)
    torch.testing.assert_close(found, silhouette_influences(features, labels, hard), atol=5e-3, rtol=0)
