"""What trials show: means, paired differences with the first objective, and a verdict that says no more than they show."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from embedscope.ops.paired import holm, mean_and_std, paired_difference, pairs_needed, signed_rank_p, split_means
from embedscope.store.results import Summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedscope.store.results import Finetuning, ObjectiveResult, Trial

# With fewer pairs differences are described and never called.
LEAST_PAIRS = 5

# The power that the number of pairs a difference would take is for.
POWER = 0.8

_UNDEFINED = "–"


def summarized(result: Finetuning, over_rows: Sequence[Mapping[str, tuple[float, float]]]) -> Finetuning:
    """Summarize every objective metric by metric, paired with the first one, with the verdict on the primary metric.

    The trials of one split are independent pairs. Of several splits, the pairs are the means over the trials of each.

    Args:
        result: the run.
        over_rows: of each objective but the first, metric -> interval of the difference over test rows.
    """
    first, *others = result.objectives
    bare = replace(first, summary={name: _spread(first.trials, name) for name in first.trials[0].after})
    compared = [
        replace(each, summary=_compared(each, first, rows, len(others), result))
        for each, rows in zip(others, over_rows, strict=True)
    ]
    tests = {place: p for place, each in enumerate(compared) if (p := each.summary[result.primary].wilcoxon_p) is not None}
    for place, p in zip(tests, holm(list(tests.values())), strict=True):
        each = compared[place]
        primary = replace(each.summary[result.primary], wilcoxon_corrected=p)
        compared[place] = replace(each, summary={**each.summary, result.primary: primary})
    return replace(result, objectives=(bare, *compared))


def conclusions(result: Finetuning) -> list[str]:
    """Say which objective of a sweep was best, how the others differ from the first one, and what that covers.

    A difference in the primary metric is called exactly if the interval printed beside it, which holds for all objectives at
    once, excludes 0. Other metrics have an interval each and no verdict.
    """
    found = [
        f"best of the {len(done.candidates)} of {done.sweep} by validation: {done.expression}"
        for done in result.objectives
        if done.sweep
    ]
    first, *others = result.objectives
    if not others:
        return found
    pairs, setting = _pairs(result)
    for other in others:
        against = f"{other.expression} against {first.expression}"
        if pairs < 2:
            found.append(
                f"{against}: one trial shows no spread, so that no difference can be told from chance; pass `trials=5`"
            )
            continue
        found.append(f"{against}: {_verdict(other.summary.get(result.primary), result)}")
    if pairs >= 2:
        if len(differences(result)) > 1:
            found.append("other metrics have a 95% interval each and no verdict")
        found.append(_coverage(result, len(others)))
    if 2 <= pairs < LEAST_PAIRS:
        found.append(f"a verdict takes at least {LEAST_PAIRS} {setting}: pass `{setting}={LEAST_PAIRS}`")
    return found


def differences(result: Finetuning) -> dict[str, list[str]]:
    """Write how each objective differs from the first one: metric -> a text per objective, the primary metric first.

    A text is a difference with its interval, of the primary metric the one that holds for all objectives at once, if there is
    one; a dash if the metric is undefined in some of the trials. Metrics without any difference are left out.
    """
    first, *others = result.objectives
    names = sorted(first.summary, key=lambda name: name != result.primary)
    texts = {name: [_written(other.summary.get(name)) for other in others] for name in names}
    return {name: found for name, found in texts.items() if any(each != _UNDEFINED for each in found)}


def _written(summary: Summary | None) -> str:
    if summary is None or summary.difference is None:
        return _UNDEFINED
    return _interval(summary.difference, summary.simultaneous or summary.ci95)


def _spread(trials: Sequence[Trial], name: str) -> Summary:
    values = _values(trials, name)
    return Summary(None, None) if values is None else Summary(*mean_and_std(values))


def _values(trials: Sequence[Trial], name: str) -> list[float] | None:
    """Values of a metric after training, one per trial; None if any is undefined."""
    values = [value for trial in trials if (value := trial.after.get(name)) is not None]
    return values if len(values) == len(trials) else None


def _compared(
    other: ObjectiveResult,
    first: ObjectiveResult,
    rows: Mapping[str, tuple[float, float]],
    comparisons: int,
    result: Finetuning,
) -> dict[str, Summary]:
    summary = {}
    for name in other.trials[0].after:
        summary[name] = plain = _spread(other.trials, name)
        values, reference = _values(other.trials, name), _values(first.trials, name)
        if values is None or reference is None:
            continue
        pairs = [split_means(each, result.splits) for each in (values, reference)]
        found = paired_difference(*pairs, comparisons=comparisons, ratio=result.ratio)
        summary[name] = described = replace(
            plain,
            difference=found.difference,
            ci95=found.ci95,
            p_value=found.p_value,
            # Splits share rows, which a test of independent pairs must not have.
            wilcoxon_p=signed_rank_p(*pairs) if result.splits == 1 else None,
            std_difference=found.std,
            rows_ci95=rows.get(name),
        )
        if name != result.primary or found.simultaneous is None:
            continue
        if len(pairs[0]) >= LEAST_PAIRS:
            low, high = found.simultaneous
            called = not low <= 0 <= high
            summary[name] = replace(described, p_corrected=found.p_corrected, simultaneous=found.simultaneous, called=called)
        elif found.std and found.difference:
            effect = found.difference / found.std
            needed = pairs_needed(effect, least=LEAST_PAIRS, wanted=POWER, comparisons=comparisons, ratio=result.ratio)
            summary[name] = replace(described, needed=needed)
    return summary


def _pairs(result: Finetuning) -> tuple[int, str]:
    """How many independent pairs there are, and the setting that makes more."""
    return (result.splits, "splits") if result.splits > 1 else (len(result.objectives[0].trials), "trials")


def _verdict(primary: Summary | None, result: Finetuning) -> str:
    name, (pairs, setting) = result.primary, _pairs(result)
    if primary is None or primary.difference is None:
        return f"{name} is undefined in some of the trials, so that there is no verdict"
    rows = "" if primary.rows_ci95 is None else f"; over other test rows (bootstrap) {_bounds(primary.rows_ci95)}"
    if primary.called is not None:
        interval = _interval(primary.difference, primary.simultaneous)
        found = f"{name} differs, {interval}" if primary.called else f"no difference in {name} shown, {interval}"
        return f"{found}, p = {primary.p_corrected:.2g}{rows}"
    if not primary.std_difference:
        return f"{name} {primary.difference:+.4f} in each of the {pairs} {setting}: no spread to test against{rows}"
    found = f"{name} {primary.difference:+.4f} ± {primary.std_difference:.4f} over {pairs} {setting}, too few for a verdict"
    if primary.needed is not None:
        found += f"; a difference of this size would take {primary.needed:,} {setting} (power {POWER:g})"
    elif result.splits > 1:
        found += "; no number of splits of these rows would show a difference of this size"
    else:
        found += "; a difference of this size would take more than 10,000 trials"
    return f"{found}{rows}"


def _coverage(result: Finetuning, comparisons: int) -> str:
    """Say what kind of chance the t intervals are about."""
    at_once = f"; those of {result.primary} hold for all {comparisons} objectives at once" if comparisons > 1 else ""
    if result.splits > 1:
        trials = len(result.objectives[0].trials) // result.splits
        crossed = f", {trials} trials on each" if trials > 1 else ""
        return (
            f"the intervals cover the choice of the split and the noise of training ({result.splits} splits{crossed}; "
            f"corrected resampled t test){at_once}"
        )
    found = f"the intervals cover the noise of training alone, on one split and these {result.data.test:,} test rows{at_once}"
    return f"{found}; `splits=10` covers the split too" if result.data.drawn else found


def _interval(difference: float | None, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return f"{difference:+.4f} (no spread)"
    return f"{difference:+.{_decimals(interval)}f} {_bounds(interval)}"


def _bounds(interval: tuple[float, float]) -> str:
    low, high = (f"{bound:+.{_decimals(interval)}f}" for bound in interval)
    return f"[{low}, {high}]"


def _decimals(interval: tuple[float, float]) -> int:
    """Four decimals, or as many as show how wide an interval is, and on which side of 0."""
    low, high = interval
    finest = high - low if low <= 0 <= high else min(high - low, abs(low), abs(high))
    return 4 if finest <= 0 else min(max(4, 1 - math.floor(math.log10(finest))), 12)
