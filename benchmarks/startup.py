"""How long until a command begins? CPU seconds of whole processes, medians, beside the limit each is held against."""

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

RUNS = 7


def cpu_seconds(arguments: list[str]) -> float:
    """CPU time of a process and its children, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npz"
        generator = np.random.default_rng(0)
        np.savez(path, X=generator.normal(size=(582, 64)).astype(np.float32), y=np.arange(582) % 10)
        commands = {
            "python -c pass": ["-c", "pass"],
            "embedscope --help": ["-m", "embedscope", "--help"],
            "python -c 'import torch'": ["-c", "import torch"],
            "embedscope score, 582 x 64": ["-m", "embedscope", "score", str(path)],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(RUNS):
            for name, arguments in commands.items():
                times[name].append(cpu_seconds(arguments))
    print(f"{'command':30} {'median':>8} {'min':>8} {'max':>8}   CPU seconds, {RUNS} runs")
    for name, values in times.items():
        print(f"{name:30} {statistics.median(values):8.2f} {min(values):8.2f} {max(values):8.2f}")


if __name__ == "__main__":
    main()
