"""Does a training of a whole network that is killed resume to what it would have become?

`finetune MODEL DATA` on digits, two objectives with two trials each, is killed at 10 random moments, some of them again while
they resume, and resumed. Values, logs, tensors and rows of stores have to equal those of the run that was left alone.
The state of a training is kept after every epoch here instead of every ten seconds.
`finetuning_faults.py KILLS` takes another number.
"""

import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from sklearn.datasets import load_digits
from store_faults import Child, same, until

from embedscope.finetuning import trials

NET = """
from torch import nn

def Net():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(288, 16), nn.ReLU(),
        nn.Linear(16, 10),
    )
"""
# What differs between runs: times, and the paths in commands.
DIFFERENT = ("seconds", "command", "path", "created", "run")


class Faults:
    def __init__(self, folder):
        self.folder, self.chance, self.log = folder, random.Random(0), folder / "log"
        (folder / "net.py").write_text(NET, encoding="utf-8")
        digits = load_digits()
        np.savez(folder / "data.npz", X=(digits.images[:, None] * 15).astype(np.uint8), y=digits.target)
        started = time.monotonic()
        self.whole = folder / "whole"
        assert self.finetune(self.whole).wait() == 0, self.log.read_text()
        self.seconds = time.monotonic() - started

    def finetune(self, output, *options):
        words = [f"{self.folder / 'net.py'}:Net", self.folder / "data.npz", "-o", output, "--device", "cpu", "-q"]
        words += ["--objective", "ce", "--objective", "ce + 0.5*silhouette + 0.5*gini@2", "--trials", "2", "--epochs", "12"]
        words += ["--loss-layer", "2", "--augment", "crop(8, pad=1) + erase", "--schedule", "plateau(patience=0)"]
        return Child(["finetune", *words, *options], self.log)

    def kill(self, number):
        """Kill a run at random moments and resume it: kills, those within a training, and what is wrong then."""
        output, kills, within = self.folder / f"run-{number}", 0, 0
        partial = output.with_name(f"{output.name}.partial")
        while kills < 1 + number % 3:
            started = time.monotonic()
            child = self.finetune(output, "--resume")
            until(partial.exists, child)
            time.sleep(self.chance.uniform(0, self.seconds))
            if child.running():
                os.kill(child.pid, 9)
                kills += 1
                within += any(partial.rglob("*state.pt"))
            elif not child.wait():  # it was done before
                self.seconds = min(self.seconds, time.monotonic() - started)
                shutil.rmtree(output)
            child.wait()
        if not output.exists() and self.finetune(output, "--resume").wait():
            return kills, within, [self.log.read_text()[-300:]]
        return kills, within, self.wrong(output)

    def wrong(self, output):
        """Name what differs from the run that was left alone."""
        names = {path.relative_to(self.whole) for path in self.whole.rglob("*") if path.is_file()}
        if names != {path.relative_to(output) for path in output.rglob("*") if path.is_file()}:
            return ["other files"]
        found = []
        for name in sorted(names):
            one, other = self.whole / name, output / name
            if name.suffix == ".h5":
                alike = same(one, other)
            elif name.suffix == ".safetensors":
                alike = opened(one) == opened(other)
            elif name.name == "run.json":
                alike = stripped(json.loads(one.read_text())) == stripped(json.loads(other.read_text()))
            else:
                alike = one.read_bytes() == other.read_bytes()
            found += [] if alike else [str(name)]
        return found


def opened(path):
    """The tensors of a file, and its notes, which safetensors writes in any order."""
    with safe_open(path, "pt") as file:
        return file.metadata(), {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118


def stripped(value):
    if isinstance(value, dict):
        return {key: stripped(item) for key, item in value.items() if key not in DIFFERENT}
    return [stripped(item) for item in value] if isinstance(value, list) else value


def main():
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    torch.set_num_threads(1)
    trials._SECONDS_BETWEEN_STATES = 0.0
    with tempfile.TemporaryDirectory() as name:
        faults = Faults(Path(name))
        print(f"1,797 digits, 2 objectives x 2 trials x 12 epochs; a run takes {faults.seconds:.1f} s", flush=True)
        runs, kills, within, right = kills, 0, 0, 0
        for number in range(runs):
            struck, inside, wrong = faults.kill(number)
            kills, within, right = kills + struck, within + inside, right + (not wrong)
            if wrong:
                print(f"    {number}: {wrong}", flush=True)
        print(f"  {runs} runs, killed {kills} times, {within} of them within a training: {right} are as the one left alone")


if __name__ == "__main__":
    main()
