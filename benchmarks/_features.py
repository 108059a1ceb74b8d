"""Features as trained networks have them: a hierarchy of class means, decaying spectra, directions of each class, heavy tails.

With the spreads below, the bounds of `ops.class_bounds` leave about as many classes as on the features of a ResNet trained on
CIFAR-100 (50,000 x 256, 100 classes: 20.8 after stage 1, 3.6 after stage 2 with 8 directions, 2.5 with exact covariances).
"""

import torch

DIRECTIONS = 16


def network_features(rows: int, width: int, classes: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Make (N, D) float32 features and (N,) labels, in random order."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    axis = torch.arange(1, width + 1, dtype=torch.float32)
    between = axis**-0.5 / (axis**-1).sum().sqrt()
    within = axis**-1 / (axis**-2).sum().sqrt()
    parents = normal(max(1, classes // 5), width) * between
    means = 0.7**0.5 * parents[torch.arange(classes) % len(parents)] + 0.3**0.5 * normal(classes, width) * between
    labels = (torch.arange(rows) % classes)[torch.randperm(rows, generator=generator)]
    spectrum = torch.arange(1, min(DIRECTIONS, width) + 1) ** -1.0
    spectrum = spectrum / spectrum.square().sum().sqrt()
    order = labels.argsort(stable=True)
    features = torch.empty(rows, width)
    for label, members in enumerate(order.split(torch.bincount(labels, minlength=classes).tolist())):
        shared = normal(len(members), width) * within
        directions = torch.linalg.qr(normal(width, len(spectrum)) * between[:, None])[0]
        own = (normal(len(members), len(spectrum)) * spectrum) @ directions.T
        tail = (0.3 * normal(len(members), 1) + 0.2 * normal(1)).exp()
        features[members] = means[label] + tail * (shared + own) / 2**0.5
    turn = torch.linalg.qr(normal(width, width))[0]
    return features @ turn, labels
