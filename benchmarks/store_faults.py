"""Is a finished store always right, and a promise to resume always kept?

100 runs of extract are killed at random moments and resumed. At 20 moments of extract and 10 of finetune, the disk is filled up
or a limit on the size of files falls on the process. What is finished has to be right in every row, and what is said to be kept
has to resume to the same. `store_faults.py KILLS MOMENTS` takes other numbers. Filling a disk needs root, on Linux.
"""

import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import torch

from embedscope.cli import main as embedscope
from embedscope.store import verify

ROWS = 6_000
NET = """
import time
import torch
from torch import nn

class Slow(nn.Module):
    def forward(self, x):
        time.sleep(0.0005)
        return x

def Net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256), Slow(), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
"""
PROMISE = ("are kept: --resume", "is kept, go on with", "rows written; go on with")


class Child:
    """A command in a process of its own, forked so that nothing is imported again."""

    def __init__(self, words, log):
        self.log, self.code = log, None
        self.pid = os.fork()
        if not self.pid:
            code = 99
            try:
                stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(stream, 1)
                os.dup2(stream, 2)
                code = embedscope([str(word) for word in words])
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def running(self):
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is None

    def wait(self):
        while self.running():
            time.sleep(0.002)
        return self.code

    def said(self):
        return self.log.read_text(errors="replace")


def contents(path):
    """All data of a store but its provenance and what stands for that, which hold the time and the place."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if hasattr(item, "dtype") else None)
    return {name: values for name, values in found.items() if name != "provenance"}


def same(one, other):
    one, other = contents(one), contents(other)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@contextmanager
def small_disk(folder, megabytes):
    place = folder / "small"
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def until(there, child):
    while not there() and child.running():
        time.sleep(0.001)


class Faults:
    def __init__(self, folder):
        self.folder, self.chance = folder, random.Random(0)
        self.log = folder / "log"
        (folder / "net.py").write_text(NET, encoding="utf-8")
        generator = np.random.default_rng(0)
        rows = generator.normal(size=(ROWS, 64)).astype(np.float32)
        np.savez(folder / "data.npz", X=rows, y=np.arange(ROWS) % 10)
        started = time.monotonic()
        assert self.extract(folder / "whole.h5").wait() == 0, self.log.read_text()
        self.seconds = time.monotonic() - started
        self.small = folder / "rows.npz"
        np.savez(self.small, X=rows[:1000] + np.eye(10, 64, dtype=np.float32)[np.arange(1000) % 10], y=np.arange(1000) % 10)
        started = time.monotonic()
        assert self.finetune(folder / "whole").wait() == 0, self.log.read_text()
        self.run_seconds = time.monotonic() - started

    def extract(self, output, *options):
        layers = [word for layer in ("0", "2", "4", "output") for word in ("-l", layer)]
        where = [f"{self.folder / 'net.py'}:Net", self.folder / "data.npz", "-o", output]
        return Child(["extract", *where, *layers, "-q", "--batch-size", "20", "--device", "cpu", *options], self.log)

    def finetune(self, output, *options):
        what = ["--objective", "ce", "--trials", "3", "--epochs", "2", "--device", "cpu", "-q"]
        return Child(["finetune", self.small, "-o", output, *what, *options], self.log)

    def kill(self, number):
        """Kill an extraction once it writes, and resume it: whether the file is then right."""
        output, partial = self.folder / f"{number}.h5", self.folder / f"{number}.h5.partial"
        for _ in range(1 + number % 3):  # some are killed again while they resume
            child = self.extract(output, "--resume")
            until(partial.exists, child)
            time.sleep(self.chance.uniform(0, self.seconds))
            if child.running():
                os.kill(child.pid, 9)
            child.wait()
        code = self.extract(output, "--resume").wait()
        right = code == 0 and same(output, self.folder / "whole.h5")
        output.unlink(missing_ok=True)
        return right

    def strike(self, child, place, there, seconds):
        """Fill the disk up, or put a limit on the size of files, at a random moment."""
        until(there, child)
        time.sleep(self.chance.uniform(0, seconds))
        if self.chance.random() < 0.5:
            with (place / "ballast").open("wb", buffering=0) as file:
                try:
                    while child.running():
                        file.write(bytes(2**16))
                except OSError:
                    pass
        elif child.running():
            largest = max((path.stat().st_size for path in place.rglob("*") if path.is_file()), default=0)
            limit = self.chance.choice([largest, largest + 100_000, largest // 2])
            resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (limit, limit))
        code = child.wait()
        (place / "ballast").unlink(missing_ok=True)
        return code

    def full_extract(self):
        with small_disk(self.folder, 30) as place:
            output = place / "a.h5"
            child = self.extract(output)
            code = self.strike(child, place, (place / "a.h5.partial").exists, self.seconds)
            promised = any(words in child.said() for words in PROMISE)
            finished = output.exists()
            wrong = finished and not same(output, self.folder / "whole.h5")
            broken = False
            if promised:
                broken = self.extract(output, "--resume").wait() != 0 or not same(output, self.folder / "whole.h5")
            return code, finished, wrong, promised, broken, child.said()

    def full_finetune(self):
        with small_disk(self.folder, 20) as place:
            output = place / "run"
            child = self.finetune(output)
            code = self.strike(child, place, (place / "run.partial").exists, self.run_seconds)
            promised = any(words in child.said() for words in PROMISE) or (place / "run.partial").exists()
            finished = output.exists()
            wrong = finished and not self.right_run(output)
            broken = False
            if promised:
                broken = self.finetune(output, "--resume").wait() != 0 or not self.right_run(output)
            return code, finished, wrong, promised, broken, child.said()

    def right_run(self, output):
        stores = sorted(path.relative_to(self.folder / "whole") for path in (self.folder / "whole").rglob("*.h5"))
        return all(verify(output / store) and same(output / store, self.folder / "whole" / store) for store in stores)


def main():
    kills, moments = (int(word) for word in (*sys.argv[1:], "100", "30")[:2]) if len(sys.argv) != 2 else (int(sys.argv[1]), 30)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        faults = Faults(Path(name))
        print(f"{ROWS:,} rows, four layers; a run takes {faults.seconds:.1f} s, finetune {faults.run_seconds:.1f} s")
        right = sum(faults.kill(number) for number in range(kills))
        print(f"  killed and resumed: {right} of {kills} files right in every row", flush=True)
        if os.geteuid():
            print("  filling a disk needs root")
            return
        for what, strike, count in (
            ("extract", faults.full_extract, moments - moments // 3),
            ("finetune", faults.full_finetune, moments // 3),
        ):
            found = [strike() for _ in range(count)]
            for code, _, wrong, _, broken, said in found:
                if code not in (0, 1) or wrong or broken or "Traceback" in said:
                    print(f"    exit code {code}: {said[-300:]}")
            print(
                f"  {what}, disk full or files limited, {count} moments: {sum(code != 0 for code, *_ in found)} failed, "
                f"{sum('Traceback' in said or code not in (0, 1) for code, *_, said in found)} without a clear line; "
                f"{sum(finished for _, finished, *_ in found)} finished, {sum(wrong for _, _, wrong, *_ in found)} wrong; "
                f"{sum(promised for *_, promised, _, _ in found)} could be resumed by what was said, "
                f"{sum(broken for *_, broken, _ in found)} of them did not"
            )


if __name__ == "__main__":
    main()
