"""The training loop: control flow from top to bottom, nothing hidden."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope.errors import InputError
from embedscope.finetuning.head import Head, build_head
from embedscope.losses.expression import build
from embedscope.ops.blocks import over_rows

if TYPE_CHECKING:
    from embedscope.records import Rows, Track


@dataclass(frozen=True)
class Plan:
    """What all trainings of a run share.

    Attributes:
        features: (N, D) float32, on the device that trains.
        labels: (N,) int64 in 0..K-1, there too.
        num_classes: K.
        head: spec of the head.
        epochs: passes over the rows.
        batch_size: rows a step.
        learning_rate: at the start.
        weight_decay: of AdamW.
    """

    features: Tensor
    labels: Tensor
    num_classes: int
    head: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float


def train(plan: Plan, objective: str, seed: int, track: Track) -> tuple[Head, list[dict[str, float]]]:
    """Train one head; return it in evaluation mode, and one line of means an epoch: epoch, objective, each term by name.

    The seed decides the start and the order of the batches, so that trainings of different objectives are paired. InputError
    as soon as the objective is not finite, with the terms that are not.
    """
    torch.manual_seed(seed)
    rows, dim = plan.features.shape
    scale = root_mean_square(plan.features) or 1.0
    head = build_head(plan.head, dim, plan.num_classes, scale).to(plan.features.device)
    criterion = build(objective, plan.num_classes, head.classify.in_features).to(plan.features.device)
    parameters = [*head.parameters(), *criterion.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay)
    steps = -(-rows // plan.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=plan.epochs * steps)
    order = torch.Generator().manual_seed(seed)
    log = []
    for epoch in track(range(1, plan.epochs + 1), f"training {objective} (seed {seed})", plan.epochs):
        criterion.start_epoch(epoch, plan.epochs)
        totals: defaultdict[str, float] = defaultdict(float)
        shuffled = torch.randperm(rows, generator=order).to(plan.features.device)
        for batch in torch.split(shuffled, plan.batch_size):
            embedding, logits = head(plan.features[batch])
            loss = criterion(embedding, plan.labels[batch], logits)
            if not torch.isfinite(loss):
                broken = ", ".join(name for name, value in criterion.terms.items() if not torch.isfinite(value))
                raise InputError(
                    f"{objective} is not finite in epoch {epoch}: {broken or 'the sum'}; lower the rate or weights"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            for name, value in {"objective": loss.detach(), **criterion.terms}.items():
                totals[name] += float(value) * len(batch) / rows
        log.append({"epoch": epoch, **totals})
    return head.eval(), log


def root_mean_square(features: Tensor) -> float:
    """Compute the root mean square of (N, D) features in float64; InputError if it is beyond float32, where a head trains."""
    total = sum(float(block.double().square().sum()) for block in torch.split(features, 4096))
    scale = math.sqrt(total / features.numel())
    if not scale < 1e30:
        raise InputError(f"the features are too large to train on in float32 (root mean square {scale:.1e}); divide them first")
    return scale


@torch.inference_mode()
def apply(head: Head, features: Rows) -> tuple[Tensor, Tensor]:
    """Run a head over any number of rows: (N, D) -> embedding (N, E) and predicted class (N,), both on the CPU."""
    device = head.scale.device
    parts = [head(block) for _, block in over_rows(features, torch.float32, device)]
    return torch.cat([embedding for embedding, _ in parts]).cpu(), torch.cat([out.argmax(dim=1) for _, out in parts]).cpu()
