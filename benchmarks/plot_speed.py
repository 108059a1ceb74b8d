"""How long do pictures take? t-SNE beside openTSNE by hand, UMAP with and without a seed, every kind at 1,000 classes."""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _timing import side_by_side
from openTSNE import TSNE
from sklearn.datasets import make_blobs
from umap import UMAP

from embedscope import plugins
from embedscope.plotting import declaration, plot
from embedscope.plotting.inputs import Embedding
from embedscope.records import FeatureSet


def blobs(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """10,000 x 128 float32 in overlapping classes."""
    features, labels = make_blobs(10_000, 128, centers=classes, cluster_std=6.0, random_state=0)
    return features.astype(np.float32), labels.astype(np.int64)


def embedding(features: np.ndarray, labels: np.ndarray) -> Embedding:
    ids = np.array([f"row{row}" for row in range(len(labels))], dtype=object)
    names = tuple(map(str, range(labels.max() + 1)))
    return Embedding(FeatureSet("one", "one", "X", torch.from_numpy(features), labels, names, ids), np.arange(len(labels)))


def main(runs: int) -> None:
    features, labels = blobs(10)
    cores = torch.get_num_threads()
    ours = embedding(features, labels)
    print("t-SNE, 10,000 x 128")
    medians = side_by_side(
        {
            "embedscope": lambda: plugins.load("plotting", "tsne")([ours], seed=0),
            f"openTSNE by hand, {cores} cores": lambda: TSNE(n_jobs=cores, random_state=0).fit(features),
        },
        runs,
    )
    ours_first, by_hand = medians.values()
    print(f"  embedscope / openTSNE: {ours_first / by_hand:.2f}")
    print("UMAP, 10,000 x 128")
    umap = plugins.load("plotting", "umap")
    side_by_side(
        {
            "embedscope, seed 0 (one core)": lambda: umap([ours], seed=0),
            f"embedscope, seed=None ({cores} cores)": lambda: umap([ours], seed=None),
            "umap-learn by hand, no seed": lambda: UMAP().fit_transform(features),
        },
        runs,
    )
    print("every kind, 10,000 x 128 in 1,000 classes, one input (two for trajectory); wall and CPU, the projection's apart")
    features, labels = blobs(1000)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "X.npz"
        np.savez(path, X=features, y=labels)
        table = Path(folder) / "xy.csv"
        plot([f"one={path}"], Path(folder) / "first.png", kinds=["pca"], coordinates=table)
        for kind in plugins.names("plotting"):
            takes = declaration(plugins.load("plotting", kind)).takes
            if takes == "runs":
                continue
            sources = [f"one={path}", f"two={path}"][: 2 if takes == "checkpoints" else 1]
            given = takes == "points"
            if given:
                table.write_text(table.read_text().replace(",pca,", f",{kind},"))
            draw = partial(
                plot, sources, Path(folder) / f"{kind}.png", kinds=[kind], overwrite=True, layout=table if given else None
            )
            draw()
            started, cpu = time.perf_counter(), time.process_time()
            draw()
            print(f"  {kind:12} {time.perf_counter() - started:6.2f} s  {time.process_time() - cpu:6.2f} s of CPU", flush=True)
            if given:
                table.write_text(table.read_text().replace(f",{kind},", ",pca,"))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
