"""How fast the eigenvalues fall: the exponent of their power law."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedscope.arguments import check_whole
from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.gathering import gathered
from embedscope.ops.spectrum import covariance
from embedscope.text import counted

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
def power_law_alpha(features: Rows, labels: Tensor, *, first: int = 4, last: int = 100) -> Result:
    """Power-law exponent alpha of the eigenvalues by rank.

    Minus the slope of ln eigenvalue against ln rank, with ranks weighted by 1 / rank.

    Args:
        features: (N, D), any float dtype.
        labels: not read, only their device is.
        first: rank from which eigenvalues count, from 1.
        last: rank up to which they count. The window is that of the authors' code: the largest eigenvalues do not follow the
            law, and those beyond bend with N / D. Without a window, noise has an exponent near 1 too.

    Returns:
        A value >= 0: 0 where all directions hold the same variance; the paper finds values near 1 to go with the best
        downstream accuracy. A note where there are fewer than 10 samples per dimension.

    Raises:
        UndefinedError: fewer than 2 eigenvalues above 0 in the window.

    Reference: arXiv:2202.05808 (alpha-ReQ); the window is that of Stringer et al. 2019, doi:10.1038/s41586-019-1346-5.
    """
    first, last = check_whole("first", first, low=1), check_whole("last", last, low=2)
    eigenvalues = gathered(covariance, features, labels).eigenvalues()
    heights = eigenvalues[eigenvalues > 0][first - 1 : last].log()
    if len(heights) < 2:
        raise UndefinedError(f"needs at least 2 eigenvalues above 0 at ranks {first} to {last}, got {len(heights)}")
    ranks = torch.arange(first, first + len(heights), dtype=heights.dtype, device=heights.device)
    weights = (1 / ranks) / (1 / ranks).sum()
    places = ranks.log() - (weights * ranks.log()).sum()
    slope = (weights * places * heights).sum() / (weights * places.square()).sum()
    count, width = features.shape
    size = f"{counted(count, 'sample')} of {counted(width, 'dimension')}"
    few = f"{size}: with fewer than 10 per dimension the spectrum falls too fast"
    return Result(float(-slope), note=few if count < 10 * width else None)
