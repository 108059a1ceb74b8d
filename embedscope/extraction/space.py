"""Whether a store fits on the disk, before hours of extracting."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from embedscope.errors import OutputError
from embedscope.extraction.running import LOGITS

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from embedscope.extraction.running import Runner


def check_space(output: Path, runner: Runner, rows: int, dtype: np.dtype[Any]) -> None:
    """Raise OutputError if the store would not fit on the disk."""
    row = 0
    for name, (features, magnitudes) in runner.captured.items():
        row += features.shape[1] * (4 if name == LOGITS else dtype.itemsize)
        row += 0 if magnitudes is None else magnitudes.shape[1] * 4
    folder = next(parent for parent in output.absolute().parents if parent.exists())
    needed, free = int(rows * row * 1.02), _room(folder)  # chunks, checksums and labels are below 2 %
    if needed > free:
        raise OutputError(
            f"{output} would take {needed / 1e6:,.1f} MB and {folder.resolve()} has room for {free / 1e6:,.1f} MB (free space, "
            "and the limit of ulimit -f); choose another place, fewer layers, or `dtype='float16'`"
        )


def _room(folder: Path) -> int:
    """Bytes that a file may still take in a folder."""
    free = shutil.disk_usage(folder).free
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return free
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return free if limit == resource.RLIM_INFINITY else min(free, limit)
