"""t-SNE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedscope.errors import check_number
from embedscope.plotting import projection
from embedscope.plotting.pca import principal_components

if TYPE_CHECKING:
    import numpy as np


@projection(title="t-SNE")
def tsne(features: np.ndarray[Any, Any], *, seed: int = 0, perplexity: float = 30.0) -> np.ndarray[Any, Any]:
    """t-SNE: keeps neighbourhoods; sizes of clusters and distances between them mean nothing.

    (n, D) -> (n, 2), started from the principal components and seeded. van der Maaten & Hinton 2008, jmlr.org/papers/v9.
    """
    from sklearn.manifold import TSNE

    feasible = min(check_number("perplexity", perplexity, above=0), (len(features) - 1) / 3)
    layout = TSNE(perplexity=max(feasible, 0.5), init="pca" if min(features.shape) >= 2 else "random", random_state=seed)
    points: np.ndarray[Any, Any] = layout.fit_transform(principal_components(features, 50, seed))
    return points
