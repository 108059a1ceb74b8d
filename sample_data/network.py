"""A small convolutional network for 8 x 8 gray digits."""

import torch
from torch import nn


class DigitNet(nn.Module):
    """(B, 1, 8, 8) -> (B, 10) logits; the embedding is the (B, 64) input of `classifier`."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.embedding = nn.Linear(width * 4 * 4, 64)
        self.classifier = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.conv1(images))
        maps = torch.max_pool2d(torch.relu(self.conv2(maps)), 2)
        return self.classifier(torch.relu(self.embedding(maps.flatten(1))))
