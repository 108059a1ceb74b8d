"""The LDA rank: in how many directions classes are set apart, relative to the spread within them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedscope.arguments import check_choice, check_number
from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.class_scatter import class_scatter
from embedscope.ops.gathering import gathered
from embedscope.ops.spectrum import entropy_rank

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows

# The paper's, added to every normalized eigenvalue.
_EPS = 1e-7
_DIVISORS = ("unbiased", "none")


@metric(
    better=None,
    bounds=(1, None),
    invariant=("translation", "rotation"),
    reference="arXiv:2312.04000",
    needs=class_scatter,
    interval=False,
)
def lda_rank(features: Rows, labels: Tensor, *, delta: float = 1e-4, divisors: str = "unbiased") -> Result:
    """LDA rank: number of directions that separate the classes, by entropy.

    exp of the entropy of the eigenvalues of S_w^-1/2 S_b S_w^-1/2, normalized to sum 1, plus 1e-7: LiDAR (arXiv:2312.04000)
    with the labels as classes, where the paper has the views of one sample. S_b is of the class means about their mean, every
    class alike, and S_w of all rows about their class means.

    Args:
        features: (N, D), any float dtype.
        labels: (N,) integers; gaps allowed.
        delta: > 0, added to the diagonal of S_w, in the squared unit of the features; the paper's 1e-4, as in
            stable-pretraining; reptrix has 1e-6.
        divisors: "unbiased" divides S_b by K - 1 and S_w by N - K, as the paper and stable-pretraining; "none" leaves S_b a sum
            and divides S_w by K, as reptrix.

    Returns:
        A value, about 1 to K - 1; neither direction is better.

    Raises:
        UndefinedError: fewer than two classes, every class has one row, or all class means are equal.
    """
    check_number("delta", delta, above=0)
    check_choice("divisors", divisors, _DIVISORS)
    scatter = gathered(class_scatter, features, labels)
    means = scatter.between()
    count, rows = len(means), float(scatter.counts.sum())
    if rows == count:
        raise UndefinedError("every class has one row: there is no spread within classes")
    # S_b enters by its proportions only.
    within = scatter.within / (rows - count if divisors == "unbiased" else count)
    root = torch.linalg.cholesky(within + delta * torch.eye(len(within), dtype=within.dtype, device=within.device))
    scaled = torch.linalg.solve_triangular(root, means.T, upper=False)  # (d, K)
    # K x K, with the eigenvalues of the D x D matrix that are not 0.
    eigenvalues = torch.linalg.eigvalsh(scaled.T @ scaled).clamp(min=0).flip(0)[: features.shape[1]]
    shares = eigenvalues.new_zeros(features.shape[1])
    shares[: len(eigenvalues)] = eigenvalues / eigenvalues.sum()
    return Result(float(entropy_rank(shares + _EPS)))
