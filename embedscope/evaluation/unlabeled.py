"""Embeddings without a label, of which issues can be found and no metric measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.evaluation.scores import Scores, ScoreTable
from embedscope.store import select_labeled, select_split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedscope.evaluation.issues import Issues
    from embedscope.store.features import FeatureSet


def without_labels(sources: Sequence[FeatureSet], split: str | None, *, asked: bool) -> bool:
    """Tell whether no row has a label, so that only issues can be found.

    Raises:
        InputError: labels are lacking for what was `asked` of metrics, or only some of the embeddings have some.
    """
    bare = [each for each in (select_split(each, split) for each in sources) if not (each.labels >= 0).any()]
    if bare and (asked or len(bare) < len(sources)):
        select_labeled(bare[0])  # raises
    return bool(bare)


def unmeasured(sources: Sequence[FeatureSet], found: Sequence[Issues]) -> ScoreTable:
    """Return scores that have issues and no metrics."""
    return ScoreTable(
        [
            Scores(
                name=each.name,
                source=each.source,
                layer=each.layer,
                samples=issues.samples,
                dimensions=each.features.shape[1],
                classes=0,
                device="cpu",
                metrics={},
                warnings=["no row has a label: metrics are not computed"],
                ids=issues.ids,
                labels=issues.ids[:0],
            )
            for each, issues in zip(sources, found, strict=True)
        ]
    )
