"""One page that opens anywhere, without a network: embeddings before and after, scored, drawn and listed.

`write` measures the views, packs what it found as JSON with arrays in base64 (`packing`), and puts it into `page.html` beside
`page.css`, `page.js` and plotly's script (`document`). All of what a reader sees is made by `page.js`; Python draws nothing.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedscope._version import __version__
from embedscope.evaluation import evaluate, find_issues
from embedscope.evaluation.comparing import best, differences
from embedscope.evaluation.comparison import compare
from embedscope.evaluation.evaluating import bound
from embedscope.evaluation.further_findings import with_comparison, with_issues
from embedscope.evaluation.ranking import rank_layers
from embedscope.metrics import STANDARD
from embedscope.plotting.figure import MAX_CLASSES, WORST, lowest
from embedscope.plotting.report import document
from embedscope.plotting.report.packing import (
    packed_comparison,
    packed_issues,
    packed_rows,
    packed_run,
    packed_view,
    silhouettes,
)
from embedscope.plotting.report.thumbnails import make_thumbnails
from embedscope.progress import Track, untracked
from embedscope.store.files import finished

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from embedscope.evaluation import Scores
    from embedscope.evaluation.comparison import Comparison
    from embedscope.evaluation.ranking import LayerRanking
    from embedscope.plotting.inputs import Run
    from embedscope.plugins import Spec
    from embedscope.store.features import FeatureSet

    Array = np.ndarray[Any, Any]

SUFFIX = ".html"

# Of more rows, a page neither looks for issues nor compares. With 50,000 x 128 and 10 or 1,000 classes, issues take 17 or 81
# CPU seconds, and a comparison 15, beside the 20 to 30 of the metrics (benchmarks/RESULTS.md); `score` has no such limit.
MOST_ROWS = 50_000

# How many views are compared with the first.
MOST_COMPARED = 8


@dataclass(frozen=True)
class View:
    """One embedding on the page.

    Attributes:
        features: its labeled rows, all of them.
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


def _lowest(view: View, scores: Scores, class_names: Sequence[str]) -> list[int]:
    """List the codes of the classes that have a color where not all can have one, as pictures choose them."""
    values = silhouettes(scores)
    if values is None:
        return []
    code = {name: number for number, name in enumerate(class_names)}
    return [code[view.features.class_names[label]] for label in lowest(view.features.labels[view.drawn], values)[:WORST]]


def _comparisons(
    views: Sequence[View], scores: Sequence[Scores], metrics: Sequence[str | Spec], seed: int, track: Track
) -> dict[int, Comparison]:
    """Compare views with the first: place of the view -> comparison, whose `reason` says why rows are not compared, if so."""

    def measure(features: FeatureSet) -> Scores:
        return evaluate(features, metrics, ci=True, device="cpu", seed=seed)

    places = range(1, min(len(views), MOST_COMPARED + 1))
    return {
        place: compare(views[0].features, views[place].features, (scores[0], scores[place]), measure, seed)
        for place in track(places, "comparing", len(places))
    }


def _rankings(scores: Sequence[Scores]) -> list[LayerRanking]:
    """Rank the layers of every source that has several, by the first metric of which more, or less, is better."""
    key = next((key for key, each in scores[0].metrics.items() if each.better is not None), None)
    sources = dict.fromkeys(each.source for each in scores)
    groups = [[each for each in scores if each.source == source] for source in sources]
    return [rank_layers(group, key) for group in groups if key and len({each.layer for each in group}) > 1]


def _places(flagged: Sequence[dict[str, Any]]) -> list[int]:
    """List the drawn places of rows that need attention and of their copies, the worst of each kind first."""
    rows = [row for found in flagged for row in found["rows"]]
    return [place for row in rows for place in (row["place"], *(near for _, near in row["near"])) if place is not None]


def _sources(views: Sequence[View]) -> str:
    """Write the files of the views as a shell takes them; "FEATURES" for views that are not of files."""
    sources = dict.fromkeys(view.features.source for view in views)
    return shlex.join(sources) if all(Path(each).is_file() for each in sources) else "FEATURES"


def write(
    path: Path,
    views: Sequence[View],
    *,
    runs: Sequence[Run] = (),
    metrics: str | Sequence[str] = STANDARD,
    command: str = "",
    seed: int = 0,
    images: str | None = None,
    slots: Sequence[int] = (),
    track: Track = untracked,
) -> None:
    """Measure the views and write the page; a file of that name is replaced, and only by a page that is complete.

    Args:
        path: of the page.
        views: in the order of comparison; the first is "before".
        runs: of finetune, whose objectives and training curves are shown too.
        metrics: what the table of scores shows, as in `evaluation.evaluate`; figures measure what they need besides.
        command: what was typed, for the provenance.
        seed: of groups that are left out for intervals.
        images: where the images of the samples are, see `thumbnails.make_thumbnails`.
        slots: place of each class among the colors, as `figure.palette` takes it.
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
    small = all(len(view.features.labels) <= MOST_ROWS for view in views)
    compared = _comparisons(views, found, wanted, seed, track) if small else {}
    comparisons = {place: each for place, each in compared.items() if each.reason is None}
    found = with_comparison(found, differences(found), list(comparisons.values()))
    issues = (
        [find_issues(view.features, device="cpu", seed=seed) for view in track(views, "finding issues", len(views))]
        if small
        else []
    )
    found = [with_issues(*pair) for pair in zip(found, issues, strict=True)] if small else found
    rows, places = packed_rows([(view.features, view.drawn) for view in views], class_names)
    for number, row_set in enumerate(rows):
        shown = [entry for entry, place in zip(found, places, strict=True) if place == number]
        first = views[places.index(number)]
        flagged = [packed_issues(each.issues, first.features.ids[first.drawn]) for each in shown if each.issues is not None]
        row_set["thumbnails"], row_set["images"] = make_thumbnails(
            first.features, first.drawn, [silhouettes(each) for each in shown], images, _places(flagged)
        )
    data = {
        "command": command,
        "embedscope": __version__,
        "classes": class_names,
        "slots": list(slots) if slots else list(range(len(class_names))),
        "lowest": _lowest(views[0], found[0], class_names) if len(class_names) > MAX_CLASSES else [],
        "metrics": list(found[0].metrics)[: len(shown_metrics)],
        "rows": rows,
        "views": [
            packed_view(view.features, view.drawn, view.layouts, view.unlabelled, entry, place, class_names)
            for view, entry, place in zip(views, found, places, strict=True)
        ],
        "best": {key: best(found, key) for each in found for key in each.metrics},
        "runs": [packed_run(run) for run in runs],
        "issues": [packed_issues(each, view.features.ids[view.drawn]) for each, view in zip(issues, views, strict=True)]
        if small
        else None,
        "comparisons": [
            packed_comparison(each, place, views[place].features.ids[views[place].drawn], class_names)
            for place, each in comparisons.items()
        ],
        "apart": [[place, each.reason] for place, each in compared.items() if each.reason is not None],
        "sources": _sources(views),
        "most_compared": MOST_COMPARED,
        "rankings": [each.as_json() for each in _rankings(found)],
        "most_rows": MOST_ROWS,
    }
    title = "embedscope: " + ", ".join(view.features.name for view in views)
    with finished(path) as partial:
        partial.write_text(document.page(title, data, script), encoding="utf-8")
