"""Influences on the mean silhouette of a class against derivatives by the weights of rows."""

import pytest
import torch

from embedscope.metrics.silhouette import silhouette
from embedscope.ops.class_influences import class_influences
from embedscope.ops.class_moments import present_classes
from embedscope.ops.influences import silhouette_influences


def gap(x, y, distance):
    if distance == "cosine":
        return 1 - float(x @ y) / float(x.norm() * y.norm())
    return float((x - y).norm()) ** (2 if distance == "sqeuclidean" else 1)


def weighted_mean(rows, labels, label, weights, distance):
    """The mean silhouette of a class where row j counts weights[j] times, as loops over all pairs have it."""
    total, mass = 0, 0
    for i in range(len(rows)):
        if labels[i] != label:
            continue
        means = {}
        for other in labels.unique().tolist():
            js = [j for j in range(len(rows)) if labels[j] == other and j != i]
            if js:
                means[other] = sum(weights[j] * gap(rows[i], rows[j], distance) for j in js) / sum(weights[j] for j in js)
        a, b = means.pop(label, None), min(means.values())
        s = 0 * weights[i] if a is None else (b - a) / (a if a > b else b)
        total, mass = total + weights[i] * s, mass + weights[i]
    return total / mass


@pytest.mark.parametrize("distance", ["euclidean", "sqeuclidean", "cosine"])
def test_influences_are_derivatives_by_weights(distance):
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 7 + [2] * 5 + [5] * 6 + [9])
    rows = torch.randn(19, 3, dtype=torch.float64, generator=generator)
    rows[labels == 2] += 1
    found = silhouette(rows, labels, distance=distance)
    classes = present_classes(labels)
    for place, label in enumerate(classes.labels.tolist()):
        weights = torch.ones(19, dtype=torch.float64, requires_grad=True)
        mean = weighted_mean(rows, labels, label, weights, distance)
        (expected,) = torch.autograd.grad(mean, weights)
        influences = class_influences(rows, classes, found.state, place, distance=distance)
        torch.testing.assert_close(influences, expected, atol=1e-12, rtol=0)


def test_those_of_all_classes_make_up_those_of_the_mean():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 4
    rows = torch.randn(90, 5, dtype=torch.float64, generator=generator)
    found, classes = silhouette(rows, labels), present_classes(labels)
    by_class = [class_influences(rows, classes, found.state, place) for place in range(4)]
    together = sum(each * count / 90 for each, count in zip(by_class, classes.counts.tolist(), strict=True))
    values = torch.stack([found.per_sample[labels == label].mean() for label in range(4)])
    shares = (values[labels] - found.value) / 90  # what a row adds by making its class larger
    whole = silhouette_influences(rows, labels, lambda own, d, alone: (d.amin(0) - own) / torch.maximum(d.amin(0), own))
    torch.testing.assert_close(together + shares, whole / 90, atol=1e-9, rtol=0)
