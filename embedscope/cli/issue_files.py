"""`score --issues`: find the rows that need attention, write them, and print a summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embedscope.cli.console import Talk
    from embedscope.evaluation.issues import Issues
    from embedscope.store.features import FeatureSet


def write_issues(
    path: Path, sources: Sequence[FeatureSet], talk: Talk, *, split: str | None, memory: int | None, device: str, seed: int
) -> list[Issues]:
    """Find the issues of each embedding, write them to one file, print their counts, and return them."""
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
        talk.say(f"wrote {counted(write_table(path, issue_columns(found)), 'row')} to {path}")
    return found
