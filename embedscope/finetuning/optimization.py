"""Optimizers and schedules of the learning rate, by the names that torch gives them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from embedscope.finetuning.specs import check_optimizer, check_schedule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.optim import Optimizer


def build_optimizer(
    spec: str, parameters: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]], learning_rate: float, weight_decay: float
) -> Optimizer:
    """Make the optimizer that a spec names, see `specs.check_optimizer`."""
    name, options = check_optimizer(spec)
    if name == "adamw":
        betas = (float(options["beta1"]), float(options["beta2"]))
        return torch.optim.AdamW(parameters, lr=learning_rate, betas=betas, weight_decay=weight_decay)
    return torch.optim.SGD(parameters, lr=learning_rate, weight_decay=weight_decay, **options)


class Schedule:
    """The learning rate over a training: `after_step` and `after_epoch` tell it how far it is.

    cosine     from the learning rate to 0, step by step, over all epochs
    plateau    times `factor` after more than `patience` epochs in which the validation did not get better
    constant   as it is
    """

    def __init__(self, spec: str, optimizer: Optimizer, epochs: int) -> None:
        name, options = check_schedule(spec)
        self._optimizer = optimizer
        self._first = [group["lr"] for group in optimizer.param_groups]
        self._epochs = epochs if name == "cosine" else None
        self._plateau = (
            torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", threshold=0.0, **options)
            if name == "plateau"
            else None
        )

    def after_step(self, progress: float) -> None:
        """Set the rate for the next step; `progress` is how many epochs are behind, whole and broken ones."""
        if self._epochs is not None:
            share = (1 + math.cos(math.pi * min(progress / self._epochs, 1.0))) / 2
            for group, first in zip(self._optimizer.param_groups, self._first, strict=True):
                group["lr"] = first * share

    def after_epoch(self, validation: float) -> None:
        """Take in how good the epoch was, higher is better."""
        if self._plateau is not None:
            self._plateau.step(validation)

    def state_dict(self) -> dict[str, Any]:
        """All that changes."""
        return {} if self._plateau is None else dict(self._plateau.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        if self._plateau is not None:
            self._plateau.load_state_dict(state)
