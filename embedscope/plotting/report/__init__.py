"""One page that opens anywhere, without a network: embeddings before and after, scored, drawn and listed.

`write` measures the views, packs what it found as JSON with arrays in base64 (`packing`), and puts it into `page.html` beside
`page.css`, `page.js` and plotly's script (`document`). All of what a reader sees is made by `page.js`; Python draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedscope._version import __version__
from embedscope.evaluation import evaluate
from embedscope.evaluation.comparing import best, differences
from embedscope.evaluation.evaluating import bound
from embedscope.evaluation.findings import with_comparison
from embedscope.metrics import STANDARD
from embedscope.plotting.report import document
from embedscope.plotting.report.packing import packed_rows, packed_run, packed_view, silhouettes
from embedscope.plotting.report.thumbnails import make_thumbnails
from embedscope.progress import Track, untracked
from embedscope.store.files import finished

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from embedscope.plotting.inputs import Run
    from embedscope.store.features import FeatureSet

    Array = np.ndarray[Any, Any]

SUFFIX = ".html"


@dataclass(frozen=True)
class View:
    """One embedding on the page.

    Attributes:
        features: its labelled rows, all of them.
        drawn: (n,) int64, ascending positions of the rows that the page shows.
        layouts: title such as "t-SNE" -> (n, 2) coordinates of those rows; at least one, the same titles in every view.
        unlabelled: rows that were left out because they have no label.
    """

    features: FeatureSet
    drawn: Array
    layouts: Mapping[str, Array]
    unlabelled: int = 0


def check_available() -> None:
    """Raise MissingExtraError with the pip line unless plotly is installed: before hours of projecting, not after."""
    document.plotly_script()


def write(
    path: Path,
    views: Sequence[View],
    *,
    runs: Sequence[Run] = (),
    metrics: str | Sequence[str] = STANDARD,
    command: str = "",
    seed: int = 0,
    images: str | None = None,
    track: Track = untracked,
) -> None:
    """Measure the views and write the page; a file of that name is replaced, and only by a page that is complete.

    Args:
        path: of the page.
        views: in the order in which they are to be compared; the first is "before".
        runs: of finetune, whose objectives and training curves are shown too.
        metrics: what the table of scores shows, as in `evaluation.evaluate`; figures measure what they need besides.
        command: what was typed, for the provenance.
        seed: of groups that are left out for intervals.
        images: where the images of the samples are, see `thumbnails.make_thumbnails`.
        track: shows progress over views.

    Raises:
        InputError: rows that hold NaN or infinite values, a run that cannot be read.
        MissingExtraError: plotly is not installed.
        OutputError: the file system refuses the page.
    """
    script = document.plotly_script()
    class_names = list(dict.fromkeys(name for view in views for name in view.features.class_names))
    shown_metrics = bound(metrics)
    listed = {each.name for each in shown_metrics}
    wanted = [each.spec for each in shown_metrics] + [name for name in STANDARD if name not in listed]
    found = [
        evaluate(view.features, wanted, anchors=view.drawn, ci=True, device="cpu", seed=seed)
        for view in track(views, "measuring", len(views))
    ]
    found = with_comparison(found, differences(found))
    rows, places = packed_rows([(view.features, view.drawn) for view in views], class_names)
    for number, row_set in enumerate(rows):
        shown = [entry for entry, place in zip(found, places, strict=True) if place == number]
        first = views[places.index(number)]
        row_set["thumbnails"], row_set["images"] = make_thumbnails(
            first.features, first.drawn, [silhouettes(each) for each in shown], images
        )
    data = {
        "command": command,
        "embedscope": __version__,
        "classes": class_names,
        "metrics": list(found[0].metrics)[: len(shown_metrics)],
        "rows": rows,
        "views": [
            packed_view(view.features, view.drawn, view.layouts, view.unlabelled, entry, place, class_names)
            for view, entry, place in zip(views, found, places, strict=True)
        ],
        "best": {key: best(found, key) for each in found for key in each.metrics},
        "runs": [packed_run(run) for run in runs],
    }
    title = "embedscope: " + ", ".join(view.features.name for view in views)
    with finished(path) as partial:
        partial.write_text(document.page(title, data, script), encoding="utf-8")
