"""How often do the 95% intervals of `score --ci` hold the value of the population?

    python benchmarks/coverage.py [--draws 200] [--metrics silhouette gini] [--populations relu] [--paired]

A population is a way to draw samples; its value of a metric is that of a very large sample (of TRUTH rows). Each draw is a new
sample of N rows, with numbers of samples per class that are drawn too, or fixed. Printed is the share of draws whose interval
holds the value: of 200 draws, its own standard error is 0.015 at 0.95. With --paired, the same for the difference between two
embeddings of the same rows, the width of its interval as a share of that for different rows, and how often each excludes 0.

Values of neighbor metrics depend on the number of samples, and their intervals are for samples of the same size:

    python benchmarks/coverage.py --same-size [--draws 60] [--sizes 300] [--populations overlapping imbalanced] [--seed 5000]

prints how often the interval holds the mean over the draws, how often one from the deviation of values per sample does,
and the mean width of the interval as a share of what 95% of draws span by their standard deviation.
"""

import argparse
import itertools
import math

import numpy as np
import torch

from embedscope.evaluation import evaluate, score
from embedscope.ops.statistics import Z95, mean_with_error

TRUTH = 20_000
METRICS = [
    "silhouette",
    "soft_silhouette",
    "gini",
    "class_kl",
    "effective_rank",
    "participation_ratio",
    "stable_rank",
    "rankme",
]


def gaussian(distance, shares, width=16, tail=None):
    """Classes of unit normal rows (or of t-distributed ones) around random means."""
    means = torch.randn(len(shares), width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    means *= distance / math.sqrt(2 * width)

    def draw(labels, generator):
        noise = torch.randn(len(labels), width, generator=generator, dtype=torch.float64)
        if tail is not None:
            square = torch.distributions.Chi2(torch.tensor(float(tail))).sample((len(labels), 1))
            noise = noise / (square / tail).sqrt()
        return means[labels] + noise

    return draw, np.asarray(shares) / sum(shares)


def relu(width=64, classes=5):
    """Non-negative channels, sparse, some of which answer to a few classes."""
    generator = torch.Generator().manual_seed(2)
    means = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64) / math.sqrt(width)

    def draw(labels, generator):
        return (means[labels] + torch.randn(len(labels), width, generator=generator, dtype=torch.float64) @ mix).relu()

    return draw, np.full(classes, 1 / classes)


POPULATIONS = {
    "overlapping": gaussian(1.5, [1] * 5),
    "separated": gaussian(8, [1] * 5),
    "imbalanced": gaussian(4, [16, 8, 4, 2, 2]),
    "heavy tails": gaussian(4, [1] * 5, tail=5),
    "two classes": gaussian(3, [1, 1], width=4),
    "twenty classes": gaussian(6, [1] * 20),
    "relu": relu(),
}


def labels_of(shares, count, fixed, generator):
    if fixed:
        return torch.repeat_interleave(torch.arange(len(shares)), torch.from_numpy(np.round(shares * count).astype(int)))
    return torch.multinomial(torch.from_numpy(shares), count, replacement=True, generator=generator)


def noisier(rows, generator):
    """A second embedding of the same rows: half of its directions are noise of the same size."""
    other = rows.clone()
    half = rows.shape[1] // 2
    other[:, :half] += 0.5 * rows.std() * torch.randn(len(rows), half, generator=generator, dtype=rows.dtype)
    return other


def paired(options):
    print(f"{'population':16}{'N':>6} {'metric':16}{'held':>7}{'width':>8}{'called':>8}{'unpaired':>9}")
    for name, size in itertools.product(options.populations, options.sizes):
        draw, shares = POPULATIONS[name]
        generator = torch.Generator().manual_seed(99)
        labels = labels_of(shares, TRUTH, True, generator)
        rows = draw(labels, generator)
        first, second = (
            evaluate((each, labels), options.metrics, device="cpu").metrics for each in (rows, noisier(rows, generator))
        )
        found = {metric: [] for metric in options.metrics}
        for number in range(options.draws):
            generator = torch.Generator().manual_seed(options.seed + number)
            labels = labels_of(shares, size, False, generator)
            rows = draw(labels, generator)
            table = score({"first": rows, "second": noisier(rows, generator)}, labels, metrics=options.metrics, ci=True)
            for each in table.differences:
                truth = second[each.metric].value - first[each.metric].value
                alone = [mean_with_error(torch.from_numpy(entry.metrics[each.metric].pseudo_values)) for entry in table]
                gap, reach = alone[1].mean - alone[0].mean, Z95 * math.hypot(*(one.error for one in alone))
                low, high = each.ci95
                found[each.metric].append(
                    (low <= truth <= high, (high - low) / (2 * reach), each.significant, abs(gap) > reach)
                )
        for metric, values in found.items():
            if values:
                shown = np.mean(np.array(values, dtype=float), axis=0)
                print(
                    f"{name:16}{size:>6} {metric:16}{shown[0]:>7.3f}{shown[1]:>8.2f}{shown[2]:>8.2f}{shown[3]:>9.2f}",
                    flush=True,
                )


NEIGHBORS = ["knn_accuracy", "map_at_r", "neighbor_purity", "recall_at_k", "mrr", "r_precision"]


def same_size(options):
    print(f"{'population':16}{'N':>6} {'metric':16}{'held':>7}{'by sample':>11}{'width':>7}")
    for name, size in itertools.product(options.populations, options.sizes):
        draw, shares = POPULATIONS[name]
        found = {metric: [] for metric in options.metrics}
        for number in range(options.draws):
            generator = torch.Generator().manual_seed(options.seed + number)
            labels = labels_of(shares, size, False, generator)
            scores = evaluate((draw(labels, generator), labels), options.metrics, ci=True, device="cpu")
            for metric, each in scores.metrics.items():
                values = scores.table.values[metric]
                values = values[~np.isnan(values)]
                found[metric].append((each.value, *each.ci95, Z95 * values.std(ddof=1) / math.sqrt(len(values))))
        for metric, rows in found.items():
            value, low, high, reach = np.array(rows).T
            truth, spread = value.mean(), value.std(ddof=1)
            held, alone = ((low <= truth) & (truth <= high)).mean(), (abs(value - truth) <= reach).mean()
            width = (high - low).mean() / (2 * Z95 * spread)
            print(f"{name:16}{size:>6} {metric:16}{held:>7.3f}{alone:>11.3f}{width:>7.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--metrics", nargs="+")
    parser.add_argument("--populations", nargs="+", default=list(POPULATIONS), choices=list(POPULATIONS))
    parser.add_argument("--paired", action="store_true")
    parser.add_argument("--same-size", action="store_true")
    parser.add_argument("--seed", type=int, default=1000)
    options = parser.parse_args()
    options.metrics = options.metrics or (NEIGHBORS if options.same_size else METRICS)
    if options.same_size:
        return same_size(options)
    if options.paired:
        return paired(options)
    print(f"{'population':16}{'N':>6} {'labels':7}" + "".join(f"{name[:14]:>16}" for name in options.metrics))
    for name, size, fixed in itertools.product(options.populations, options.sizes, (False, True)):
        draw, shares = POPULATIONS[name]
        generator = torch.Generator().manual_seed(99)
        labels = labels_of(shares, TRUTH, True, generator)
        truth = evaluate((draw(labels, generator), labels), options.metrics, device="cpu").metrics
        held = dict.fromkeys(options.metrics, 0)
        given = dict.fromkeys(options.metrics, 0)
        for number in range(options.draws):
            generator = torch.Generator().manual_seed(options.seed + number)
            labels = labels_of(shares, size, fixed, generator)
            found = evaluate(
                (draw(labels, generator), labels), options.metrics, ci="fixed" if fixed else "drawn", device="cpu"
            ).metrics
            for metric in options.metrics:
                if found[metric].ci95 is not None:
                    low, high = found[metric].ci95
                    given[metric] += 1
                    held[metric] += low <= truth[metric].value <= high
        shown = "".join(f"{held[each] / given[each]:>16.3f}" if given[each] else f"{'-':>16}" for each in options.metrics)
        print(f"{name:16}{size:>6} {'fixed' if fixed else 'drawn':7}{shown}", flush=True)
    return None


if __name__ == "__main__":
    main()
