"""Eigenvalues of the covariance of the features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope.ops.blocks import over_rows

if TYPE_CHECKING:
    from embedscope.records import Rows


def covariance_eigenvalues(features: Rows, device: torch.device | None = None) -> Tensor:
    """Compute the eigenvalues of the covariance (divisor N - 1), in float64: (N, D) -> (min(N, D),), descending, >= 0.

    From the D x D covariance or the N x N Gram matrix of the centred rows, whichever is smaller; rows are read by blocks,
    twice (mean, then products), so that a common offset costs no digits. One row gives a single 0.
    """
    rows, width = features.shape
    mean = torch.zeros(width, dtype=torch.float64, device=device)
    for _, block in over_rows(features, torch.float64, device):
        mean += block.sum(dim=0) / rows
    if rows < width:
        centred = torch.cat([block - mean for _, block in over_rows(features, torch.float64, device)])
        product = centred @ centred.T  # (N, N)
    else:
        product = torch.zeros(width, width, dtype=torch.float64, device=device)
        for _, block in over_rows(features, torch.float64, device):
            centred = block - mean
            product.addmm_(centred.T, centred)
    eigenvalues: Tensor = torch.linalg.eigvalsh(product / max(rows - 1, 1))
    return eigenvalues.flip(0).clamp(min=0)
