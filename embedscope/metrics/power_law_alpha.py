"""How fast the eigenvalues fall: the exponent of their power law."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.gathering import gathered
from embedscope.ops.spectrum import covariance

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


@metric(
    better=None,
    bounds=(0, None),
    invariant=("translation", "rotation", "scale"),
    reference="arXiv:2202.05808",
    needs=covariance,
    interval=False,
)
def power_law_alpha(features: Rows, labels: Tensor) -> Result:
    """Power-law exponent alpha: minus the least-squares slope of ln eigenvalue against ln rank, over eigenvalues above 0.

    (N, D), labels unused -> a value >= 0: 0 where all directions hold the same variance; the paper finds values
    near 1 to go with the best downstream accuracy. UndefinedError for fewer than 2 such eigenvalues.
    arXiv:2202.05808 (alpha-ReQ).
    """
    eigenvalues = gathered(covariance, features, labels).eigenvalues()
    heights = eigenvalues[eigenvalues > 0].log()
    if len(heights) < 2:
        raise UndefinedError(f"needs at least 2 eigenvalues above 0, got {len(heights)}")
    ranks = torch.arange(1, len(heights) + 1, dtype=heights.dtype, device=heights.device).log()
    ranks = ranks - ranks.mean()
    return Result(float(-(ranks * (heights - heights.mean())).sum() / ranks.square().sum()))
