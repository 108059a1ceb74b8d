"""Make everything in this folder again: the images, and two checkpoints of the network in network.py.

    python sample_data/make.py

The images are those of `sklearn.datasets.load_digits`: 1797 handwritten digits, 8 x 8, 17 levels of gray. The checkpoints are
the network after 20 steps of training (`early`) and after 30 epochs (`late`).
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from network import DigitNet
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

HERE = Path(__file__).parent
TEST_SHARE = 1 / 3
EARLY_STEPS = 20
EPOCHS = 30
BATCH = 64


def write_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Write digits/<split>/<class>/<row>.png and return the training rows, (N, 1, 8, 8) in [0, 1] and (N,)."""
    digits = load_digits()
    shutil.rmtree(HERE / "digits", ignore_errors=True)
    test = np.random.default_rng(0).random(len(digits.target)) < TEST_SHARE
    for row, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = HERE / "digits" / ("test" if test[row] else "train") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).save(folder / f"{row:04}.png", optimize=True)
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)[~test]
    return torch.from_numpy(pixels)[:, None].float() / 255, torch.from_numpy(digits.target[~test])


def train(images: torch.Tensor, labels: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = DigitNet()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    step = 0
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = torch.nn.functional.cross_entropy(network(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step == EARLY_STEPS:
                save_file(network.state_dict(), HERE / "early.safetensors")
    save_file(network.state_dict(), HERE / "late.safetensors")


if __name__ == "__main__":
    train(*write_images())
