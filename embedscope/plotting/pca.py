"""Principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedscope.plotting import kind
from embedscope.plotting.layouts import Layout, draw_layouts, laid_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from embedscope.plotting.inputs import Embedding
    from embedscope.plotting.layouts import Anchors

    Array = np.ndarray[Any, Any]


@kind("PCA", takes="points", draw=draw_layouts)
def pca(inputs: Sequence[Embedding], *, seed: int = 0) -> list[Layout]:
    """First two principal components: a linear projection.

    Rows that are far apart in the picture are far apart in the features, but not the reverse.
    One layout per input; the second direction is 0 if the embedding has a single dimension. Those after the first are rotated
    and reflected in their plane onto the first (Procrustes) where rows are the same. The seed is for the solver's start only.
    """

    def project(each: Embedding, rows: Array, anchors: Anchors | None) -> Layout:
        points, shares = components(rows, 2, seed)
        if anchors is None:
            names = f"component 1 ({100 * shares[0]:.0f}%)", f"component 2 ({100 * shares[1]:.0f}%)"
            return Layout(each, points, "PCA", names, _MADE)
        names = f"components 1, 2 ({100 * shares.sum():.0f}%)", ""
        return Layout(each, anchors.turned(points), "PCA", names, _MADE, f"aligned with {anchors.name} (Procrustes)")

    return laid_out(inputs, project, "PCA")


_MADE = "In brackets: share of the variance."


def components(rows: Array, count: int, seed: int) -> tuple[Array, Array]:
    """Project on `count` principal components: (n, D) -> (n, count), (count,) shares of the variance; 0 beyond min(n, D)."""
    import numpy as np
    from sklearn.decomposition import PCA

    found = PCA(min(count, *rows.shape), random_state=seed)
    points = found.fit_transform(rows)
    more = count - points.shape[1]
    return np.pad(points, ((0, 0), (0, more))), np.pad(found.explained_variance_ratio_, (0, more))
