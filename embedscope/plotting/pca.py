"""Principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedscope.plotting import projection

if TYPE_CHECKING:
    import numpy as np


@projection(title="PCA")
def pca(features: np.ndarray[Any, Any], *, seed: int = 0) -> np.ndarray[Any, Any]:
    """First two principal components: linear, so distances that are seen are real, but most of them are not seen.

    (n, D) -> (n, 2); the second is 0 where there is one dimension. Deterministic: the seed is for the solver's start only.
    """
    import numpy as np

    points = principal_components(features, 2, seed)
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))


def principal_components(features: np.ndarray[Any, Any], most: int, seed: int) -> np.ndarray[Any, Any]:
    """Project on at most `most` principal components, fewer where rows or dimensions are: (n, D) -> (n, k).

    t-SNE and UMAP are given 50: more cost time and change nothing that is seen.
    """
    from sklearn.decomposition import PCA

    points: np.ndarray[Any, Any] = PCA(min(most, *features.shape), random_state=seed).fit_transform(features)
    return points
