"""How much slower than the bare loop is an extraction, and what does a second layer cost?

A small convolutional network on 60,000 arrays of 28 x 28, on the CPU: the same model, the same batches, no store.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from _timing import side_by_side
from torch import nn

from embedscope.data import open_dataset
from embedscope.extraction import extract
from embedscope.models.encoder import Encoder
from embedscope.models.preparation import Pixels

ROWS = 60_000
BATCH = 256


class Net(nn.Module):
    """Two convolutions and two Linears, as the networks that Fashion-MNIST is learned with."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.embedding = nn.Linear(32 * 49, 64)
        self.classifier = nn.Linear(64, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.classifier(self.embedding(x.flatten(1)).relu())


def main() -> None:
    torch.manual_seed(0)
    encoder = Encoder(Net().eval(), Pixels(), "Net")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (ROWS, 1, 28, 28), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "data.npz", X=images, y=np.arange(ROWS) % 10)
        dataset = open_dataset(str(Path(folder) / "data.npz"))
        whole = torch.from_numpy(images)

        def bare(layout: torch.memory_format) -> None:
            """The loop that one writes by hand: forward passes, and the features of one layer kept."""
            kept = []
            encoder.module.to(memory_format=layout)
            handle = encoder.module.classifier.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
            with torch.inference_mode():
                for start in range(0, ROWS, BATCH):
                    encoder.module((whole[start : start + BATCH].float() / 255).contiguous(memory_format=layout))
            encoder.module.to(memory_format=torch.contiguous_format)
            handle.remove()
            torch.cat(kept)

        def run(*layers: str) -> None:
            extract(
                encoder,
                dataset,
                Path(folder) / "a.h5",
                layers=layers,
                batch_size=BATCH,
                device="cpu",
                overwrite=True,
            )

        print(f"{ROWS:,} arrays of 28 x 28, batches of {BATCH}, {torch.get_num_threads()} threads")
        medians = side_by_side(
            {
                "the bare loop": lambda: bare(torch.contiguous_format),
                "the bare loop, channels last in memory": lambda: bare(torch.channels_last),
                "one layer, to a store": lambda: run("classifier.input"),
                "one layer with magnitudes": lambda: run("conv2"),
                "both in one run": lambda: run("classifier.input", "conv2"),
            },
            runs=7,
        )
    plain, laid_out, one, other, both = medians.values()
    print(f"  rows per second against the bare loop: {plain / one:.3f} (wanted 0.95), laid out alike: {laid_out / one:.3f}")
    print(f"  two layers in one run against two runs: {both / (one + other):.3f} (wanted 0.6)")


if __name__ == "__main__":
    main()
