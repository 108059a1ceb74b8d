"""How much memory does a long extraction take? 1,000,000 rows x 512 of a model that costs nothing: peak above the start."""

import os
import resource
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from embedscope.data.dataset import Dataset
from embedscope.extraction import extract
from embedscope.models.encoder import Encoder
from embedscope.models.preparation import Pixels

ROWS = 1_000_000
WIDTH = 512


class Made:
    """Inputs that are made when they are asked for: nothing of them is held."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.batch([index])[0]

    def batch(self, rows: Sequence[int]) -> torch.Tensor:
        return torch.tensor(rows, dtype=torch.float32)[:, None] + torch.arange(WIDTH)


def resident() -> float:
    """The resident size now, in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    dataset = Dataset(
        inputs=Made(),
        labels=np.arange(ROWS) % 1000,
        class_names=tuple(map(str, range(1000))),
        ids=tuple(map(str, range(ROWS))),
        split=None,
        location="made",
        fingerprint="",
    )
    encoder = Encoder(nn.Identity(), Pixels(), "Identity")
    with tempfile.TemporaryDirectory() as folder:
        warm = Path(folder) / "warm.h5"
        extract(encoder, dataset, warm, layers=["output"], limit=10_000, device="cpu")
        before = resident()
        done = extract(encoder, dataset, Path(folder) / "a.h5", layers=["output"], device="cpu")
        size = (Path(folder) / "a.h5").stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{done.rows:,} x {WIDTH} in {done.seconds:.1f} s, a store of {size / 2**20:,.0f} MB")
    print(f"  resident before the run {before:.0f} MB, peak {peak:.0f} MB: {peak - before:.0f} MB more (wanted at most 200)")


if __name__ == "__main__":
    main()
