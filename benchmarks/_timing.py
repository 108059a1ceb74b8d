"""Time functions side by side in one process: in turn, so that a drift of the machine meets all of them alike."""

import statistics
import time
from collections.abc import Callable


def side_by_side(
    functions: dict[str, Callable[[], object]], runs: int, *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Run each function once unmeasured, then all in turn `runs` times; print and return medians in seconds."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(runs):
        for name, function in functions.items():
            started = clock()
            function()
            times[name].append(clock() - started)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(f"  {name:48} {medians[name]:8.3f} s  ({min(values):.3f} to {max(values):.3f}, {runs} runs)")
    return medians
