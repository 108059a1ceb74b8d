"""How much faster is the exact silhouette where bounds rule classes out, and what does it cost where they cannot?

`nearest_class_speed.py` runs the rows of RESULTS.md; `nearest_class_speed.py left` only counts what the bounds leave;
with `cpu` as an argument the seconds are those of one thread, which count on a machine that others keep busy.
"""

import sys
import time
from pathlib import Path
from unittest import mock

import torch
from sklearn.metrics import silhouette_samples as sklearn_samples

from embedscope.metrics.silhouette import silhouette_samples
from embedscope.ops import class_distances, nearest_class
from embedscope.ops.class_bounds import square_of_upper, stage_one, stage_two, unpacked
from embedscope.ops.class_moments import present_classes
from embedscope.ops.frames import surveyed
from embedscope.ops.sorted_rows import SortedRows

sys.path.insert(0, str(Path(__file__).parent))
from _features import network_features
from _timing import side_by_side

CPU = "cpu" in sys.argv
CLOCK = time.process_time if CPU else time.perf_counter


def all_pairs(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What the silhouette takes if every pair is computed once."""
    with mock.patch.object(class_distances, "may_pay", return_value=False):
        return silhouette_samples(features, labels)


def left(features: torch.Tensor, labels: torch.Tensor, rank: int) -> tuple[float, float]:
    """How many other classes of a row both stages leave, of a sample of rows."""
    classes = present_classes(labels)
    order = classes.index.argsort(stable=True)
    rows = SortedRows(features, order, surveyed(features, classes, unit=False).frame, features.device, unit=False)
    layout = nearest_class.laid_out(classes.counts)
    assert rows.whole is not None
    packed = [
        nearest_class.class_bounds(rows.part(layout.rows(c)).left[:, : features.shape[1]], classes.counts[c : c + 1], rank)
        for c in range(len(classes))
    ]
    bounds = unpacked(torch.cat([each.packed() for each in packed]), features.shape[1])
    some = torch.arange(0, len(labels), max(1, len(labels) // 2000))
    here, own = rows.selected(some), layout.index[some]
    m = (here.left @ bounds.upper.T).scatter_(1, own[:, None], torch.inf)
    square = square_of_upper(m.min(dim=1).values, here.norms, features.shape[1])
    first = stage_one(m, here.norms, square, bounds).scatter_(1, own[:, None], False)
    second = stage_two(here.left, m, square, bounds.columns)[0] & first
    return float(first.sum(dim=1).double().mean()), float(second.sum(dim=1).double().mean())


def count() -> None:
    for rows, width, classes in ((50_000, 256, 100), (10_000, 64, 10)):
        found = left(*network_features(rows, width, classes), rank=8)
        print(f"{rows:,} x {width}, {classes} classes: {found[0]:.1f} left after stage 1, {found[1]:.1f} after stage 2")


def measured(rows: int, width: int, classes: int, runs: int, *, whole: bool) -> None:
    features, labels = network_features(rows, width, classes)
    print(f"N = {rows:,}, D = {width}, K = {classes}, {torch.get_num_threads()} threads")
    functions = {"embedscope": lambda: silhouette_samples(features, labels)}
    if whole:
        functions["all pairs once"] = lambda: all_pairs(features, labels)
        scale = 1.0
    else:  # the first 50,000 rows of the same classes, by the law of N²
        functions["all pairs once, 50,000 rows"] = lambda: all_pairs(features[:50_000], labels[:50_000])
        scale = (rows / 50_000) ** 2
    x, y = features[:20_000].numpy(), labels[:20_000].numpy()
    if whole:
        functions["scikit-learn, 20,000 rows"] = lambda: sklearn_samples(x, y)
    found = side_by_side(functions, runs, clock=CLOCK)
    ours, pairs, *peer = found.values()
    print(f"  {scale * pairs / ours:.1f} times as fast as all pairs once{'' if whole else ' (extrapolated)'}", end="")
    print(f", {peer[0] * (rows / 20_000) ** 2 / ours:.0f} times as scikit-learn by its law of N²" if peer else "")
    if whole:
        error = (silhouette_samples(features, labels) - all_pairs(features, labels)).abs().max()
        print(f"  largest difference from all pairs {float(error):.1e}")


def blobs(width: int, classes: int, runs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (20_000,), generator=generator)
    features = torch.randn(classes, width, generator=generator)[labels] + torch.randn(20_000, width, generator=generator)
    print(f"blobs, N = 20,000, D = {width}, K = {classes}")
    functions = {
        "embedscope": lambda: silhouette_samples(features, labels),
        "all pairs once": lambda: all_pairs(features, labels),
    }
    found = side_by_side(functions, runs, clock=CLOCK)
    print(f"  {found['embedscope'] / found['all pairs once']:.2f} of the time of all pairs once")


if __name__ == "__main__":
    started = time.perf_counter()
    if CPU:
        torch.set_num_threads(1)
    count()
    if "left" not in sys.argv:
        measured(50_000, 256, 100, 3, whole=True)
        blobs(128, 10, 7)
        blobs(512, 1000, 7)
        measured(200_000, 256, 1000, 3, whole=False)
    print(f"({time.perf_counter() - started:.0f} s)")
