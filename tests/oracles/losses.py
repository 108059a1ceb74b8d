"""Naive loops for the losses, one function a loss, named like it: (features, labels, logits) arrays -> float."""

import math

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
