"""How much memory does a run take? Peak resident size of whole processes, beside the features themselves."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from embedscope.store import StoreWriter

IN_MEMORY = """
import resource, torch
from embedscope.metrics.silhouette import silhouette
features = torch.randn(50_000, 256, generator=torch.Generator().manual_seed(0))
labels = torch.arange(50_000) % 10
silhouette(features[:2000], labels[:2000])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
silhouette(features, labels)
print(before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
METRICS = ("silhouette(distance='cosine')", "gini", "class_kl", "explained_variance")


def write_store(path: Path, rows: int, width: int) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(rows) % 100
    centers = generator.normal(size=(100, width)).astype(np.float32)
    with StoreWriter(
        path,
        labels=labels,
        class_names=[str(label) for label in range(100)],
        ids=[str(row) for row in range(rows)],
        split=None,
        provenance={},
    ) as store:
        for start in range(0, rows, 50_000):
            part = labels[start : start + 50_000]
            store.add({"embedding": centers[part] + generator.standard_normal((len(part), width), dtype=np.float32)})


def main() -> None:
    before, after = map(float, subprocess.check_output([sys.executable, "-c", IN_MEMORY], text=True).split())
    print(f"exact Euclidean silhouette, 50,000 x 256 float32 in memory: {after - before:.0f} MB above the features")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.h5"
        write_store(path, 2_000_000, 128)
        arguments = [part for metric in METRICS for part in ("-m", metric)]
        for memory in ("1GB", "256MB"):
            started = time.perf_counter()
            command = [sys.executable, "-m", "embedscope", "score", str(path), "-q", "--memory", memory, *arguments]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            print(
                f"out of core, 2,000,000 x 128 float32 ({path.stat().st_size / 2**20:.0f} MB on disk), --memory {memory}: "
                f"{usage.ru_maxrss / 1024:.0f} MB at most in all, {time.perf_counter() - started:.0f} s, exit {status}"
            )
    print(f"(the benchmark itself: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB)")


if __name__ == "__main__":
    main()
