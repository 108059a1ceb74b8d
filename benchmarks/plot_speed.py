"""How long do pictures take? t-SNE beside openTSNE by hand, UMAP with and without a seed, every kind at 1,000 classes.

CPU seconds stand beside the wall's, since threads of openTSNE wait for one another where other programs take cores. Parts are
chosen by name: python benchmarks/plot_speed.py tsne umap kinds
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import make_blobs

from embedscope import plugins
from embedscope.plotting import declaration, plot
from embedscope.plotting.inputs import Embedding
from embedscope.store.features import FeatureSet

RUNS = 3


def classes_in_few_directions(count: int) -> tuple[np.ndarray, np.ndarray]:
    """10,000 x 128 float32: overlapping classes in 20 directions, as embeddings have them, and noise in all."""
    inner, labels = make_blobs(10_000, 20, centers=count, cluster_std=4.0, random_state=0)
    generator = np.random.default_rng(0)
    features = inner @ generator.normal(size=(20, 128)) + generator.normal(size=(10_000, 128))
    return features.astype(np.float32), labels.astype(np.int64)


def embedding(features: np.ndarray, labels: np.ndarray) -> Embedding:
    ids = np.array([f"row{row}" for row in range(len(labels))], dtype=object)
    names = tuple(map(str, range(labels.max() + 1)))
    return Embedding(FeatureSet("one", "one", "X", torch.from_numpy(features), labels, names, ids), np.arange(len(labels)))


def alternated(functions: dict[str, Callable[[], object]]) -> None:
    """Run all in turn, once unmeasured; print medians of wall and CPU seconds."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for run in range(RUNS + 1):
        for name, function in functions.items():
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            if run:
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    for name, found in times.items():
        wall, cpu = map(statistics.median, zip(*found, strict=True))
        print(f"  {name:48} {wall:7.1f} s {cpu:7.1f} s of CPU", flush=True)


def tsne() -> None:
    from openTSNE import TSNE

    features, labels = classes_in_few_directions(10)
    ours, cores = embedding(features, labels), os.cpu_count()
    print(f"t-SNE, 10,000 x 128, {cores} cores")
    alternated(
        {
            "embedscope": lambda: plugins.load("plotting", "tsne")([ours], seed=0),
            "openTSNE by hand": lambda: TSNE(n_jobs=cores, random_state=0).fit(features),
        }
    )


def umap() -> None:
    features, labels = classes_in_few_directions(10)
    ours, draw = embedding(features, labels), plugins.load("plotting", "umap")
    print("UMAP, 10,000 x 128")
    alternated({"seed=0": lambda: draw([ours], seed=0), "seed=None": lambda: draw([ours], seed=None)})


def kinds() -> None:
    print("every kind, 10,000 x 128 in 1,000 classes, two inputs; layouts are given")
    features, labels = classes_in_few_directions(1000)
    with tempfile.TemporaryDirectory() as folder:
        path, table = Path(folder) / "X.npz", Path(folder) / "xy.csv"
        np.savez(path, X=features, y=labels)
        sources = [f"one={path}", f"two={path}"]
        plot(sources, Path(folder) / "first.png", kinds=["pca"], coordinates=table)
        text = table.read_text()
        for kind in plugins.names("plotting"):
            takes = declaration(plugins.load("plotting", kind)).takes
            if takes == "runs":
                continue
            table.write_text(text.replace(",pca,", f",{kind},"))
            layout = table if takes == "points" else None
            draw = partial(plot, sources, Path(folder) / f"{kind}.png", kinds=[kind], overwrite=True, layout=layout)
            wall, cpu = time.perf_counter(), time.process_time()
            draw()
            print(f"  {kind:48} {time.perf_counter() - wall:7.1f} s {time.process_time() - cpu:7.1f} s of CPU", flush=True)


if __name__ == "__main__":
    for part in sys.argv[1:] or ["tsne", "umap", "kinds"]:
        {"tsne": tsne, "umap": umap, "kinds": kinds}[part]()
