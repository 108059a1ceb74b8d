"""The linear classifier behind logits: recovered by least squares where the logits are linear in the features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedscope import distributed
from embedscope.errors import UndefinedError
from embedscope.ops.blocks import over_rows

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows

# Singular values of the features up to this share of the largest are left out: logits in single precision say nothing there.
_CUTOFF = 1e-5


@dataclass(frozen=True)
class Head:
    """A linear map from features to logits.

    Attributes:
        weight: (L, D) float64, with nothing outside of the span of the features.
        rank: number of dimensions that the features span.
        residual: norm of what the map leaves of the logits, over that of the logits, both about their means.
    """

    weight: Tensor
    rank: int
    residual: float


def check_logits(logits: Rows | None, classes: int) -> Rows:
    """Return the logits if there is a column for each class; UndefinedError otherwise."""
    if logits is None:
        raise UndefinedError("there are no logits; extract the features with `logits=True`")
    if logits.shape[1] != classes:
        raise UndefinedError(f"the logits have {logits.shape[1]:,} columns and the data {classes:,} classes")
    return logits


def linear_head(features: Rows, logits: Rows, mean: Tensor) -> Head:
    """Fit logits (N, L) by a linear map of features (N, D) about their mean (D,), and an offset: least squares, of least norm.

    Two passes over the logits and one over the features, in float64.

    Raises:
        UndefinedError: logits that are constant or not finite; or features in which all rows are independent, where any logits
            are linear.
    """
    rows, width = features.shape
    offset = torch.zeros(logits.shape[1], dtype=torch.float64, device=mean.device)
    for _, block in over_rows(logits, torch.float64, mean.device):
        offset += block.sum(dim=0)
    distributed.all_reduce([offset])
    offset /= rows
    gram = torch.zeros(width, width, dtype=torch.float64, device=mean.device)
    cross = torch.zeros(width, len(offset), dtype=torch.float64, device=mean.device)
    total = torch.zeros(1, dtype=torch.float64, device=mean.device)
    for place, block in over_rows(features, torch.float64, mean.device):
        centered, answers = block - mean, logits[place].to(mean.device, torch.float64) - offset
        gram += centered.T @ centered
        cross += centered.T @ answers
        total += answers.square().sum()
    distributed.all_reduce([gram, cross, total])
    if not 0 < float(total) < torch.inf:
        raise UndefinedError("the logits are constant or not finite")
    values, axes = torch.linalg.eigh(gram)
    kept = values > values[-1].clamp(min=torch.finfo(values.dtype).tiny) * _CUTOFF**2
    if (rank := int(kept.sum())) >= rows - 1:
        raise UndefinedError(f"{rows:,} rows are too few for the number of dimensions: any logits would be linear in them")
    axes = axes[:, kept]
    weight = (axes / values[kept]) @ (axes.T @ cross)  # (D, L)
    left = float((total - (weight * cross).sum()).clamp(min=0) / total)
    return Head(weight.T, rank, left**0.5)
