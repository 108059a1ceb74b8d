"""One objective of a run: all points of its grid are trained, and the best by validation stands for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedscope.errors import InputError
from embedscope.finetuning.comparing import summarised
from embedscope.finetuning.validation import criterion
from embedscope.store.results import Candidate, ObjectiveResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedscope.finetuning.trials import Outcome, Trials
    from embedscope.store.results import Trial


def run_objective(work: Trials, objective: str, folders: Mapping[str, str], first: Sequence[Trial] | None) -> ObjectiveResult:
    """Train all objectives of a grid, choose one by the validation rows, and measure that one on the held-out rows.

    Args:
        work: the trainings of the run.
        objective: as it was given, with lists if it is a sweep.
        folders: point of the grid -> folder in the run directory.
        first: trials of the first objective of the run, to be compared with; None for that one itself.

    Raises:
        InputError: the objective, or all objectives of the grid, stopped being finite.
    """
    trials, (_, sign) = work.config.trials, criterion(work.config.select_by)
    outcomes: dict[str, list[Outcome]] = {}
    candidates = []
    for point, folder in folders.items():
        directories = [f"{folder}/trial-{number}" for number in range(trials)]
        outcomes[point] = found = []
        for number, directory in enumerate(directories):
            found.append(work.train(point, directory, number))
            if found[-1].diverged:
                break
        note = found[-1].diverged
        if note and len(folders) == 1:
            kept = (
                "" if work.temporary else "; what else was trained is kept: `resume=True` without this objective continues it"
            )
            raise InputError(f"{note}{kept}")
        values = [] if note else [each.validation for each in found if each.validation is not None]
        mean = float(np.mean(values)) if values else None
        candidates.append(Candidate(point, tuple(values), mean, tuple(directories[: len(found)]), note))
    if len(folders) == 1:
        (chosen,) = folders
    else:
        means = {each.expression: sign * each.mean for each in candidates if each.mean is not None}
        if not means:
            raise InputError(f"{objective}: no objective of the sweep stays finite; the first: {candidates[0].note}")
        chosen = max(means, key=lambda point: means[point])
    done = tuple(
        work.measure(outcome, chosen, f"{folders[chosen]}/trial-{number}", number)
        for number, outcome in enumerate(outcomes[chosen])
    )
    return ObjectiveResult(
        expression=chosen,
        trials=done,
        summary=summarised(done, first),
        sweep=objective if len(folders) > 1 else None,
        candidates=tuple(candidates) if len(folders) > 1 else (),
        warnings=tuple(dict.fromkeys(text for outcome in outcomes[chosen] for text in outcome.warnings)),
    )
