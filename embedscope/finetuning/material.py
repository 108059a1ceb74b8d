"""The rows of a run, where batches are drawn from, and the number that the head divides them by."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope import distributed
from embedscope.errors import InputError
from embedscope.finetuning.banks import place
from embedscope.finetuning.weighting import sample_weights
from embedscope.models.head import build_head
from embedscope.ops.blocks import over_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

    from embedscope.finetuning.banks import Bank
    from embedscope.finetuning.config import TrainingConfig
    from embedscope.finetuning.inputs import InputBank
    from embedscope.finetuning.networks import Subject
    from embedscope.finetuning.splitting import Parts
    from embedscope.models.head import Head
    from embedscope.models.network import Network
    from embedscope.ops.rows import Rows


@dataclass(frozen=True, eq=False)
class Material:
    """What all trainings of a run learn from.

    Attributes:
        features: (N, D) to train on.
        labels: (N,) int64 in 0..K-1, on the device that trains.
        num_classes: K.
        scale: root mean square of the features.
        validation: (V, D) to choose by, or None.
        validation_labels: (V,) int64 on the CPU, or None.
        weights: (N,) of the samples, on the device that trains, or None.
        inputs: of a network in training, in the place of `features`, which are then its embedding before training.
        held_out: inputs of the held-out rows, likewise.
        subject: the network, or None for a head.
    """

    features: Bank
    labels: Tensor
    num_classes: int
    scale: float
    validation: Bank | InputBank | None = None
    validation_labels: Tensor | None = None
    weights: Tensor | None = None
    inputs: InputBank | None = None
    held_out: InputBank | None = None
    subject: Subject | None = None

    def build(self, config: TrainingConfig, seed: int) -> Head | Network:
        """Make what is trained, as it is before training."""
        if self.subject is not None:
            return self.subject.start(self.num_classes, config.train, seed)
        return build_head(config.head, self.features.shape[1], self.num_classes, self.scale)

    def groups(self, head: Head | Network, criterion: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
        """Return the parameters of what is trained, with those of the objective, as the optimizer takes them."""
        first, before = head.groups()
        found: list[dict[str, Any]] = [{"params": [*first, *criterion.parameters()]}]
        if before and self.subject is not None:
            found.append({"params": before, "lr": self.subject.backbone_rate(config)})
        return found


def prepare(
    parts: Parts,
    config: TrainingConfig,
    device: torch.device,
    memory: int,
    folder: Path,
    say: Callable[[str], None],
    subject: Subject | None = None,
    held_out: Subject | None = None,
) -> Material:
    """Bring the rows where batches are drawn from: to the device if they take at most `memory` bytes, else to a file.

    Args:
        parts: the rows.
        config: how to train.
        device: that trains.
        memory: bytes that they may take.
        folder: for the file.
        say: called with a message about the file.
        subject: the network that is trained on them, or None for a head.
        held_out: that of the held-out rows.
    """
    scale = 1.0 if subject else root_mean_square(parts.train.features)
    classes, codes = np.unique(parts.train.labels, return_inverse=True)
    rows = place(parts.train.features, device, memory, folder)
    taken = rows.shape[0] * rows.shape[1] * 4
    if not isinstance(rows, torch.Tensor):
        say(f"the rows take {taken / 1e9:,.2f} GB, more than the memory limit; they are read from disk")
    validation: Bank | InputBank | None = None
    validation_labels = weights = None
    if parts.validation is not None:
        if subject is not None:
            validation = subject.bank(parts.validation)
        else:
            validation = place(parts.validation.features, device, memory - taken, folder)
        validation_labels = torch.from_numpy(np.searchsorted(classes, parts.validation.labels))
    if config.weights is not None:
        weights = sample_weights(config.weights, rows, len(classes), config.seed).to(device)
    labels = torch.from_numpy(codes).to(device)
    found = Material(rows, labels, len(classes), scale, validation, validation_labels, weights)
    if subject is None:
        return found
    return replace(found, inputs=subject.bank(parts.train), held_out=(held_out or subject).bank(parts.test), subject=subject)


def root_mean_square(features: Rows) -> float:
    """Compute the root mean square of (N, D) features in float64, 1 if all are 0; InputError if float32 cannot train on it."""
    own = sum(float(block.square().sum()) for _, block in over_rows(features, torch.float64))
    total = distributed.all_reduce_object(own, operator.add)
    scale = math.sqrt(total / (features.shape[0] * features.shape[1]))
    if not scale < 1e30:
        raise InputError(
            f"the features are too large to train on in float32 (root mean square {scale:.1e}); scale them down first"
        )
    if 0 < scale < 1e-30:
        raise InputError(
            f"the features are too small to train on in float32 (root mean square {scale:.1e}); scale them up first"
        )
    return scale or 1.0
