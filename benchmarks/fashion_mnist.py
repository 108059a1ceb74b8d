"""What do the objectives of the three papers do to features of Fashion-MNIST?

Trains the small network of the Latent Boost paper once with cross-entropy, extracts its 64 dimensions, and trains heads on them
with each objective: 5 trials, the test split of the data set held out. Takes about half an hour on two cores.

    python benchmarks/fashion_mnist.py FOLDER_WITH_IDX_FILES OUTPUT_FOLDER
"""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

OBJECTIVES = (
    "ce",
    "ce + 0.5*silhouette",
    "ce + 0.5*gini@10 + 0.5*class_kl@10",
    "0.25*ce + 0.75*magnet",
    "0.25*ce + 0.75*latent_boost",
)
SHOWN = ("silhouette", "soft_silhouette", "gini", "class_kl", "knn_accuracy", "macro_f1", "accuracy")
EPOCHS = 6


def Net() -> nn.Module:  # noqa: N802 (a factory, as embedscope extract takes it)
    """Two convolutions, each with pooling and dropout of a quarter, and 64 latent dimensions before the classifier.

    Widths are not in the paper (its appendix A.1); these give its accuracy.
    """
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.Flatten(), nn.Linear(1600, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def train(folder: str, path: Path) -> None:
    """Adam, 6 epochs of the training images, in [0, 1]."""
    from embedscope.data import open_dataset

    data = open_dataset(folder)
    rows = [row for row, split in enumerate(data.split) if split == "train"]
    images = torch.stack([torch.as_tensor(data.inputs[row]) for row in rows]).float().reshape(-1, 1, 28, 28) / 255
    labels = torch.from_numpy(data.labels[rows])
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for epoch in range(EPOCHS):
        started, right = time.perf_counter(), 0
        for batch in torch.randperm(len(images)).split(128):
            logits = net(images[batch])
            loss = nn.functional.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            right += int((logits.argmax(1) == labels[batch]).sum())
        print(
            f"  epoch {epoch + 1}: {right / len(images):.4f} of the training images, {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    save_file(net.state_dict(), path)


def main(folder: str, output: str) -> None:
    """Train the network, extract, train the heads, and print the table."""
    from embedscope.data import open_dataset
    from embedscope.extraction import extract
    from embedscope.finetuning import conclusions, finetune
    from embedscope.models import open_model
    from embedscope.store import read_features

    place = Path(output)
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "net.safetensors").exists():
        train(folder, place / "net.safetensors")
    if not (place / "features.h5").exists():
        model = open_model(f"{__file__}:Net", str(place / "net.safetensors"))
        extract(model, open_dataset(folder), place / "features.h5")
    result = finetune(
        read_features(str(place / "features.h5")),
        place / "run",
        objectives=OBJECTIVES,
        head="mlp(128, 64)",
        trials=5,
        epochs=30,
        batch_size=256,
        learning_rate=1e-3,
        resume=(place / "run.partial").exists(),
        overwrite=True,
    )
    print(json.dumps(dict(result.before), indent=1))
    print("| objective | " + " | ".join(SHOWN) + " |")
    for done in result.objectives:
        cells = [f"{done.summary[name].mean:.4f} ± {done.summary[name].std:.4f}" for name in SHOWN]
        print(f"| `{done.expression}` | " + " | ".join(cells) + " |")
    print("\n".join(conclusions(result)))
    print(f"{result.seconds:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
