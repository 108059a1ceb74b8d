"""Does a killed extraction end in the same file? SIGKILL at random moments of runs over 20,000 rows, each then resumed."""

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

KILLS = 20
ROWS = 20_000
NET = """
import torch
from torch import nn

def Net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
"""


def contents(path: Path) -> dict[str, np.ndarray]:
    """All datasets of a store but its provenance, which holds the time."""
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if hasattr(item, "dtype") else None)
    del found["provenance"]
    return found


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def main() -> None:
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "net.py").write_text(NET, encoding="utf-8")
        generator = np.random.default_rng(0)
        np.savez(folder / "data.npz", X=generator.normal(size=(ROWS, 64)).astype(np.float32), y=np.arange(ROWS) % 10)

        def start(output: Path, *options: str) -> subprocess.Popen[bytes]:
            layers = [word for layer in ("0", "1", "3", "output") for word in ("-l", layer)]
            where = [f"{folder / 'net.py'}:Net", str(folder / "data.npz"), "-o", str(output)]
            command = [sys.executable, "-m", "embedscope", "extract", *where, *layers, "-q", "--batch-size", "20", *options]
            return subprocess.Popen(command, stderr=subprocess.DEVNULL)

        def run(output: Path, *options: str) -> float:
            started = time.monotonic()
            assert start(output, *options).wait() == 0
            return time.monotonic() - started

        whole = run(folder / "whole.h5")
        expected = contents(folder / "whole.h5")
        equal, missed, rows = 0, 0, []
        while len(rows) < KILLS:
            kill = len(rows) + missed
            output = folder / f"{kill}.h5"
            partial = folder / f"{kill}.h5.partial"
            process = start(output)
            while not partial.exists() and process.poll() is None:  # most of the time goes to imports: kill what writes
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 1.5))
            process.kill()
            process.wait()
            if not partial.exists():  # it had finished
                missed += 1
                output.unlink()
                continue
            with h5py.File(partial) as file:
                rows.append(int(file["rows/done"][()]))
            run(output, "--resume")
            equal += same(contents(output), expected)
            output.unlink()
    print(f"{KILLS} runs over {ROWS:,} rows, four layers; a whole run takes {whole:.1f} s")
    print(f"  killed with {', '.join(f'{count:,}' for count in sorted(rows))} rows committed")
    print(f"  resumed files equal: {equal} of {KILLS}")


if __name__ == "__main__":
    main()
