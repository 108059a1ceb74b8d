"""What do the metrics cost at size, beside the standard set, and what do the rows that need attention?

    python benchmarks/all_metrics.py [--rows 50000] [--width 256] [--classes 100] [--each] [--profile]

Features as trained networks have them (`_features.py`), float32. Seconds are those of the CPU with one thread, since other work
on the machine changes the wall clock. Each set is measured once, alone in its run; with --each, every further metric too; with
--profile, the functions that take longest in a run of everything are listed instead.
"""

import argparse
import cProfile
import pstats
import sys
import time
from pathlib import Path

import torch

from embedscope.evaluation import evaluate, find_issues
from embedscope.metrics import STANDARD, members
from embedscope.ops.keeping import keeping

sys.path.insert(0, str(Path(__file__).parent))
from _features import network_features

SAMPLE = 5000
SETS = ("standard", "retrieval", "neural_collapse", "collapse", "linear_probe", "two_nn")


def timed(name, function, standard=None):
    started = time.process_time()
    function()
    seconds = time.process_time() - started
    print(f"  {name:28}{seconds:8.1f} s{'' if standard is None else f'{seconds / standard:8.1f} times standard'}", flush=True)
    return seconds


def everything(x, y):
    with keeping():  # as in one command
        find_issues(x, y, say=print)
        return evaluate((x, y), "all", say=print)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--each", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, y = network_features(options.rows, options.width, options.classes)
    print(f"torch {torch.__version__}, one thread, {options.rows:,} x {options.width}, {options.classes} classes, float32")
    if options.profile:
        with cProfile.Profile(time.process_time) as profile:
            everything(x, y)
        pstats.Stats(profile).sort_stats("tottime").print_stats(20)
        return
    evaluate((x[:2000], y[:2000]), "all")
    standard = timed("standard", lambda: evaluate((x, y), STANDARD))
    others = [name for name in members("all") if name not in STANDARD] if options.each else SETS[1:]
    for name in others:
        timed(name, lambda name=name: evaluate((x, y), name), standard)
    timed("issues", lambda: find_issues(x, y), standard)
    timed("all and issues, in one run", lambda: everything(x, y), standard)
    timed(f"all, of a sample of {SAMPLE:,}", lambda: evaluate((x, y), "all", sample=SAMPLE), standard)


if __name__ == "__main__":
    main()
