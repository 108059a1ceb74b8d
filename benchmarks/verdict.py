"""How often does the verdict of `finetune` err, what does it find, and do its intervals hold?

    python benchmarks/verdict.py [--draws 2000] [--seed 0]

Numbers are drawn in place of trainings: for each objective and trial a value of each of METRICS metrics, normal, so that the
paired differences to the first objective have standard deviation 1. Before: Holm's correction over all metrics of all
objectives. Now: one primary metric, simultaneous intervals over objectives, no call with fewer than five pairs. Takes about
two minutes.
"""

import argparse
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from embedscope.finetuning.comparing import LEAST_PAIRS
from embedscope.ops.paired import holm, paired_difference

METRICS = 10
LEVEL = 0.05


@dataclass
class Found:
    """Shares of draws (or, of powers, of true differences).

    Attributes:
        any_false: at least one false call.
        power: called, of the true differences.
        covered: the simultaneous intervals of all objectives hold the truth.
        power_before: called before, of the true differences.
        called_covered: the interval printed holds the truth, of the differences called.
        called_covered_before: the same before.
        uncorrected: a false call of at least one objective without the correction for resampled splits.
    """

    any_false: float
    power: float
    covered: float
    power_before: float = math.nan
    called_covered: float = math.nan
    called_covered_before: float = math.nan
    uncorrected: float = math.nan


def simulate(trials, others, *, effects, draws, seed):
    """Draw runs with `others` objectives beside the first, whose true differences in the primary metric are `effects`."""
    generator = np.random.default_rng(seed)
    truth = np.asarray(effects)
    counts = dict.fromkeys(("false", "power", "covered", "before", "calls", "held", "calls_before", "held_before"), 0)
    for _ in range(draws):
        values = generator.normal(size=(others + 1, METRICS, trials)) / math.sqrt(2)
        gaps = values[1:] - values[0]
        gaps[:, 0] += truth[:, None]
        found = [paired_difference(gap, np.zeros(trials), comparisons=others) for gap in gaps[:, 0]]
        bounds = np.array([each.simultaneous for each in found])
        called = ((bounds[:, 0] > 0) | (bounds[:, 1] < 0)) & (trials >= LEAST_PAIRS)
        held = (bounds[:, 0] <= truth) & (truth <= bounds[:, 1])
        test = stats.ttest_1samp(gaps, 0.0, axis=2)
        before = np.reshape(holm(test.pvalue.ravel()), test.pvalue.shape)[:, 0] < LEVEL
        own = test.confidence_interval(0.95)
        held_before = (own.low[:, 0] <= truth) & (truth <= own.high[:, 0])
        counts["false"] += bool((called & (truth == 0)).any())
        counts["power"] += int((called & (truth != 0)).sum())
        counts["covered"] += bool(held.all())
        counts["before"] += int((before & (truth != 0)).sum())
        counts["calls"] += int(called.sum())
        counts["held"] += int((called & held).sum())
        counts["calls_before"] += int(before.sum())
        counts["held_before"] += int((before & held_before).sum())
    true = int((truth != 0).sum()) * draws or math.nan
    return Found(
        any_false=counts["false"] / draws,
        power=counts["power"] / true,
        covered=counts["covered"] / draws,
        power_before=counts["before"] / true,
        called_covered=counts["held"] / (counts["calls"] or math.nan),
        called_covered_before=counts["held_before"] / (counts["calls_before"] or math.nan),
    )


def simulate_splits(splits, others, *, ratio, draws, seed, effect=0.0):
    """Draw runs over splits whose results are correlated as those of splits that share rows: test / all rows."""
    generator = np.random.default_rng(seed)
    shared = ratio / (1 + ratio)
    counts = dict.fromkeys(("false", "covered", "uncorrected"), 0)
    for _ in range(draws):
        common, own = generator.normal(size=(others + 1, 1)), generator.normal(size=(others + 1, splits))
        values = (math.sqrt(shared) * common + math.sqrt(1 - shared) * own) / math.sqrt(2)
        gaps = values[1:] - values[0] + effect
        zeros = np.zeros(splits)
        found = [paired_difference(gap, zeros, comparisons=others, ratio=ratio) for gap in gaps]
        plain = [paired_difference(gap, zeros, comparisons=others) for gap in gaps]
        counts["false"] += any(each.p_corrected < LEVEL for each in found)
        counts["covered"] += all(each.simultaneous[0] <= effect <= each.simultaneous[1] for each in found)
        counts["uncorrected"] += any(each.p_corrected < LEVEL for each in plain)
    false = counts["false"] / draws
    return Found(any_false=false, power=false, covered=counts["covered"] / draws, uncorrected=counts["uncorrected"] / draws)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    common = {"draws": options.draws, "seed": options.seed}
    print(
        "| true differences | other objectives | trials | any false call | simultaneous intervals hold | power | before |",
        end="",
    )
    print(" printed interval holds if called | before |\n|---|---|---|---|---|---|---|---|---|")
    cases = {
        "none": lambda others: [0.0] * others,
        "one of 2 sd": lambda others: [2.0] + [0.0] * (others - 1),
        "all of 2 sd": lambda others: [2.0] * others,
    }
    for case, made in cases.items():
        for others in (1, 4, 10):
            for trials in (3, 5, 10):
                found = simulate(trials, others, effects=made(others), **common)
                shown = (
                    *(found.any_false, found.covered, found.power, found.power_before),
                    *(found.called_covered, found.called_covered_before),
                )
                cells = " | ".join("–" if math.isnan(each) else f"{each:.3f}" for each in shown)
                print(f"| {case} | {others} | {trials} | {cells} |", flush=True)
    print("\n| splits | other objectives | any false call | without the correction | intervals hold |\n|---|---|---|---|---|")
    for splits in (5, 10):
        for others in (1, 4, 10):
            found = simulate_splits(splits, others, ratio=1 / 3, **common)
            print(
                f"| {splits} | {others} | {found.any_false:.3f} | {found.uncorrected:.3f} | {found.covered:.3f} |", flush=True
            )


if __name__ == "__main__":
    main()
