"""Cosines and angles with gradients, for rows of any length, and margins on them."""

from __future__ import annotations

import torch
from torch import Tensor

# A row shorter than this has no direction; its reciprocal is a finite gradient in float32 (as in torch's normalize).
_SHORTEST = 1e-12

KINDS = ("arc", "cos")


def directions(rows: Tensor) -> Tensor:
    """Divide every row by its length: (B, D) -> (B, D). A row shorter than 1e-12 becomes 0 and gets no gradient.

    For losses. What measures, without gradients, takes `class_moments.unit_rows`, which gives rows of any length their
    direction and reads them once, not three times.
    """
    # A row is first scaled by its largest number, a constant to the gradient, so that squares neither overflow nor vanish.
    largest = rows.detach().abs().amax(dim=1, keepdim=True)  # (B, 1)
    zero = largest < _SHORTEST
    scaled = (rows / largest.masked_fill(zero, 1)).masked_fill(zero, 0)
    lengths = scaled.masked_fill(zero, 1).square().sum(dim=1, keepdim=True).sqrt()
    return scaled / lengths


def cosines(x: Tensor, y: Tensor) -> Tensor:
    """Cosines between every row of x and every row of y: (B, D), (M, D) -> (B, M); 0 where one of the two is zero."""
    return directions(x) @ directions(y).T


def angles(cosine: Tensor) -> Tensor:
    """Take the arc cosine, in [0, pi]: any shape. At 0 and pi, where its slope is infinite, the gradient is 0."""
    inside = cosine.abs() < 1 - 4 * torch.finfo(cosine.dtype).eps
    poles = torch.acos(cosine.detach().clamp(-1, 1))
    return torch.where(inside, torch.acos(torch.where(inside, cosine, 0)), poles)


def with_margin(cosine: Tensor, labels: Tensor, margin: Tensor | float, *, kind: str) -> Tensor:
    """Apply a margin to each row's own class: cosines (B, K), (B,), (B,) or one number -> (B, K).

    kind "arc" adds the margin (radians) to the angle, which is not held back at pi; "cos" takes it off the cosine.
    """
    own = cosine.gather(1, labels[:, None]).squeeze(1)  # (B,)
    harder = torch.cos(angles(own) + margin) if kind == "arc" else own - margin
    return cosine.scatter(1, labels[:, None], harder[:, None])
