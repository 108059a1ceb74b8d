"""What trials show: means, paired differences with the first objective, and sentences that say no more than they show."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from embedscope.ops.statistics import holm, mean_and_std, paired_difference
from embedscope.store.results import Finetuning, ObjectiveResult, Summary, Trial

if TYPE_CHECKING:
    from collections.abc import Sequence

SIGNIFICANT = 0.05


def summarised(trials: Sequence[Trial], first: Sequence[Trial] | None) -> dict[str, Summary]:
    """Summarise the trials of an objective metric by metric, paired with those of the first objective."""
    summary = {}
    for name in trials[0].after:
        values = [value for trial in trials if (value := trial.after[name]) is not None]
        if len(values) < len(trials):
            summary[name] = Summary(None, None)
            continue
        mean, std = mean_and_std(values)
        reference = [value for trial in first or () if (value := trial.after[name]) is not None]
        if len(reference) != len(values):
            summary[name] = Summary(mean, std)
            continue
        paired = paired_difference(values, reference)
        summary[name] = Summary(mean, std, paired.difference, paired.ci95, paired.p_value, wilcoxon_p=paired.wilcoxon_p)
    return summary


def corrected(results: Sequence[ObjectiveResult]) -> tuple[ObjectiveResult, ...]:
    """Correct the p-values for the number of comparisons: of every metric, of every objective with the first."""
    everything = [(place, name) for place, result in enumerate(results) for name in result.summary]
    found = {}
    for test in ("p_value", "wilcoxon_p"):
        p_values = {key: p for key in everything if (p := getattr(results[key[0]].summary[key[1]], test)) is not None}
        found[test] = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return tuple(
        replace(
            result,
            summary={
                name: replace(
                    each,
                    p_corrected=found["p_value"].get((place, name)),
                    wilcoxon_corrected=found["wilcoxon_p"].get((place, name)),
                )
                for name, each in result.summary.items()
            },
        )
        for place, result in enumerate(results)
    )


def conclusions(result: Finetuning) -> list[str]:
    """Say which objective of a sweep was best, and how the others differ from the first one, a sentence each.

    A difference counts where the corrected p-value of its t test is below 0.05; of the other metrics it says that they show
    none.
    """
    found = [
        f"best of the {len(done.candidates)} of {done.sweep} by validation: {done.expression}"
        for done in result.objectives
        if done.sweep
    ]
    first, *others = result.objectives
    for other in others:
        count = len(other.trials)
        against = f"{other.expression} against {first.expression}"
        if count < 2:
            found.append(
                f"{against}: one trial shows no spread, so that no difference can be told from chance; pass `trials=5`"
            )
            continue
        moved, fixed, same = [], [], []
        for name, each in other.summary.items():
            if each.difference is None:
                continue
            if each.p_corrected is not None and each.p_corrected < SIGNIFICANT and each.ci95 is not None:
                low, high = each.ci95
                moved.append(f"{name} {each.difference:+.4f} [{low:+.4f}, {high:+.4f}]")
            elif each.ci95 is None and each.difference:
                fixed.append(f"{name} {each.difference:+.4f}")
            else:
                same.append(name)
        parts = ["; ".join(moved)] if moved else []
        if fixed:
            parts.append(f"the same in all {count} trials, which leaves no spread to test against: {', '.join(fixed)}")
        if same:
            parts.append(f"no difference that {count} trials can show in {', '.join(same)}")
        found.append(f"{against}: {'; '.join(parts)}")
    return found
