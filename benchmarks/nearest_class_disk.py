"""How long does the exact silhouette of ImageNet's size take from a store on disk, and how much memory?

`nearest_class_disk.py SHARE [FOLDER]` writes SHARE of 1,281,167 x 2,048 float32 in 1,000 classes to a raw file in FOLDER, in
random order (1.0 takes 21 GB of disk, half of it for the sorted copy), and measures it within 4 GB.
Without SHARE, 0.02. Each measurement is a line of nearest_class_disk.csv; `nearest_class_disk.py --draw` draws them.
"""

import csv
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from embedscope.metrics.silhouette import silhouette_samples
from embedscope.ops.blocks import limits

sys.path.insert(0, str(Path(__file__).parent))
from _features import network_features

ROWS, WIDTH, CLASSES, MEMORY = 1_281_167, 2048, 1000, 2**32
MEASURED = Path(__file__).with_suffix(".csv")


class File:
    """Rows of a raw float32 file, read when they are sliced."""

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.shape, self.dtype = path, (rows, WIDTH), torch.float32

    def __getitem__(self, rows: slice) -> torch.Tensor:
        count = (rows.stop - rows.start) * WIDTH
        read = np.fromfile(self.path, dtype=np.float32, count=count, offset=rows.start * WIDTH * 4)
        return torch.from_numpy(read.reshape(-1, WIDTH))


def draw() -> None:
    """Draw CPU time against rows, on logarithmic axes, beside slopes of N and N²."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    with MEASURED.open(newline="") as file:
        points = sorted((int(line["rows"]), float(line["cpu_seconds"])) for line in csv.DictReader(file))
    rows, seconds = np.array(points).T
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained", facecolor="white")
    axes.loglog(rows, seconds, "o-", label="measured")
    for power, name in ((1, "N"), (2, "N²")):
        axes.loglog(rows, seconds[0] * (rows / rows[0]) ** power, ":", color="gray")
        axes.annotate(name, (rows[-1], seconds[0] * (rows[-1] / rows[0]) ** power), xytext=(4, -3), textcoords="offset points")
    axes.set(xlabel=f"rows of {WIDTH:,} float32 in {CLASSES:,} classes, from disk", ylabel="seconds of CPU")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(MEASURED.with_suffix(".svg"), metadata={"Date": None})


def main() -> None:
    if "--draw" in sys.argv:
        draw()
        return
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 0.02
    rows = int(ROWS * share)
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        free, wanted = shutil.disk_usage(folder).free, 2 * rows * WIDTH * 4
        if free < 1.2 * wanted:
            sys.exit(f"{folder} has {free / 2**30:.0f} GB free, this takes {wanted / 2**30:.0f} GB")
        path, labels = Path(folder) / "rows", []
        step = 20_000
        with path.open("wb") as file:
            for start in range(0, rows, step):  # the same classes in each part, since the seed is the same
                part, index = network_features(min(step, rows - start), WIDTH, CLASSES)
                noise = torch.randn(part.shape, generator=torch.Generator().manual_seed(start))
                file.write((part + 0.1 / WIDTH**0.5 * noise).numpy().tobytes())
                labels.append(index)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wall, cpu = time.perf_counter(), time.process_time()
        with limits(memory=MEMORY):
            found = silhouette_samples(File(path, rows), torch.cat(labels))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with MEASURED.open("a", newline="") as file:
            csv.writer(file).writerow([rows, round(cpu, 1), round(wall, 1), round(after / 2**20, 1), torch.get_num_threads()])
        print(f"{rows:,} x {WIDTH}, {CLASSES} classes, {path.stat().st_size / 2**30:.1f} GB on disk: {float(found.mean()):.4f}")
        print(f"  {wall:.0f} s, {cpu:.0f} s of CPU, {after / 2**20:.1f} GB at most in all ({before / 2**20:.1f} GB before)")


if __name__ == "__main__":
    main()
