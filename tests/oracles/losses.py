"""Naive loops for the losses, one function a loss, named like it: (features, labels, logits) arrays -> float.

A function with a parameter `module` is given the loss itself, for the parameters that it owns.
"""

import math

import numpy as np
import torch
from scipy.optimize import brentq

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


def softplus(x):
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def softmax(row):
    exponentials = [math.exp(value) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def cosine(x, y):
    return float(np.dot(x, y) / math.sqrt(np.dot(x, x) * np.dot(y, y)))


def unit(x):
    return np.asarray(x) / math.sqrt(np.dot(x, x))


def any_loss(features, labels, logits, score="f1", amplification=73.0):
    labels = labels.tolist()
    probabilities = [softmax(row) for row in logits.tolist()]
    scores = []
    for k in sorted(set(labels)):
        tp = fp = fn = tn = 0.0
        for row, label in zip(probabilities, labels, strict=True):
            yes = 1 / (1 + math.exp(-amplification * (row[k] - 0.5)))
            if label == k:
                tp, fn = tp + yes, fn + 1 - yes
            else:
                fp, tn = fp + yes, tn + 1 - yes
        y1, y0 = labels.count(k), len(labels) - labels.count(k)
        scores.append(
            {
                "f1": 2 * tp / (2 * tp + fp + fn + 1e-5),
                "accuracy": (tp + tn) / len(labels),
                "balanced_accuracy": (y0 * tp + y1 * tn) / (2 * y0 * y1 + 1e-5),
                "g_mean": tp * tn / (y1 * y0 + 1e-5),
            }[score]
        )
    return 1 - sum(scores) / len(scores)


def z_loss(features, labels, logits, a=1.0, b=0.0):
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        mean = sum(row) / len(row)
        std = math.sqrt(sum((value - mean) ** 2 for value in row) / len(row))
        total += math.log(1 + math.exp(a * (b - (row[label] - mean) / std))) / a
    return total / len(labels)


def comp_sum(features, labels, logits, tau=1.7, truncation=0.0):
    """From the sum u over the other classes, as the paper writes it."""
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        u = sum(math.exp(value - row[label]) for k, value in enumerate(row) if k != label)
        if truncation and u > 1 / truncation - 1:
            u = 1 / truncation - 1
        total += math.log(1 + u) if tau == 1 else ((1 + u) ** (1 - tau) - 1) / (1 - tau)
    return total / len(labels)


def ldr(features, labels, logits, lam=1.0, margin=1.0, normalize=False):
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if normalize:
            positive = [softplus(value) for value in row]
            row = [value / (sum(positive) / len(positive)) for value in positive]
        terms = [math.exp((value - row[label] + margin * (k != label)) / lam) for k, value in enumerate(row)]
        total += lam * math.log(sum(terms) / len(terms))
    return total / len(labels)


def decoupled_softmax(features, labels, logits, temperature=0.05):
    rows, labels = features.tolist(), labels.tolist()
    total = 0.0
    for i in range(len(rows)):
        positives = [p for p in range(len(rows)) if p != i and labels[p] == labels[i]]
        negatives = sum(math.exp(cosine(rows[i], rows[n]) / temperature) for n in range(len(rows)) if labels[n] != labels[i])
        for p in positives:
            own = math.exp(cosine(rows[i], rows[p]) / temperature)
            total -= math.log(own / (own + negatives)) / len(positives)
    return total / len(rows)


def soft_top_k(features, labels, logits, on="features", k=5.0, alpha=2.0, temperature=0.05):
    rows, labels = features.tolist(), labels.tolist()
    total = 0.0
    for i in range(len(rows)):
        if on == "features":
            others = [j for j in range(len(rows)) if j != i]
            scores = [cosine(rows[i], rows[j]) / temperature for j in others]
            positives = [place for place, j in enumerate(others) if labels[j] == labels[i]]
        else:
            scores, positives = logits.tolist()[i], [labels[i]]

        def excess(t, scores=scores):
            return sum(math.exp(-softplus(-alpha * (score + t))) for score in scores) - k

        t = brentq(excess, -1e3, 1e3, xtol=1e-14, rtol=1e-15)
        for p in positives:
            total += softplus(-alpha * (scores[p] + t)) / len(positives)
    return total / len(rows)


def mann_whitney(features, labels, logits, temperature=1.0, max_pairs=1024):
    rows, labels = features.tolist(), labels.tolist()
    pairs = [(i, j) for i in range(len(rows)) for j in range(i + 1, len(rows))]
    assert len(pairs) <= max_pairs
    total, count = 0.0, 0
    for i, p in pairs:
        for j, n in pairs:
            if labels[i] == labels[p] and labels[j] != labels[n]:
                gap = cosine(rows[i], rows[p]) - cosine(rows[j], rows[n])
                total, count = total + math.log(1 + math.exp(-gap / temperature)), count + 1
    return total / count


def class_vectors(module):
    return module.weight.detach().double().numpy()


def margined(x, vectors, label, kind, margin):
    """One row of cosines, with the margin at the label."""
    found = [cosine(x, vector) for vector in vectors]
    found[label] = math.cos(math.acos(found[label]) + margin) if kind == "arc" else found[label] - margin
    return found


def elastic_face(features, labels, logits, *, module, kind="arc", margin=None, sd=None, plus=False, scale=64.0):
    """The draws are those of torch's global generator, in the order of the samples."""
    vectors, labels = class_vectors(module), labels.tolist()
    margin = {"arc": 0.5, "cos": 0.35}[kind] if margin is None else margin
    if sd is None:
        sd = {("arc", True): 0.0175, ("cos", True): 0.02}.get((kind, plus), 0.05)
    margins = [margin] * len(labels)
    if sd:
        margins = [margin + sd * draw for draw in torch.randn(len(labels), dtype=torch.float64).tolist()]
    own = [cosine(x, vectors[label]) for x, label in zip(features.tolist(), labels, strict=True)]
    if plus:
        drawn = sorted(margins)
        # A sample's rank: how many samples are nearer to their class.
        margins = [drawn[sum(other > value for other in own)] for value in own]
    total = 0.0
    for x, label, m in zip(features.tolist(), labels, margins, strict=True):
        row = [scale * value for value in margined(x, vectors, label, kind, m)]
        total += max(row) + math.log(sum(math.exp(value - max(row)) for value in row)) - row[label]
    return total / len(labels)


def sface(features, labels, logits, *, module, scale=64.0, k=80.0, a=0.8, b=1.23):
    total = 0.0
    for x, label in zip(features.tolist(), labels.tolist(), strict=True):
        for j, vector in enumerate(class_vectors(module)):
            angle = math.acos(cosine(x, vector))
            if j == label:
                total -= scale * math.cos(angle) / (1 + math.exp(-k * (angle - a)))
            else:
                total += scale * math.cos(angle) / (1 + math.exp(k * (angle - b)))
    return total / len(labels)


def unpg(features, labels, logits, *, module, kind="cos", margin=None, whisker=None, scale=64.0):
    rows, labels = features.tolist(), labels.tolist()
    margin = {"arc": 0.5, "cos": 0.35}[kind] if margin is None else margin
    whisker = {"arc": 1.0, "cos": 1.5}[kind] if whisker is None else whisker
    pairs = [(i, j) for i in range(len(rows)) for j in range(i + 1, len(rows)) if labels[i] != labels[j]]
    found = sorted(cosine(rows[i], rows[j]) for i, j in pairs)
    q1, q3 = found[int(0.25 * len(found))], found[int(0.75 * len(found))]
    kept = [value for value in found if q1 - whisker * (q3 - q1) <= value <= q3 + whisker * (q3 - q1)]
    total = 0.0
    for x, label in zip(rows, labels, strict=True):
        row = [scale * value for value in margined(x, class_vectors(module), label, kind, margin) + kept]
        total += max(row) + math.log(sum(math.exp(value - max(row)) for value in row)) - row[label]
    return total / len(labels)


def proto_triplet(features, labels, logits, margin=0.5, normalize=False):
    rows, labels = [np.array(unit(x) if normalize else x) for x in features.tolist()], labels.tolist()

    def to_mean(q, c):
        members = [rows[j] for j in range(len(rows)) if labels[j] == c and j != q]
        return math.sqrt(float(((rows[q] - sum(members) / len(members)) ** 2).sum()) + 1e-6)

    found = []
    for q, label in enumerate(labels):
        if labels.count(label) > 1:
            nearest = min(to_mean(q, c) for c in set(labels) if c != label)
            found.append(max(0.0, to_mean(q, label) - nearest + margin))
    return sum(found) / len(found)


def icnn(features, labels, logits, k=4):
    rows, labels = features.numpy(), labels.tolist()
    size = len(rows)
    d = [[math.sqrt(float(((rows[i] - rows[j]) ** 2).sum())) for j in range(size)] for i in range(size)]
    same, diff, gamma = [], [], []
    for i in range(size):
        near = sorted((j for j in range(size) if j != i), key=lambda j: d[i][j])[:k]
        nearest_other = min(d[i][j] for j in range(size) if labels[j] != labels[i])
        scaled = [d[i][j] / nearest_other for j in near]
        scaled = [value / max(1, *scaled) for value in scaled]
        inside = [value for j, value in zip(near, scaled, strict=True) if labels[j] == labels[i]]
        outside = [d[i][j] / max(d[i][j] for j in near) for j in near if labels[j] != labels[i]]
        same += [sum(inside) / len(inside)] if inside else []
        diff += [sum(outside) / len(outside)] if outside else []
        gamma.append(math.sqrt(len(inside) / len(near)))
    first = 1 - sum(same) / len(same) if same else 0.0
    second = sum(diff) / len(diff) if diff else 1.0
    third = sum(gamma) / size if k + 2 < size else 1.0
    return -math.log(((first + second) / 2 + third) / 2)


def uniformity(features, labels, logits, t=2.0, normalize=True):
    rows = [unit(x) if normalize else np.array(x) for x in features.tolist()]
    terms = [math.exp(-t * float(((x - y) ** 2).sum())) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]
    return math.log(sum(terms) / len(terms))
