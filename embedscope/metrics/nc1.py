"""Neural collapse 1: how little the rows of a class vary, in the directions in which class means differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.arguments import check_choice
from embedscope.errors import UndefinedError
from embedscope.metrics import Result, metric
from embedscope.ops.class_scatter import between_directions, class_scatter
from embedscope.ops.gathering import gathered

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.rows import Rows

_FORMS = ("pinv", "trace")


@metric(
    better="lower",
    bounds=(0, None),
    invariant=("translation", "rotation", "scale"),
    reference="doi:10.1073/pnas.2015509117",
    needs=class_scatter,
)
def nc1(features: Rows, labels: Tensor, *, form: str = "pinv") -> Result:
    """Within-class variability collapse (NC1): tr(S_B⁺ S_W) / K.

    S_W is the mean over rows of (x - mu_y)(x - mu_y)', S_B the mean over classes of (mu_k - mu_G)(mu_k - mu_G)', and mu_G the
    mean of the class means: with unequal classes, each counts the same in mu_G and S_B, and each row in S_W.

    Args:
        features: (N, D), any float dtype.
        labels: (N,) integers; gaps allowed.
        form: "pinv", or "trace" for the ratio tr(S_W) / tr(S_B), which reads all directions alike.

    Returns:
        A value of at least 0, lower is more collapsed. The pseudo-inverse leaves out eigenvalues of S_B up to max(K, D) eps
        (float64) of the largest, of which there is at least one where D >= K. `arrays`: "rank", the number that is left.

    Raises:
        UndefinedError: fewer than two classes, every class has one row, or all class means are equal.

    Reference: Papyan, Han and Donoho 2020, doi:10.1073/pnas.2015509117.
    """
    check_choice("form", form, _FORMS)
    scatter = gathered(class_scatter, features, labels)
    means = scatter.between()
    if float(scatter.counts.max()) == 1:
        raise UndefinedError("every class has one row: there is no spread within classes")
    within = scatter.within / float(scatter.counts.sum())
    variances, axes = between_directions(means)
    if form == "trace":
        value = within.trace() / means.square().sum(dim=1).mean()
    else:
        value = ((axes.T @ within * axes.T).sum(dim=1) / variances).sum() / len(means)
    return Result(max(float(value), 0.0), arrays={"rank": len(variances)})
