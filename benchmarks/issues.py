"""Does `find_issues` find wrong labels, how sure is it, and how often does it raise a false alarm?

Digits as pixels, and optionally 5,000 images of Fashion-MNIST as 64 principal components: clean, with 10% of the labels flipped
by chance or to the most similar class, and with 17% flipped as a weak classifier confuses them (difficult rows more often).

    python benchmarks/issues.py [FOLDER_WITH_IDX_FILES]
"""

import itertools
import sys
import time

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, silhouette_samples
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from embedscope import find_issues

SEEDS = 3


def flipped(x, y, how, seed):
    generator = np.random.default_rng(seed)
    classes = int(y.max()) + 1
    labels, rows = y.copy(), generator.permutation(len(y))[: len(y) // 10]
    if how == "chance":
        labels[rows] = (y[rows] + generator.integers(1, classes, len(rows))) % classes
    elif how == "confusion":
        means = np.stack([x[y == label].mean(axis=0) for label in range(classes)])
        between = np.linalg.norm(means[:, None] - means, axis=2) + np.diag(np.full(classes, np.inf))
        labels[rows] = between.argmin(axis=1)[y[rows]]
    elif how == "difficult":
        weak = make_pipeline(PCA(8, random_state=0), StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
        others = cross_val_predict(weak, x, y, cv=5, method="predict_proba")
        others[np.arange(len(y)), y] = 0
        mass = others.sum(axis=1)
        for row in np.flatnonzero(generator.random(len(y)) < np.minimum(0.9, 0.17 * mass / mass.mean())):
            labels[row] = generator.choice(classes, p=others[row] / mass[row])
    return labels


def singles(x, labels):
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=300))
    own = cross_val_predict(probe, x, labels, cv=5, method="predict_proba")[np.arange(len(x)), labels]
    near = NearestNeighbors(n_neighbors=50).fit(x).kneighbors(return_distance=False)
    votes = (labels[near] == labels[:, None]).mean(axis=1)
    return {"silhouette": -silhouette_samples(x, labels), "probe": -own, "50-NN": -votes}


def measure(name, x, y):
    for how in ("clean", "chance", "confusion", "difficult"):
        for seed in range(1 if how == "clean" else SEEDS):
            labels = flipped(x, y, how, seed)
            wrong, started = labels != y, time.process_time()
            found = find_issues(x, labels)
            seconds, flagged = time.process_time() - started, found.wrong > 0.5
            line = f"{name} {how} {seed}: {flagged.sum()} flagged of {wrong.sum()} wrong, {seconds:.1f} s"
            if wrong.any():
                areas = {key: roc_auc_score(wrong, value) for key, value in singles(x, labels).items()}
                precision = wrong[flagged].mean() if flagged.any() else np.nan
                line += f"; precision {precision:.3f} (expected {found.expected_precision or np.nan:.3f})"
                line += f", AUROC {roc_auc_score(wrong, found.wrong):.4f}; "
                line += ", ".join(f"{key} {area:.4f}" for key, area in areas.items())
            counts = {kind: count for kind, count in found.counts.items() if kind != "label"}
            print(line, counts, flush=True)


def network(seed=31):
    """Features of a small network that was trained on the wrong labels: the longer, the more of them it knows by heart."""
    x, y = load_digits(return_X_y=True)
    rows = torch.from_numpy(x / 16).float()
    for how, epochs in itertools.product(("chance", "difficult"), (10, 30, 150)):
        labels = flipped(x, y, how, seed)
        torch.manual_seed(seed)
        sizes = [torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)]
        model, target = torch.nn.Sequential(*sizes), torch.from_numpy(labels)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(epochs):
            for batch in torch.randperm(len(target)).split(64):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(rows[batch]), target[batch]).backward()
                optimizer.step()
        with torch.no_grad():
            fitted = float((model(rows).argmax(dim=1) == target).double().mean())
            found = find_issues(model[:4](rows).numpy(), labels)
        wrong, flagged = labels != y, found.wrong > 0.5
        precision = wrong[flagged].mean() if flagged.any() else np.nan
        print(
            f"network {how}, {epochs} epochs, fits {fitted:.3f}: AUROC {roc_auc_score(wrong, found.wrong):.4f}, "
            f"{flagged.sum()} flagged, precision {precision:.3f} (expected {found.expected_precision or np.nan:.3f}), "
            f"recall {flagged[wrong].mean():.3f}",
            flush=True,
        )


def false_alarms():
    for width in (2, 8, 64):
        counts = []
        for seed in range(SEEDS):
            generator = np.random.default_rng(seed)
            y = np.arange(2000) % 10
            x = generator.normal(size=(2000, width)) + 4 * generator.normal(size=(10, width))[y]
            counts.append(dict(find_issues(x, y).counts))
        print(f"Gaussian blobs, 2,000 x {width}, 10 classes:", counts, flush=True)


if __name__ == "__main__":
    measure("digits", *load_digits(return_X_y=True))
    if len(sys.argv) > 1:
        from embedscope.data import open_dataset

        data = open_dataset(sys.argv[1])
        rows = np.random.default_rng(0).permutation(len(data.labels))[:5000]
        images = np.stack([np.asarray(data.inputs[row]).ravel() for row in rows]) / 255
        measure("fashion", PCA(64, random_state=0).fit_transform(images), data.labels[rows])
    false_alarms()
    network()
