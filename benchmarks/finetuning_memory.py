"""Does finetune keep to --memory? Peak of a run on 800 MB of rows above that of the same run on a few rows."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from embedscope.store import StoreWriter

WIDTH = 512
ROWS = 400_000
HELD_OUT = 4000  # measuring is quadratic in these, and not what is asked here


def write_store(path: Path, rows: int) -> None:
    """Write rows of 100 classes, the first HELD_OUT of them for testing, as many again for validation."""
    generator = np.random.default_rng(0)
    labels = np.arange(rows) % 100
    centers = generator.normal(size=(100, WIDTH)).astype(np.float32)
    split = np.full(rows, "train", dtype=object)
    split[: min(HELD_OUT, rows // 4)] = "test"
    split[min(HELD_OUT, rows // 4) : 2 * min(HELD_OUT, rows // 4)] = "val"
    with StoreWriter(
        path,
        labels=labels,
        class_names=[str(label) for label in range(100)],
        ids=[str(row) for row in range(rows)],
        split=split.tolist(),
        provenance={},
    ) as store:
        for start in range(0, rows, 20_000):
            part = labels[start : start + 20_000]
            store.add({"embedding": centers[part] + generator.standard_normal((len(part), WIDTH), dtype=np.float32)})


def peak(store: Path, *options: str) -> tuple[float, float]:
    """Run two epochs of one objective in a process of its own: its peak resident size in MB, and seconds."""
    command = [sys.executable, "-m", "embedscope", "finetune", str(store), "-o", str(store.with_suffix("")), "-q"]
    command += ["--objective", "ce", "--epochs", "2", "--batch-size", "1024", *options]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"finetune ended with status {status}")
    return usage.ru_maxrss / 1024, time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few.h5", Path(folder) / "many.h5"
        write_store(few, 2000)
        write_store(many, ROWS)
        least, _ = peak(few)
        print(f"2,000 x {WIDTH}: {least:.0f} MB at most, which is imports")
        for memory in ("200MB", "400MB"):
            most, seconds = peak(many, "--memory", memory, "--overwrite")
            print(f"{ROWS:,} x {WIDTH}, --memory {memory}: {most - least:.0f} MB above that, {seconds:.0f} s")


if __name__ == "__main__":
    main()
