"""How fast are exact nearest neighbors, against scikit-learn's brute force and faiss?

    python benchmarks/neighbors_speed.py [--rows 50000] [--runs 3] [--cpu]

With --cpu, everything has one thread and seconds are those of the process, for a machine that others use as well.

faiss is timed where it can be imported (faiss-cpu is not a dependency). It finds each row itself first, so it is asked for one
neighbor more, and it returns float32 distances that are not exact between near rows.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from embedscope.ops.neighbors import nearest_neighbors

sys.path.insert(0, str(Path(__file__).parent))
from _timing import side_by_side

K = 10


def peers(x: np.ndarray) -> dict:
    found = {"scikit-learn, brute force": lambda: NearestNeighbors(n_neighbors=K, algorithm="brute").fit(x).kneighbors()}
    try:
        import faiss
    except ImportError:
        print("  faiss cannot be imported")
        return found

    def flat() -> tuple[np.ndarray, np.ndarray]:
        index = faiss.IndexFlatL2(x.shape[1])
        index.add(x)
        return index.search(x, K + 1)

    faiss.omp_set_num_threads(torch.get_num_threads())
    return {**found, f"faiss {faiss.__version__}, IndexFlatL2": flat}


def features(kind: str, rows: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if kind == "normal":
        return torch.randn(rows, width, generator=generator)
    labels = torch.randint(100, (rows,), generator=generator)  # as of a network: a hundred classes, sorted, after a ReLU
    centers = torch.randn(100, width, generator=generator)
    return (centers[labels.sort().values] + torch.randn(rows, width, generator=generator)).relu()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    if options.cpu:
        torch.set_num_threads(1)
        threadpool_limits(1)
    shape = f"N = {options.rows:,}, D = {options.width}, k = {K}, float32"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {shape}")
    for kind in ("normal", "classes"):
        x = features(kind, options.rows, options.width)
        print(f"{kind} rows, Euclidean")
        medians = side_by_side(
            {
                "embedscope": lambda x=x: nearest_neighbors(x, K),
                "embedscope, cosine": lambda x=x: nearest_neighbors(x, K, distance="cosine"),
                **peers(x.numpy()),
            },
            runs=options.runs,
            clock=time.process_time if options.cpu else time.perf_counter,
        )
        ours = medians["embedscope"]
        for name, value in medians.items():
            if not name.startswith("embedscope"):
                print(f"  {value / ours:.2f} times the time of embedscope: {name}")


if __name__ == "__main__":
    main()
