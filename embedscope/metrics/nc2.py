"""Neural collapse 2: how near the class means are to the simplex of equal norms and equal angles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedscope.metrics import Result, metric
from embedscope.ops.class_scatter import class_scatter
from embedscope.ops.gathering import gathered

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows


@metric(
    better="lower",
    bounds=(0, 2**0.5),
    invariant=("translation", "rotation", "scale"),
    reference="arXiv:2105.02375",
    needs=class_scatter,
)
def nc2(features: Rows, labels: Tensor) -> Result:
    """Distance of the class means from a simplex (NC2).

    |G / |G| - (I - 11'/K) / sqrt(K - 1)| in Frobenius norms, where G is the Gram matrix of the class means about their mean, in
    which every class counts the same.

    Args:
        features: (N, D), any float dtype.
        labels: (N,) integers; gaps allowed.

    Returns:
        A value in [0, sqrt 2], lower is more collapsed; 0 for means of equal norm at equal angles, and always with two classes.
        `arrays`: "norm_variation", the standard deviation of the norms (divisor K) over their mean; "angle_error", the
        mean over pairs of |cos + 1 / (K - 1)|, or None if a mean lies at the center.

    Raises:
        UndefinedError: fewer than two classes, or all class means are equal.

    Reference: Zhu et al. 2021, arXiv:2105.02375, section 4; the arrays are those of Papyan, Han and Donoho 2020,
    doi:10.1073/pnas.2015509117.
    """
    means = gathered(class_scatter, features, labels).between()
    count = len(means)
    gram = means @ means.T
    simplex = (torch.eye(count, dtype=gram.dtype, device=gram.device) - 1 / count) / (count - 1) ** 0.5
    norms = torch.linalg.vector_norm(means, dim=1)
    angles = None
    if bool(norms.all()):
        cosines = gram / norms[:, None] / norms
        pairs = ~torch.eye(count, dtype=torch.bool, device=gram.device)
        angles = float((cosines[pairs] + 1 / (count - 1)).abs().mean())
    return Result(
        float(torch.linalg.matrix_norm(gram / torch.linalg.matrix_norm(gram) - simplex)),
        arrays={"norm_variation": float(norms.std(correction=0) / norms.mean()), "angle_error": angles},
        note="always 0 with two classes" if count == 2 else None,
    )
