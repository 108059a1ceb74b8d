"""t-SNE."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from typing import TYPE_CHECKING, Any

from embedscope.arguments import check_number
from embedscope.plotting import kind
from embedscope.plotting.layouts import Layout, draw_layouts, laid_out
from embedscope.plotting.pca import components

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from embedscope.plotting.inputs import Embedding
    from embedscope.plotting.layouts import Anchors

    Array = np.ndarray[Any, Any]

# Fewer rows are laid out faster by one core: at 582, two cores take twice as long.
_WORTH_SHARING = 5000


@kind("t-SNE", takes="points", draw=draw_layouts)
def tsne(inputs: Sequence[Embedding], *, seed: int = 0, perplexity: float = 30.0) -> list[Layout]:
    """t-SNE map: preserves neighborhoods, but not cluster sizes or distances.

    A layout an input, of its first 50 principal components, by openTSNE if that is installed, else by scikit-learn. It starts
    from the first two components; where rows are the same as those of the first input, from the layout of that, and it is
    turned onto it in the end. Seeded: repeatable with the same library on the same number of cores.
    van der Maaten & Hinton 2008, jmlr.org/papers/v9.
    """
    check_number("perplexity", perplexity, above=0)

    def project(each: Embedding, rows: Array, anchors: Anchors | None) -> Layout:
        reduced, _ = components(rows, max(2, min(50, *rows.shape)), seed)
        start = reduced[:, :2] if anchors is None else anchors.start(reduced[:, :2])
        feasible = max(min(perplexity, (len(rows) - 1) / 3), 0.5)
        points, library = embedded(reduced, start, feasible, seed)
        return Layout(
            each,
            points if anchors is None else anchors.turned(points),
            "t-SNE",
            ("t-SNE 1", "t-SNE 2"),
            f"{library}, perplexity {feasible:.3g}, seed {seed}.",
            "" if anchors is None else f"initialized from the layout of {anchors.name} and aligned with it",
        )

    return laid_out(inputs, project, "t-SNE")


def embedded(rows: Array, start: Array, perplexity: float, seed: int) -> tuple[Array, str]:
    """Run t-SNE on (n, D) rows from an (n, 2) start; return (n, 2) points, and the library with its version.

    The start is brought to a standard deviation of 1e-4, as Kobak & Berens 2019 advise, doi:10.1038/s41467-019-13056-x.
    """
    import numpy as np

    scaled = 1e-4 * (start - start.mean(axis=0)) / (start.std(axis=0).max() or 1.0)
    scaled = scaled + np.random.default_rng(seed).normal(scale=1e-6, size=scaled.shape)  # equal rows would never part
    if importlib.util.find_spec("openTSNE"):
        from openTSNE import TSNE

        cores = 1 if len(rows) < _WORTH_SHARING else os.cpu_count()
        found = TSNE(perplexity=perplexity, initialization=scaled, n_jobs=cores, random_state=seed).fit(rows)
        return np.asarray(found, dtype=np.float64), f"openTSNE {importlib.metadata.version('openTSNE')}"
    from sklearn.manifold import TSNE

    points = TSNE(perplexity=perplexity, init=scaled.astype(np.float32), random_state=seed).fit_transform(rows)
    return points.astype(np.float64), f"scikit-learn {importlib.metadata.version('scikit-learn')}"
