"""Naive loops for the losses, one function a loss, named like it: (features, labels, logits) arrays -> float."""

import math

import numpy as np

from tests.oracles.metrics import soft_silhouette


def ce(features, labels, logits, label_smoothing=0.0):
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        for k, value in enumerate(row):
            target = (1 - label_smoothing) * (k == label) + label_smoothing / len(row)
            total -= target * (value - log_sum)
    return total / len(labels)


def silhouette(features, labels, logits, **options):
    return -soft_silhouette(features, labels, **options).mean()


def _class_means(features, labels, activation):
    """channel -> [(count, mean activation) of each class present]."""
    kept = {"abs": abs, "relu": lambda v: max(v, 0.0), "none": lambda v: v}[activation]
    labels = labels.tolist()
    means = []
    for channel in features.T.tolist():
        row = []
        for c in sorted(set(labels)):
            values = [kept(v) for v, label in zip(channel, labels, strict=True) if label == c]
            row.append((len(values), sum(values) / len(values)))
        means.append(row)
    return means


def gini(features, labels, logits, activation="abs", dead="keep"):
    values = []
    for row in _class_means(features, labels, activation):
        total = sum(mean for _, mean in row)
        if total > 0:
            values.append(1 - sum((mean / total) ** 2 for _, mean in row))
        elif dead == "keep":
            values.append(1.0)
    return sum(values) / len(values) if values else 0.0


def class_kl(features, labels, logits, activation="abs", direction="target_to_feature"):
    means = _class_means(features, labels, activation)
    mass = [0.0] * len(means[0])
    for row in means:
        total = sum(mean for _, mean in row)
        for j, (_, mean) in enumerate(row):
            mass[j] += mean / total if total > 0 else 0.0
    value = 0.0
    for (count, _), m in zip(means[0], mass, strict=True):
        p, q = count / len(labels), (m + 1e-10) / sum(mass)
        value += p * math.log(p / q) if direction == "target_to_feature" else q * math.log(q / p)
    return value


def _means_and_spread(rows, labels):
    """class -> (mean, sum over its rows of the squared distance to it)."""
    found = {}
    for c in sorted(set(labels)):
        inside = [row for row, label in zip(rows, labels, strict=True) if label == c]
        mean = [sum(column) / len(inside) for column in zip(*inside, strict=True)]
        found[c] = mean, sum(_squared(row, mean) for row in inside)
    return found


def _squared(x, y):
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def _margin(row, label, clusters, variances, alpha, beta):
    own = _squared(row, clusters[label][0]) / (2 * variances[label])
    others = sum(math.exp(-beta * _squared(row, clusters[c][0]) / (2 * variances[c])) for c in clusters if c != label)
    return -math.log(math.exp(-own - alpha) / others)


def magnet(features, labels, logits, alpha=1.0, hinge=True):
    rows, labels = features.tolist(), labels.tolist()
    clusters = _means_and_spread(rows, labels)
    variance = sum(spread for _, spread in clusters.values()) / (len(rows) - 1)
    total = 0.0
    for row, label in zip(rows, labels, strict=True):
        value = _margin(row, label, clusters, dict.fromkeys(clusters, variance), alpha, 1.0)
        total += max(value, 0.0) if hinge else value
    return total / len(rows)


def latent_boost(
    features,
    labels,
    logits,
    explained_variance=0.95,
    alpha0=1.0,
    beta0=1.0,
    beta_schedule="rising",
    beta_min=0.0,
    hinge=True,
    detach_variance=False,
    epoch=1,
    epochs=10,
):
    alpha = 1 + alpha0 * math.exp(-epoch / (1.05 * epochs))
    beta = {
        "rising": beta0 * min(1.0, epoch / (0.2 * epochs)),
        "paper": beta0 * max(0.0, 1 - epoch / (0.2 * epochs)),
        "constant": beta0,
    }[beta_schedule]
    beta = max(beta, beta_min)
    labels = labels.tolist()
    centred = np.asarray(features) - np.asarray(features).mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    dims, held = 0, 0.0
    while held < (explained_variance - 1e-12) * (singular**2).sum():
        held += singular[dims] ** 2
        dims += 1
    whole = _means_and_spread(centred.tolist(), labels)
    pooled = sum(spread for _, spread in whole.values()) / (len(labels) - 1)
    variances = {c: spread / (labels.count(c) - 1) if labels.count(c) > 1 else pooled for c, (_, spread) in whole.items()}
    projected = (centred @ axes[:dims].T).tolist()
    clusters = _means_and_spread(projected, labels)
    values = []
    for row, label in zip(projected, labels, strict=True):
        if labels.count(label) > 1:
            value = _margin(row, label, clusters, variances, alpha, beta)
            values.append(max(value, 0.0) if hinge else value)
    return sum(values) / len(values)
