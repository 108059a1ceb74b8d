import csv
import json

import numpy as np
import pytest
from scipy import stats

from embedscope.errors import InterruptedRunError, UsageError
from embedscope.finetuning import conclusions, differences, finetune
from embedscope.finetuning.comparing import summarized
from embedscope.finetuning.splitting import part
from embedscope.ops.paired import holm
from embedscope.store import read_features
from embedscope.store.results import Finetuning, ObjectiveResult, RunData, Trial, read_run


@pytest.fixture
def features(make_store, blobs):
    rows, labels = blobs
    return read_features(str(make_store(rows - 2.5 * np.eye(8, dtype=np.float32)[labels], labels)))


def made_up(values, *, splits=1, primary="macro_f1", drawn=True, over_rows=None):
    """A run whose objectives have given values of metrics, {expression: {metric: one per trial}}."""
    objectives = []
    for expression, metrics in values.items():
        count = len(next(iter(metrics.values())))
        trials = [
            Trial(n, 1, 1, {name: of[n] for name, of in metrics.items()}, 0.0, f"d/{n}", split=n * splits // count)
            for n in range(count)
        ]
        objectives.append(ObjectiveResult(expression, tuple(trials), {}))
    data = RunData(train=65, validation=10, test=25, drawn=drawn)
    run = Finetuning(None, {}, data, tuple(objectives), 0.0, {}, primary, splits)
    return summarized(run, over_rows or [{}] * (len(objectives) - 1))


NOISE = [0.01, -0.02, 0.005, 0.0, 0.015]


def around(mean, count=5):
    return [mean + noise for noise in NOISE[:count]]


FLAT = {"macro_f1": [0.5] * 5, "gini": [0.5] * 5}


def test_the_verdict_is_about_the_primary_metric_and_its_interval_says_the_same():
    run = made_up(
        {"ce": FLAT, "a": {"macro_f1": around(0.6), "gini": around(0.7)}, "b": {"macro_f1": around(0.51), "gini": around(0.5)}}
    )
    _, better, same = (done.summary for done in run.objectives)
    assert (better["macro_f1"].called, same["macro_f1"].called) == (True, False)
    assert better["gini"].called is None
    assert better["gini"].p_corrected is None
    gaps = np.subtract(around(0.6), 0.5)
    expected = stats.ttest_1samp(gaps, 0.0)
    assert better["macro_f1"].simultaneous == pytest.approx(tuple(expected.confidence_interval(1 - 0.05 / 2)))
    assert better["macro_f1"].p_corrected == pytest.approx(2 * expected.pvalue)
    assert better["gini"].ci95 == pytest.approx(
        tuple(stats.ttest_1samp(np.subtract(around(0.7), 0.5), 0.0).confidence_interval())
    )
    found = conclusions(run)
    assert found[0] == "a against ce: macro_f1 differs, +0.1020 [+0.0809, +0.1231], p = 0.00014"
    assert found[1] == "b against ce: no difference in macro_f1 shown, +0.0120 [-0.0091, +0.0331], p = 0.24"
    assert found[2] == "other metrics have a 95% interval each and no verdict"
    assert found[3] == (
        "the intervals cover training noise only, on one split and these 25 test rows; those of macro_f1 are simultaneous for "
        "all 2 objectives; `splits=10` also covers the choice of split"
    )
    assert len(found) == 4
    assert differences(run) == {
        "macro_f1": ["+0.1020 [+0.0809, +0.1231]", "+0.0120 [-0.0091, +0.0331]"],
        "gini": ["+0.2020 [+0.1852, +0.2188]", "+0.0020 [-0.0148, +0.0188]"],
    }


def test_wilcoxon_is_corrected_over_objectives():
    run = made_up({"ce": FLAT, "a": {**FLAT, "macro_f1": around(0.6)}, "b": {**FLAT, "macro_f1": around(0.51)}})
    found = [done.summary["macro_f1"] for done in run.objectives[1:]]
    assert [each.wilcoxon_corrected for each in found] == holm([each.wilcoxon_p for each in found])


def test_another_primary_metric():
    run = made_up({"ce": FLAT, "a": {"macro_f1": around(0.5), "gini": around(0.7)}}, primary="gini", drawn=False)
    verdict, _, coverage = conclusions(run)
    assert verdict.startswith("a against ce: gini differs, +0.2020 [")
    assert list(differences(run)) == ["gini", "macro_f1"]
    assert coverage == "the intervals cover training noise only, on one split and these 25 test rows"


@pytest.mark.parametrize("count", [2, 3, 4])
def test_fewer_than_five_trials_are_described_and_never_called(count):
    first = {"macro_f1": [0.5] * count}
    run = made_up({"ce": first, "a": {"macro_f1": around(0.51, count)}, "b": {"macro_f1": around(0.9, count)}})
    small, large = (done.summary["macro_f1"] for done in run.objectives[1:])
    assert large.called is None
    assert large.simultaneous is None
    assert large.p_corrected is None
    assert large.needed == 5
    assert small.needed is None or small.needed > 5
    found = conclusions(run)
    assert (
        f" over {count} trials, too few for a verdict; detecting a difference of this size would take 5 trials (power 0.8)"
        in found[1]
    )
    assert found[-1] == "a verdict requires at least 5 trials: pass `trials=5`"


def test_one_trial_shows_no_spread():
    (sentence,) = conclusions(made_up({"ce": {"macro_f1": [0.5]}, "a": {"macro_f1": [0.9]}}))
    assert "a single trial has no spread" in sentence


def test_the_same_in_all_trials_is_not_a_finding():
    run = made_up({"ce": FLAT, "a": {"macro_f1": [0.75] * 5, "gini": [0.5] * 5}})
    assert run.objectives[1].summary["macro_f1"].called is None
    verdict, *_ = conclusions(run)
    assert verdict == "a against ce: macro_f1 +0.2500 in each of the 5 trials: no spread to test against"
    assert differences(run)["gini"] == ["+0.0000 (no spread)"]


def test_a_primary_metric_that_is_undefined():
    run = made_up({"ce": FLAT, "a": {"macro_f1": [None] * 5, "gini": around(0.5)}})
    assert conclusions(run)[0] == "a against ce: macro_f1 is undefined in some of the trials, so there is no verdict"


def test_small_numbers_show_on_which_side_of_zero_they_are():
    run = made_up({"ce": FLAT, "a": {**FLAT, "macro_f1": [0.5 + 1e-6 + value * 1e-5 for value in NOISE]}})
    assert "+0.00000102 [" in conclusions(run)[0]


def test_splits_are_tested_by_their_means_with_the_resampled_t():
    noise = np.random.default_rng(0).normal(0, 0.01, size=10)
    run = made_up({"ce": {"macro_f1": [0.5] * 10}, "a": {"macro_f1": (0.6 + noise).tolist()}}, splits=5)
    means = 0.1 + noise.reshape(5, 2).mean(axis=1)
    error = np.sqrt((1 / 5 + 25 / 75) * means.var(ddof=1))
    found = run.objectives[1].summary["macro_f1"]
    assert found.p_value == pytest.approx(2 * stats.t.sf(means.mean() / error, 4))
    assert found.wilcoxon_p is None
    assert conclusions(run)[-1] == (
        "the intervals cover the choice of split and training noise (5 splits, 2 trials on each; corrected resampled t test)"
    )


def test_too_few_splits_are_described():
    run = made_up({"ce": {"macro_f1": [0.5] * 4}, "a": {"macro_f1": around(0.51, 4)}}, splits=4)
    verdict, coverage, advice = conclusions(run)
    assert verdict.endswith("too few for a verdict; no number of splits of these rows would detect a difference of this size")
    assert "4 splits" in coverage
    assert advice == "a verdict requires at least 5 splits: pass `splits=5`"


def test_splits_are_drawn_anew_with_all_trials(features, tmp_path):
    result = finetune(features, tmp_path / "run", splits=2, trials=2, epochs=1, batch_size=32, primary="rankme")
    folder = tmp_path / "run"
    assert read_run(str(folder)) == result
    assert (result.splits, result.primary) == (2, "rankme")
    for done in result.objectives:
        assert [(trial.split, trial.seed) for trial in done.trials] == [(0, 0), (0, 1), (1, 10_000), (1, 10_001)]
        assert "rankme" in done.summary
    assert [trial.directory for trial in result.objectives[0].trials] == [
        *("ce/trial-0", "ce/trial-1"),
        *("ce/split-1/trial-0", "ce/split-1/trial-1"),
    ]
    for seed, directory in ((0, "ce/trial-1"), (10_000, "ce/split-1/trial-1")):
        expected = part(features, test_share=0.25, val_share=0.1, seed=seed).test
        with (folder / directory / "predictions.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert (
            [row["id"] for row in rows] == list(expected.ids) == list(read_features(str(folder / directory / "after.h5")).ids)
        )
        accuracy = np.mean([row["label"] == row["predicted"] for row in rows])
        (trial,) = (trial for trial in result.objectives[0].trials if trial.directory == directory)
        assert accuracy == pytest.approx(trial.after["accuracy"])
    document = json.loads((folder / "run.json").read_text())
    befores = [trial["before"]["silhouette"] for trial in document["objectives"][0]["trials"]]
    assert befores[0] == befores[1] != befores[2] == befores[3]
    assert result.before["silhouette"] == pytest.approx(np.mean(befores))
    assert result.data.held_out == "25% of each class, redrawn for each of 2 splits"


def test_an_interrupted_run_of_several_splits_resumes_also_with_more(features, tmp_path):
    settings = {"objectives": ["ce", "ce + gini"], "epochs": 2, "trials": 1}

    def stop(items, description, total):
        if "(seed 10000)" in description and "gini" in description:
            raise KeyboardInterrupt
        yield from items

    with pytest.raises(InterruptedRunError):
        finetune(features, tmp_path / "run", **settings, splits=3, track=stop)
    found = finetune(features, tmp_path / "run", **settings, splits=2, resume=True)
    whole = finetune(features, tmp_path / "whole", **settings, splits=2)
    assert [done.summary for done in found.objectives] == [done.summary for done in whole.objectives]
    names = [sorted(str(path.relative_to(tmp_path / run)) for path in (tmp_path / run).rglob("*")) for run in ("run", "whole")]
    assert names[0] == names[1]


def test_rows_are_resampled_on_one_split(features, tmp_path):
    result = finetune(features, tmp_path / "run", epochs=2, trials=2, batch_size=16)
    summary = result.objectives[1].summary
    assert {name for name, each in summary.items() if each.rows_ci95} == {"accuracy", "macro_f1"}
    for name in ("accuracy", "macro_f1"):
        low, high = summary[name].rows_ci95
        assert low <= summary[name].difference <= high
    assert "; over other test rows (bootstrap) [" in conclusions(result)[0]


def test_splits_of_given_test_rows_are_refused(features, make_store, blobs, tmp_path):
    given = read_features(str(make_store(*blobs, name="given.h5", split=["train", "train", "test"] * 30)))
    with pytest.raises(UsageError, match=r"given\.h5 has a split 'test', which is the only one held out; omit `splits=`"):
        finetune(given, tmp_path / "run", splits=2)
    with pytest.raises(UsageError, match=r"several splits draw their own test rows, but .*store.h5 is given"):
        finetune(features, tmp_path / "run", splits=2, test=features)


@pytest.mark.parametrize(
    ("primary", "message"),
    [
        ("macrof1", "no primary metric 'macrof1'; did you mean 'macro_f1'"),
        ("accuracy(k=2)", "cannot read the primary metric 'accuracy\\(k=2\\)': accuracy takes no options"),
        ("silhouette(tau=1)", "silhouette has no option 'tau'"),
    ],
)
def test_metrics_that_cannot_be_primary(features, tmp_path, primary, message):
    with pytest.raises(UsageError, match=message):
        finetune(features, tmp_path / "run", primary=primary)
