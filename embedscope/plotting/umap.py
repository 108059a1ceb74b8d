"""UMAP."""

from __future__ import annotations

import importlib.metadata
import os
from typing import TYPE_CHECKING, Any

from embedscope.arguments import check_whole
from embedscope.errors import UndefinedError
from embedscope.plotting import kind
from embedscope.plotting.layouts import Layout, draw_layouts, laid_out
from embedscope.plotting.pca import components

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from embedscope.plotting.inputs import Embedding
    from embedscope.plotting.layouts import Anchors

    Array = np.ndarray[Any, Any]


@kind("UMAP", takes="points", draw=draw_layouts)
def umap(inputs: Sequence[Embedding], *, seed: int | None = 0, neighbors: int = 15) -> list[Layout]:
    """UMAP map: preserves neighborhoods and some of the global structure.

    A layout an input, of its first 50 principal components. It starts from UMAP's own spectral layout; where rows are the same
    as those of the first input, from the layout of that, and it is turned onto it in the end. A seed makes it repeatable on one
    machine and costs its parallelism: it then runs on one core. `umap(seed=None)` takes all cores and never gives the same
    picture twice. arXiv:1802.03426.
    """
    neighbors = check_whole("neighbors", neighbors, low=2)

    def project(each: Embedding, rows: Array, anchors: Anchors | None) -> Layout:
        import numpy as np
        from umap import UMAP

        if len(rows) < 4:
            raise UndefinedError(f"UMAP needs at least 4 rows, got {len(rows)} in {each.name}; use `kinds=pca`")
        reduced, _ = components(rows, max(2, min(50, *rows.shape)), seed or 0)
        start: str | Array = "spectral"
        if anchors is not None:
            start = anchors.start(reduced[:, :2]).astype(np.float32)
        nearest = min(neighbors, len(rows) - 1)
        # With a seed umap runs on one thread; saying so ourselves keeps it from warning.
        layout = UMAP(n_neighbors=nearest, init=start, random_state=seed, n_jobs=1 if seed is not None else os.cpu_count())
        points = layout.fit_transform(reduced).astype(np.float64)
        repeatable = "no seed, not reproducible" if seed is None else f"seed {seed}"
        return Layout(
            each,
            points if anchors is None else anchors.turned(points),
            "UMAP",
            ("UMAP 1", "UMAP 2"),
            f"umap-learn {importlib.metadata.version('umap-learn')}, {nearest} neighbors, {repeatable}.",
            "" if anchors is None else f"initialized from the layout of {anchors.name} and aligned with it",
        )

    return laid_out(inputs, project, "UMAP")
