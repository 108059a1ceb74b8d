"""UMAP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedscope.errors import InputError, check_number
from embedscope.plotting import projection
from embedscope.plotting.pca import principal_components

if TYPE_CHECKING:
    import numpy as np


@projection(title="UMAP")
def umap(features: np.ndarray[Any, Any], *, seed: int = 0, neighbors: int = 15) -> np.ndarray[Any, Any]:
    """UMAP: keeps neighbourhoods and something of the larger shape; distances between clusters mean little.

    (n, D) -> (n, 2). A seed makes it repeatable on one machine and costs its parallelism. arXiv:1802.03426.
    """
    from umap import UMAP

    if len(features) < 4:
        raise InputError(f"UMAP needs at least 4 rows, got {len(features)}; use --kind pca")
    check_number("neighbors", neighbors, low=2)
    # With a seed umap runs on one thread; saying so ourselves keeps it from warning.
    layout = UMAP(n_neighbors=max(2, min(int(neighbors), len(features) - 1)), random_state=seed, n_jobs=1)
    points: np.ndarray[Any, Any] = layout.fit_transform(principal_components(features, 50, seed))
    return points
