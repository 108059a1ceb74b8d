"""What does training a whole network cost beyond its steps? Against a loop written by hand, on the Fashion-MNIST network.

The network of the Latent Boost paper (papers/network.py) with cross-entropy, 6,000 images of 28 x 28 in memory, batches of 128
drawn alike, AdamW and a cosine schedule; nothing is validated. CPU seconds of one thread, in turn in one process, so that other
work on the machine counts little. Then the same with 8-bit inputs, kept as they are because float32 would not fit.
"""

import time
from dataclasses import replace

import torch
from _timing import side_by_side
from papers.network import LatentNet
from torch import nn

from embedscope.data.dataset import Dataset
from embedscope.finetuning.config import TrainingConfig
from embedscope.finetuning.inputs import InputBank, prepare_inputs
from embedscope.finetuning.material import Material
from embedscope.finetuning.networks import Subject
from embedscope.finetuning.sampling import Shuffled
from embedscope.finetuning.training import Training
from embedscope.models.encoder import Encoder
from embedscope.models.network import plan
from embedscope.models.preparation import Pixels
from embedscope.progress import untracked

ROWS, BATCH, EPOCHS = 6_000, 128, 1


class Images:
    """Arrays in memory, as a data set gives them."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.pixels[row]

    def batch(self, rows: list[int]) -> torch.Tensor:
        return self.pixels[torch.tensor(rows)]


def by_hand(inputs: torch.Tensor, labels: torch.Tensor) -> None:
    """The same network, batches, optimizer and schedule; nothing logged, nothing looked at."""
    torch.manual_seed(0)
    network = LatentNet().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-4)
    sampler = Shuffled(ROWS, BATCH, 0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * -(-ROWS // BATCH))
    for epoch in range(1, EPOCHS + 1):
        for batch in map(torch.from_numpy, sampler.batches(epoch)):
            loss = nn.functional.cross_entropy(network(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def main() -> None:
    """Print medians and their ratios."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (ROWS, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.arange(ROWS) % 10
    dataset = Dataset(Images(pixels), labels.numpy(), tuple("0123456789"), range(ROWS), None, "memory", "")
    encoder = Encoder(module=LatentNet(), prepare=Pixels(), spec="LatentNet")
    inputs = pixels.float() / 255
    where = plan(encoder, inputs[:1])
    config = TrainingConfig(epochs=EPOCHS, batch_size=BATCH, backbone_learning_rate=3e-3)
    materials = {}
    for name, memory in (("embedscope", 10**9), ("embedscope, 8-bit inputs", inputs.nbytes // 2)):
        prepared = prepare_inputs(dataset, Pixels(), torch.device("cpu"), memory, untracked)
        subject = Subject(encoder, where, prepared, None, "")
        bank = InputBank(prepared, torch.arange(ROWS))
        materials[name] = replace(Material(torch.empty(ROWS, 64), labels, 10, 1.0), inputs=bank, subject=subject)
    functions = {"by hand": lambda: by_hand(inputs, labels)}
    for name, material in materials.items():
        functions[name] = lambda material=material: Training(material, config, "ce", 0).run(untracked, lambda: None)
    hand, *ours = side_by_side(functions, runs=5, clock=time.thread_time).values()
    print(f"  {', '.join(f'{each / hand:.3f}' for each in ours)} of the loop by hand (wanted 1.1)")


if __name__ == "__main__":
    main()
