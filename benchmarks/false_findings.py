"""How often does `score --issues` find fault with a healthy embedding? Simulated classes of many shapes; counts of findings by
severity, and of rows that are flagged.

    python benchmarks/false_findings.py [embeddings]

An embedding is called healthy if the nearest neighbors are right for at least 95% of its samples.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from typing import Any

import numpy as np

import embedscope as es
from embedscope.evaluation.further_findings import with_issues

METRICS = ["silhouette", "explained_variance", "gini", "knn_accuracy", "hubness"]
HEALTHY = 0.95


def simulated(seed: int) -> tuple[Any, Any]:
    """Draw classes whose means are at least 6, 8 or 12 standard deviations apart: features (N, D), labels (N,)."""
    generator = np.random.default_rng(seed)
    rows = int(generator.choice([100, 200, 500, 1000, 2000]))
    width = int(generator.choice([8, 16, 64, 256, 768]))
    classes = int(generator.choice([2, 3, 5, 10, 50]))
    kind = generator.choice(["round", "relu", "unbalanced", "decaying"])
    rows = max(rows, 10 * classes)
    shares = np.where(np.arange(classes) % 2, 10.0 if kind == "unbalanced" else 1.0, 1.0)
    labels = np.r_[np.repeat(np.arange(classes), 3), generator.choice(classes, rows - 3 * classes, p=shares / shares.sum())]
    means = generator.normal(size=(classes, width))
    gaps = np.linalg.norm(means[:, None] - means[None], axis=2)
    means *= generator.choice([6, 8, 12]) / gaps[np.triu_indices(classes, 1)].min()
    scale = np.arange(1, width + 1) ** -0.5 if kind == "decaying" else np.ones(width)
    features = means[labels] + generator.normal(size=(rows, width)) * np.minimum(scale * np.sqrt(1 / (scale**2).mean()), 1.5)
    return (np.maximum(features + 0.5, 0) if kind == "relu" else features), labels


def main() -> None:
    """Print how many embeddings are healthy, how many of these have a finding that is not low, and all findings."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    healthy = loud = 0
    found: Counter[tuple[str, str]] = Counter()
    flagged: Counter[str] = Counter()
    warnings.simplefilter("ignore")
    for seed in range(count):
        features, labels = simulated(seed)
        issues = es.find_issues(features, labels)
        scores = with_issues(es.score(features, labels, metrics=METRICS)[0], issues)
        value = scores.metrics["knn_accuracy"].value
        if value is not None and value >= HEALTHY:
            healthy += 1
            loud += any(each.severity != "low" for each in scores.findings)
            found.update((each.severity, each.id) for each in scores.findings)
            flagged.update({"rows": issues.samples, **{kind: number or 0 for kind, number in issues.counts.items()}})
    print(f"{healthy} of {count} embeddings are healthy; {loud} of them have a finding of medium or high severity")
    for (severity, name), times in found.most_common():
        print(f"{severity:6} {name:20} {times}")
    print("rows flagged:", ", ".join(f"{number:,} {kind}" for kind, number in flagged.items()))


if __name__ == "__main__":
    main()
