"""Naive loops written from the papers' formulas: slow, obvious, one function a metric, named like it."""

import math

import numpy as np
import torch


def _distance(x, y, distance):
    if distance == "euclidean":
        return math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))
    if distance == "sqeuclidean":
        return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
    lengths = math.sqrt(sum(a * a for a in x)) * math.sqrt(sum(b * b for b in y))
    return 1 - (sum(a * b for a, b in zip(x, y, strict=True)) / lengths if lengths else 0.0)


def _means(features, labels, distance):
    """For each sample: a (None if it is alone), and {class: mean distance} of the others."""
    found = []
    for i, x in enumerate(features):
        by_class = {}
        for j, y in enumerate(features):
            if i != j:
                by_class.setdefault(labels[j], []).append(_distance(x, y, distance))
        own = by_class.pop(labels[i], None)
        found.append((sum(own) / len(own) if own else None, {c: sum(d) / len(d) for c, d in by_class.items()}))
    return found


def silhouette(features, labels, distance="euclidean"):
    values = []
    for a, others in _means(features.tolist(), labels.tolist(), distance):
        b = min(others.values())
        values.append(0.0 if a is None or max(a, b) == 0 else (b - a) / max(a, b))
    return np.array(values)


def soft_silhouette(features, labels, tau_s=0.1, tau_m=0.1, softmin="lse", distance="euclidean", normalize=True):
    rows = features.tolist()
    if normalize:
        rows = [[v / (math.sqrt(sum(u * u for u in row)) or 1.0) for v in row] for row in rows]
    values = []
    for a, others in _means(rows, labels.tolist(), distance):
        d = list(others.values())
        if softmin == "hard":
            b = min(d)
        elif softmin == "weighted":
            weights = [math.exp(-(x - min(d)) / tau_s) for x in d]
            b = sum(w * x for w, x in zip(weights, d, strict=True)) / sum(weights)
        else:
            b = min(d) - tau_s * math.log(sum(math.exp(-(x - min(d)) / tau_s) for x in d))
            if softmin == "lme":
                b += tau_s * math.log(len(d))
        if a is None:
            values.append(0.0)
        else:
            values.append((b - a) / (max(a, b) + tau_m * math.log1p(math.exp(-abs(a - b) / tau_m))))
    return np.array(values)


def _shares(features, labels, activation):
    """S-bar as nested lists: channel -> class (in order of the sorted labels) -> share; all 0 for a dead channel."""
    classes = sorted(set(labels))
    shares = []
    for channel in range(len(features[0])):
        means = []
        for c in classes:
            values = [activation(row[channel]) for row, label in zip(features, labels, strict=True) if label == c]
            means.append(sum(values) / len(values))
        total = sum(means)
        shares.append([m / total if total else 0.0 for m in means])
    return shares


ACTIVATIONS = {"abs": abs, "relu": lambda x: max(x, 0.0), "none": lambda x: x}


def gini(features, labels, activation="abs", dead="keep"):
    shares = _shares(features.tolist(), labels.tolist(), ACTIVATIONS[activation])
    return np.array([1 - sum(p * p for p in channel) for channel in shares if dead == "keep" or sum(channel) > 0])


def class_kl(features, labels, direction="target_to_feature", activation="abs"):
    labels = labels.tolist()
    shares = _shares(features.tolist(), labels, ACTIVATIONS[activation])
    classes = sorted(set(labels))
    mass = [sum(channel[j] for channel in shares) for j in range(len(classes))]
    feature = [(m + 1e-10) / sum(mass) for m in mass]
    target = [labels.count(c) / len(labels) for c in classes]
    p, q = (target, feature) if direction == "target_to_feature" else (feature, target)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def explained_variance(features):
    """The cumulative curve, by singular values of the centered rows instead of eigenvalues of a covariance."""
    centered = features - features.mean(axis=0)
    variances = np.linalg.svd(centered, compute_uv=False) ** 2
    return np.cumsum(variances) / variances.sum()


def _singular_values(features, centered):
    rows = features - features.mean(axis=0) if centered else features
    values = np.linalg.svd(np.asarray(rows), compute_uv=False)
    return [value for value in values.tolist() if value > 1e-12 * values[0]]


def effective_rank(features):
    values = _singular_values(features, True)
    return math.exp(-sum(v / sum(values) * math.log(v / sum(values)) for v in values))


def rankme(features):
    values = np.linalg.svd(np.asarray(features), compute_uv=False).tolist()
    shares = [v / sum(values) + 1e-7 for v in values]
    return math.exp(-sum(p * math.log(p) for p in shares))


def participation_ratio(features):
    values = [v**2 for v in _singular_values(features, True)]
    return sum(values) ** 2 / sum(v**2 for v in values)


def stable_rank(features):
    centered = np.asarray(features - features.mean(axis=0))
    return np.linalg.norm(centered, "fro") ** 2 / np.linalg.norm(centered, 2) ** 2


def power_law_alpha(features, first=4, last=100):
    values = [v**2 for v in _singular_values(features, True)]
    values = [value for value in values if value > 1e-20][first - 1 : last]
    ranks = np.arange(first, first + len(values))
    return -np.polyfit(np.log(ranks), np.log(values), 1, w=np.sqrt(1 / ranks))[0]


def _by_label(features, labels):
    return {label: features[labels == label] for label in sorted(set(labels.tolist()))}


def calinski_harabasz(features, labels):
    from sklearn.metrics import calinski_harabasz_score

    return calinski_harabasz_score(features, labels)


def davies_bouldin(features, labels):
    groups = list(_by_label(features, labels.numpy()).values())
    means = [x.mean(axis=0) for x in groups]
    spread = [sum(_distance(row, mean, "euclidean") for row in x) / len(x) for x, mean in zip(groups, means, strict=True)]
    worst = [
        max((s + u) / _distance(m, o, "euclidean") for j, (u, o) in enumerate(zip(spread, means, strict=True)) if i != j)
        for i, (s, m) in enumerate(zip(spread, means, strict=True))
    ]
    return sum(worst) / len(worst)


def cdnv(features, labels):
    groups = list(_by_label(features, labels.numpy()).values())
    values = []
    for i, x in enumerate(groups):
        for j, y in enumerate(groups):
            if i < j:
                own = sum(_distance(row, x.mean(axis=0), "sqeuclidean") for row in x) / len(x)
                other = sum(_distance(row, y.mean(axis=0), "sqeuclidean") for row in y) / len(y)
                values.append((own + other) / (2 * _distance(x.mean(axis=0), y.mean(axis=0), "sqeuclidean")))
    return sum(values) / len(values)


def _scatter(features, labels):
    """S_W, a sum over rows, and the class means about their mean, (K, D)."""
    groups = _by_label(features, labels.numpy())
    within = sum(np.outer(row - x.mean(axis=0), row - x.mean(axis=0)) for x in groups.values() for row in x)
    means = np.array([x.mean(axis=0) for x in groups.values()])
    return within, means - means.mean(axis=0)


def nc1(features, labels, form="pinv"):
    within, means = _scatter(features, labels)
    within, between = within / len(features), means.T @ means / len(means)
    if form == "trace":
        return np.trace(within) / np.trace(between)
    return np.trace(np.linalg.pinv(between, rcond=1e-12) @ within) / len(means)


def nc2(features, labels):
    _, means = _scatter(features, labels)
    count = len(means)
    norm = math.sqrt(sum(float(x @ y) ** 2 for x in means for y in means))
    errors = [
        float(x @ y) / norm - ((i == j) - 1 / count) / math.sqrt(count - 1)
        for i, x in enumerate(means)
        for j, y in enumerate(means)
    ]
    return math.sqrt(sum(error**2 for error in errors))


def lda_rank(features, labels, delta=1e-4, divisors="unbiased"):
    within, means = _scatter(features, labels)
    within = within / (len(features) - len(means) if divisors == "unbiased" else len(means))
    values, vectors = np.linalg.eigh(within + delta * np.eye(len(within)))
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    between = means.T @ means / (len(means) - 1 if divisors == "unbiased" else 1)
    eigenvalues = np.abs(np.linalg.eigvalsh(root @ between @ root))
    shares = eigenvalues / eigenvalues.sum() + 1e-7
    return math.exp(-sum(p * math.log(p) for p in shares))


def _unit(features):
    return [[v / length for v in row] for row in features.tolist() if (length := math.sqrt(sum(u * u for u in row)))]


def alignment(features, labels):
    rows, names = _unit(features), labels.tolist()
    values = []
    for i, x in enumerate(rows):
        own = [_distance(x, y, "sqeuclidean") for j, y in enumerate(rows) if i != j and names[i] == names[j]]
        if own:
            values.append(sum(own) / len(own))
    return sum(values) / len(values)


def uniformity(features, t=2.0):
    rows = _unit(features)
    pairs = [math.exp(-t * _distance(x, y, "sqeuclidean")) for i, x in enumerate(rows) for y in rows[:i]]
    return math.log(sum(pairs) / len(pairs))


def anisotropy(features, centered=False):
    rows = _unit(features - features.mean(axis=0) if centered else features)
    pairs = [1 - _distance(x, y, "cosine") for i, x in enumerate(rows) for y in rows[:i]]
    return sum(pairs) / len(pairs)


def collapse_std(features):
    columns = zip(*_unit(features), strict=True)
    deviations = [math.sqrt(sum((v - sum(c) / len(c)) ** 2 for v in c) / (len(c) - 1)) for c in columns]
    return sum(deviations) / len(deviations)


def two_nn(features, discard=0.1):
    ratios = []
    for i, x in enumerate(features):
        first, second, *_ = sorted(_distance(x, y, "euclidean") for j, y in enumerate(features) if i != j)
        ratios.append(second / first)
    kept = sorted(ratios)[: int(len(ratios) * (1 - discard))]
    x = [math.log(ratio) for ratio in kept]
    y = [-math.log(1 - i / len(ratios)) for i in range(1, len(kept) + 1)]
    return sum(a * b for a, b in zip(x, y, strict=True)) / sum(a * a for a in x)


def linear_probe(features, labels, folds=5, C=None, seed=0, train=None, splits=None):
    """Whether scikit-learn predicts each row; C = None takes the best on a fifth of the training rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fitted(strength, rows, classes):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, tol=1e-9, max_iter=10_000))
        return model.fit(rows, classes)

    def folded(classes, count):
        shuffled = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed)).numpy()
        by_class = [i for c in sorted(set(classes.tolist())) for i in shuffled if classes[i] == c]
        found = np.empty(len(classes), dtype=int)
        for place, i in enumerate(by_class):
            found[i] = place % count
        return found

    labels = labels.numpy()
    right = np.full(len(labels), np.nan)
    fold = folded(labels, folds) if train is None else np.where(splits == train, 1, 0)
    for each in range(folds if train is None else 1):
        rows, classes = features[fold != each], labels[fold != each]
        strength = C
        if C is None:
            inner = folded(classes, 5)
            losses = []
            for candidate in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0):
                model = fitted(candidate, rows[inner != 0], classes[inner != 0])
                known = np.isin(classes, model.classes_) & (inner == 0)
                losses.append((log_loss(classes[known], model.predict_proba(rows[known]), labels=model.classes_), candidate))
                if len(losses) > 1 and losses[-1][0] >= losses[-2][0]:
                    break
            strength = min(losses)[1]
        model = fitted(strength, rows, classes)
        right[fold == each] = model.predict(features[fold == each]) == labels[fold == each]
    return right


def nc3(features, labels, logits):
    _, means = _scatter(features, labels)
    weight = (np.linalg.pinv(features - features.mean(axis=0), rcond=1e-10) @ (logits - logits.mean(axis=0))).T
    return np.linalg.norm(weight / np.linalg.norm(weight) - means / np.linalg.norm(means))


def nc4(features, labels, logits):
    means = [x.mean(axis=0) for x in _by_label(features, labels.numpy()).values()]
    agreed = 0
    for row, scores in zip(features, logits, strict=True):
        distances = [_distance(row, mean, "euclidean") for mean in means]
        agreed += distances.index(min(distances)) == list(scores).index(max(scores))
    return agreed / len(features)


def _ranked(features, labels, distance, voters=None):
    """For each sample: (its label, [(distance, label) of the others, or voters, by distance, then position])."""
    rows, labels = features.tolist(), labels.tolist()
    for i, x in enumerate(rows):
        others = sorted((_distance(x, y, distance), j) for j, y in enumerate(rows) if j != i and (voters is None or voters[j]))
        yield labels[i], [(d, labels[j]) for d, j in others]


def knn_accuracy(features, labels, k=20, vote="dino", temperature=0.07, distance="cosine", train=None, splits=None):
    weights = {
        "dino": lambda d: math.exp((1 - d) / temperature),
        "uniform": lambda d: 1,
        "distance": lambda d: 1 / d,
    }
    correct = []
    for own, others in _ranked(features, labels, distance, None if train is None else splits == train):
        votes = {}
        for d, label in others[:k]:
            votes[label] = votes.get(label, 0) + weights[vote](d)
        correct.append(float(max(votes, key=votes.get) == own))  # the first of those with most: that of the nearest
    return np.array(correct) if train is None else np.where(splits == train, np.nan, correct)


def neighbor_purity(features, labels, k=10, distance="cosine"):
    return np.array([sum(label == own for _, label in others[:k]) / k for own, others in _ranked(features, labels, distance)])


def _hits(features, labels, distance):
    """For each sample with another of its class: for each other sample by distance, whether it has the class."""
    hits = [[label == own for _, label in others] for own, others in _ranked(features, labels, distance)]
    return [each for each in hits if any(each)]


def recall_at_k(features, labels, k=1, distance="cosine"):
    return np.array([float(any(each[:k])) for each in _hits(features, labels, distance)])


def mrr(features, labels, distance="cosine"):
    return np.array([1 / (each.index(True) + 1) for each in _hits(features, labels, distance)])


def r_precision(features, labels, distance="cosine"):
    return np.array([sum(each[: sum(each)]) / sum(each) for each in _hits(features, labels, distance)])


def map_at_r(features, labels, distance="cosine"):
    values = []
    for each in _hits(features, labels, distance):
        size = sum(each)
        values.append(sum(sum(each[: i + 1]) / (i + 1) for i in range(size) if each[i]) / size)
    return np.array(values)


def hubness(features, k=10, distance="cosine"):
    rows = features.tolist()
    counts = [0] * len(rows)
    for i, x in enumerate(rows):
        for _, j in sorted((_distance(x, y, distance), j) for j, y in enumerate(rows) if j != i)[:k]:
            counts[j] += 1
    mean = sum(counts) / len(counts)
    moments = [sum((count - mean) ** power for count in counts) / len(counts) for power in (2, 3)]
    return moments[1] / moments[0] ** 1.5
