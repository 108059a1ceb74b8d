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
    centered = np.asarray(features) - np.asarray(features).mean(axis=0)
    _, singular, axes = np.linalg.svd(centered, full_matrices=False)
    dims, held = 0, 0.0
    while held < (explained_variance - 1e-12) * (singular**2).sum():
        held += singular[dims] ** 2
        dims += 1
    projected = (centered @ axes[:dims].T).tolist()
    clusters = _means_and_spread(projected, labels)
    pooled = sum(spread for _, spread in clusters.values()) / (len(labels) - 1)
    variances = {c: spread / (labels.count(c) - 1) if labels.count(c) > 1 else pooled for c, (_, spread) in clusters.items()}
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


def icnn(features, labels, logits, k=4, scale="batch", root=False):
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
        outside = [d[i][j] / (max(d[i][j] for j in near) if scale == "row" else 1) for j in near if labels[j] != labels[i]]
        same += [sum(inside) / len(inside)] if inside else []
        diff += [outside] if outside else []
        gamma.append(math.sqrt(len(inside) / len(near)) if root else len(inside) / len(near))
    if scale == "batch":
        widest = max(value for outside in diff for value in outside)
        diff = [[value / widest for value in outside] for outside in diff]
    diff = [sum(outside) / len(outside) for outside in diff]
    first = 1 - sum(same) / len(same) if same else 0.0
    second = sum(diff) / len(diff) if diff else 1.0
    third = sum(gamma) / size if k + 2 < size else 1.0
    return -math.log(((first + second) / 2 + third) / 2)


def uniformity(features, labels, logits, t=2.0, normalize=True):
    rows = [unit(x) if normalize else np.array(x) for x in features.tolist()]
    terms = [math.exp(-t * float(((x - y) ** 2).sum())) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]
    return math.log(sum(terms) / len(terms))
