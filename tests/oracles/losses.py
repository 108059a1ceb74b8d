"""Naive loops for the losses, one function a loss, named like it: (features, labels, logits) arrays -> float."""

import math

import numpy as np
import torch

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


def _rows(features, normalize=True):
    rows = [[float(value) for value in row] for row in features.tolist()]
    return [[value / math.hypot(*row) for value in row] for row in rows] if normalize else rows


def _dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def _distance(x, y):
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))


def _mean(values):
    return sum(values) / len(values) if values else 0.0


def _parameter(module, name):
    """Rows of unit length of the one parameter of that name."""
    (parameter,) = [value for key, value in module.named_parameters() if key.endswith(name)]
    return _rows(parameter.detach().double())


def center(features, labels, logits, module, alpha=0.5):
    rows, y, centers = _rows(features, normalize=False), labels.tolist(), module.centers.double().tolist()
    return sum(_distance(row, centers[label]) ** 2 for row, label in zip(rows, y, strict=True)) / (2 * len(y))


def contrastive(features, labels, logits, margin=1.0, pos_margin=0.0, normalize=True):
    rows, y = _rows(features, normalize), labels.tolist()
    pulled, pushed = [], []
    for i in range(len(y)):
        for j in range(len(y)):
            d = _distance(rows[i], rows[j])
            if y[i] == y[j] and i != j:
                pulled.append(max(d - pos_margin, 0))
            elif y[i] != y[j]:
                pushed.append(max(margin - d, 0))
    return _mean([value for value in pulled if value > 0]) + _mean([value for value in pushed if value > 0])


def triplet(features, labels, logits, margin=0.05, triplets="all", swap=False, smooth=False, normalize=True):
    rows, y = _rows(features, normalize), labels.tolist()
    values = []
    for a in range(len(y)):
        for p in range(len(y)):
            for n in range(len(y)):
                if a == p or y[a] != y[p] or y[a] == y[n]:
                    continue
                near, far = _distance(rows[a], rows[p]), _distance(rows[a], rows[n])
                if triplets == "hard" and far > near:
                    continue
                if triplets == "semihard" and not near < far <= near + margin:
                    continue
                if swap:
                    far = min(far, _distance(rows[p], rows[n]))
                violation = near - far + margin
                values.append(math.log1p(math.exp(violation)) if smooth else max(violation, 0))
    return _mean([value for value in values if value > 0])


def npair(features, labels, logits, normalize=True, regularization=0.0):
    rows, y = _rows(features, normalize), labels.tolist()
    pairs = []
    for label in sorted(set(y)):
        members = [row for row, other in zip(rows, y, strict=True) if other == label]
        if len(members) > 1:
            pairs.append(members[:2])
    total = 0.0
    for c, (f, g) in enumerate(pairs):
        total += math.log1p(sum(math.exp(_dot(f, other[1]) - _dot(f, g)) for k, other in enumerate(pairs) if k != c))
    return total / len(pairs) + regularization * _mean([math.hypot(*row) for row in _rows(features, normalize=False)])


def supcon(features, labels, logits, temperature=0.1):
    rows, y = _rows(features), labels.tolist()
    anchors = []
    for i in range(len(y)):
        positives = [j for j in range(len(y)) if j != i and y[j] == y[i]]
        if not positives:
            continue
        total = sum(math.exp(_dot(rows[i], rows[a]) / temperature) for a in range(len(y)) if a != i)
        anchors.append(-_mean([math.log(math.exp(_dot(rows[i], rows[p]) / temperature) / total) for p in positives]))
    return _mean(anchors)


def proxy_nca(features, labels, logits, module, scale=1.0):
    rows, y, proxies = _rows(features), labels.tolist(), _parameter(module, "proxies")
    values = []
    for row, label in zip(rows, y, strict=True):
        weights = [math.exp(-scale * _distance(row, proxy) ** 2) for proxy in proxies]
        values.append(-math.log(weights[label] / sum(weights)))
    return _mean(values)


def proxy_anchor(features, labels, logits, module, margin=0.1, alpha=32.0):
    rows, y, proxies = _rows(features), labels.tolist(), _parameter(module, "proxies")
    pulled, pushed = [], []
    for k, proxy in enumerate(proxies):
        own = [_dot(row, proxy) for row, label in zip(rows, y, strict=True) if label == k]
        rest = [_dot(row, proxy) for row, label in zip(rows, y, strict=True) if label != k]
        if own:
            pulled.append(math.log1p(sum(math.exp(-alpha * (s - margin)) for s in own)))
        pushed.append(math.log1p(sum(math.exp(alpha * (s + margin)) for s in rest)))
    return _mean(pulled) + _mean(pushed)


def multi_similarity(features, labels, logits, alpha=2.0, beta=50.0, base=0.5, miner=False, epsilon=0.1):
    rows, y = _rows(features), labels.tolist()
    values = []
    for i in range(len(y)):
        positive = [_dot(rows[i], rows[j]) for j in range(len(y)) if j != i and y[j] == y[i]]
        negative = [_dot(rows[i], rows[j]) for j in range(len(y)) if y[j] != y[i]]
        if miner:
            highest, lowest = max(negative), min(positive, default=math.inf)
            positive, negative = (
                [s for s in positive if s - epsilon < highest],
                [s for s in negative if s + epsilon > lowest],
            )
        pulled = math.log1p(sum(math.exp(-alpha * (s - base)) for s in positive)) / alpha
        values.append(pulled + math.log1p(sum(math.exp(beta * (s - base)) for s in negative)) / beta)
    return _mean(values)


def normalized_softmax(features, labels, logits, module, temperature=0.05):
    (weights,) = module.parameters()
    rows, y, vectors = _rows(features), labels.tolist(), _rows(weights.detach().double().T)
    values = []
    for row, label in zip(rows, y, strict=True):
        shares = [math.exp(_dot(row, vector) / temperature) for vector in vectors]
        values.append(-math.log(shares[label] / sum(shares)))
    return _mean(values)


def pml(features, labels, logits, module, loss):
    """The library itself, called directly."""
    from pytorch_metric_learning import distances, losses, miners, reducers, regularizers

    made, miner = {
        "SupConLoss(temperature=0.2)": lambda: (losses.SupConLoss(temperature=0.2), None),
        "TripletMarginLoss(margin=0.2, distance='CosineSimilarity', miner='MultiSimilarityMiner')": lambda: (
            losses.TripletMarginLoss(margin=0.2, distance=distances.CosineSimilarity()),
            miners.MultiSimilarityMiner(),
        ),
        "NTXentLoss(reducer='PerAnchorReducer')": lambda: (losses.NTXentLoss(reducer=reducers.PerAnchorReducer()), None),
        "CosFaceLoss(scale=16, weight_regularizer='RegularFaceRegularizer')": lambda: (
            losses.CosFaceLoss(5, 4, scale=16, weight_regularizer=regularizers.RegularFaceRegularizer()),
            None,
        ),
        "SoftTripleLoss(centers_per_class=2, embedding_regularizer='LpRegularizer', embedding_reg_weight=0.1)": lambda: (
            losses.SoftTripleLoss(
                5, 4, centers_per_class=2, embedding_regularizer=regularizers.LpRegularizer(), embedding_reg_weight=0.1
            ),
            None,
        ),
    }[loss]()
    owned = list(module.parameters())
    with torch.no_grad():
        for parameter, value in zip(made.parameters(), owned, strict=True):
            parameter.copy_(value)
    return made(features, labels, miner(features, labels) if miner else None).item()
