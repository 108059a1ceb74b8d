"""`score --issues`: look for the rows that need attention, write them, and say in a few lines what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embedscope.cli.console import Talk
    from embedscope.evaluation.issues import Issues
    from embedscope.evaluation.scores import ScoreTable
    from embedscope.store.features import FeatureSet


def write_issues(
    path: Path, sources: Sequence[FeatureSet], talk: Talk, *, split: str | None, memory: int | None, device: str, seed: int
) -> list[Issues]:
    """Find the issues of each embedding, write all of them to one file, and tell their numbers; return them."""
    from embedscope import distributed
    from embedscope.evaluation.issues import issue_columns
    from embedscope.evaluation.samples import find_issues
    from embedscope.store.tables import write_table

    found = [
        find_issues(each, split=split, memory=memory, device=device, seed=seed, say=talk.say, track=talk.track)
        for each in sources
    ]
    if distributed.rank() == 0:
        for each in found:
            for title, count, remark in each.summary():
                if remark != "not computed":  # the reason was told already
                    talk.say(f"{each.name}: {title}: {count}{f' ({remark})' if remark else ''}")
        talk.say(f"wrote {write_table(path, issue_columns(found)):,} rows to {path}")
    return found


def without_labels(sources: Sequence[FeatureSet], split: str | None, *, asked: bool) -> bool:
    """Tell whether no row has a label, so that only issues can be found.

    Raises:
        InputError: labels are lacking for what was `asked` of metrics, or only some of the embeddings have some.
    """
    from embedscope.store import select_labelled, select_split

    bare = [each for each in (select_split(each, split) for each in sources) if not (each.labels >= 0).any()]
    if bare and (asked or len(bare) < len(sources)):
        select_labelled(bare[0])  # raises
    return bool(bare)


def unmeasured(sources: Sequence[FeatureSet], found: Sequence[Issues]) -> ScoreTable:
    """Return scores that have issues and no metrics."""
    from embedscope.evaluation.scores import Scores, ScoreTable

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
