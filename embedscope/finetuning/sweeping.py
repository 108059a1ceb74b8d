"""One objective of a run: all points of its grid are trained, and the best by validation stands for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedscope.errors import InputError
from embedscope.finetuning.validation import criterion
from embedscope.store.results import Candidate, ObjectiveResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedscope.finetuning.trials import Outcome, Trials


def run_objective(works: Sequence[Trials], objective: str, folders: Mapping[str, str]) -> ObjectiveResult:
    """Train all objectives of a grid, choose one by the validation rows, and measure that one on the held-out rows.

    Its summary is empty: that takes the other objectives (see `comparing.summarized`).

    Args:
        works: the trainings of the run, split by split.
        objective: as it was given, with lists if it is a sweep.
        folders: point of the grid -> folder in the run directory.

    Raises:
        InputError: the objective, or all objectives of the grid, stopped being finite.
    """
    _, sign = criterion(works[0].config.select_by)
    outcomes: dict[str, list[Outcome]] = {}
    candidates = []
    for point, folder in folders.items():
        places = _places(works, folder)
        outcomes[point] = found = []
        for work, number, directory in places:
            found.append(work.train(point, directory, number))
            if found[-1].diverged:
                break
        note = found[-1].diverged
        if note and len(folders) == 1:
            kept = (
                ""
                if work.temporary
                else "; the other objectives are kept; to continue them, drop this objective and pass `resume=True`"
            )
            raise InputError(f"{note}{kept}")
        values = [] if note else [each.validation for each in found if each.validation is not None]
        mean = float(np.mean(values)) if values else None
        directories = tuple(directory for _, _, directory in places[: len(found)])
        candidates.append(Candidate(point, tuple(values), mean, directories, note))
    if len(folders) == 1:
        (chosen,) = folders
    else:
        means = {each.expression: sign * each.mean for each in candidates if each.mean is not None}
        if not means:
            raise InputError(f"{objective}: no objective of the sweep stays finite; the first: {candidates[0].note}")
        chosen = max(means, key=lambda point: means[point])
    done = tuple(
        work.measure(outcome, chosen, directory, number)
        for outcome, (work, number, directory) in zip(outcomes[chosen], _places(works, folders[chosen]), strict=True)
    )
    return ObjectiveResult(
        expression=chosen,
        trials=done,
        summary={},
        sweep=objective if len(folders) > 1 else None,
        candidates=tuple(candidates) if len(folders) > 1 else (),
        warnings=tuple(dict.fromkeys(text for outcome in outcomes[chosen] for text in outcome.warnings)),
    )


def _places(works: Sequence[Trials], folder: str) -> list[tuple[Trials, int, str]]:
    """List the trainings of an objective: whose they are, the number of the trial, and its folder."""
    return [(work, number, directory) for work in works for number, directory in enumerate(work.directories(folder))]
