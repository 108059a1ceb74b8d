"""finetune as a library call: arrays without a run directory, and what comes back."""

import gc
from types import SimpleNamespace

import numpy as np
import pytest

from embedscope import finetune, plot
from embedscope.errors import InputError, UsageError
from embedscope.finetuning import TrainingConfig
from embedscope.store.results import read_run

FAST = {"epochs": 2, "device": "cpu", "metrics": "silhouette"}


@pytest.fixture
def arrays(blobs):
    rows, labels = blobs
    return rows, np.array(["ant", "bee", "cat", "dog", "eel"])[labels]


@pytest.fixture
def result(arrays):
    return finetune(*arrays, objectives=["ce", "ce + silhouette"], trials=2, **FAST)


def test_a_run_without_a_directory_lives_as_long_as_its_result(result):
    assert (result.path / "before.h5").is_file()
    assert read_run(str(result.path)).comparison[0] == result.comparison[0]


def test_nothing_stays_behind(arrays, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = finetune(*arrays, objectives="ce", **FAST)
    assert list(tmp_path.iterdir())
    del result
    gc.collect()
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="not finite") as error:
        finetune(*arrays, objectives="1e38*ce", learning_rate=1e25, **FAST)
    assert "kept" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_comparison_has_a_row_per_metric_and_objective(result):
    rows = {(row.metric, row.objective): row for row in result.comparison}
    first, second = rows["silhouette", "ce"], rows["silhouette", "ce + silhouette"]
    summary = result.objectives[1].summary["silhouette"]
    assert first.difference is None
    assert (second.mean, second.std, second.difference) == (summary.mean, summary.std, summary.difference)
    assert (second.ci95, second.p_value, second.p_corrected) == (summary.ci95, summary.p_value, summary.p_corrected)
    assert second.difference == pytest.approx(second.mean - first.mean)
    assert first.before == result.before["silhouette"]


def test_results_are_tables(result):
    pytest.importorskip("pandas")
    frame = result.comparison.to_dataframe()
    assert list(frame.columns[:5]) == ["metric", "objective", "before", "mean", "std"]
    assert len(frame) == len(result.comparison) == 8  # 4 values, 2 objectives
    assert frame["difference"].notna().sum() == 4
    trials = result.to_dataframe()
    assert list(trials["objective"]) == ["ce", "ce", "ce + silhouette", "ce + silhouette"]
    assert list(trials["silhouette"]) == [trial.after["silhouette"] for done in result.objectives for trial in done.trials]


def test_results_print_as_tables(result):
    lines = repr(result).splitlines()
    assert lines[0].startswith("finetune: 2 objectives x 2 trials, trained on 60 rows")
    assert lines[1].split()[:3] == ["metric", "before", "ce"]
    assert len(lines) == 2 + 4
    assert result._repr_html_().startswith("<p>finetune: 2 objectives")
    assert "difference" in repr(result.comparison).splitlines()[0]
    assert result.comparison._repr_html_().count("<tr>") == 1 + 8
    assert hash(result) == hash(result)


@pytest.mark.parametrize("given", ["config", "keywords", "second", "third"])
def test_configs_and_keywords_are_the_same(arrays, given):
    pair, config = arrays, TrainingConfig(objectives="ce", **FAST)
    found = {
        "config": lambda: finetune(*pair, config=config),
        "keywords": lambda: finetune(*pair, objectives="ce", **FAST),
        "second": lambda: finetune(pair, config),
        "third": lambda: finetune(*pair, config),
    }[given]()
    assert found.options["objectives"] == ("ce",)
    assert set(found.before) == {"silhouette", "knn_accuracy", "macro_f1", "accuracy"}


def test_directories_are_named_in_any_place(arrays, make_store, blobs, tmp_path):
    store, config = make_store(*blobs), TrainingConfig(objectives="ce", **FAST)
    for number, call in enumerate(
        [
            lambda path: finetune(store, path, config),
            lambda path: finetune(str(store), str(path), config=config),
            lambda path: finetune(*arrays, path, config),
            lambda path: finetune(*arrays, run=path, config=config),
        ]
    ):
        path = tmp_path / f"run-{number}"
        assert call(path).path == path
        assert read_run(str(path)).data.train == 60


def test_two_run_directories_are_refused(arrays):
    with pytest.raises(UsageError, match="two run directories are given: a and b"):
        finetune(arrays, "a", "b")


def test_two_configs_are_refused(arrays):
    with pytest.raises(UsageError, match="two configs are given"):
        finetune(*arrays, TrainingConfig(), TrainingConfig())


def test_resuming_needs_a_directory(arrays):
    with pytest.raises(UsageError, match="only a run with a directory can be resumed"):
        finetune(*arrays, resume=True)


def test_features_need_labels(arrays):
    with pytest.raises(UsageError, match=r"ndarray of shape .* is given without labels"):
        finetune(arrays[0])


def test_a_metric_that_does_not_exist_is_refused_first(arrays):
    with pytest.raises(UsageError, match="did you mean 'silhouette'"):
        finetune(*arrays, metrics="silhouete")


def test_metrics_with_options_are_measured_and_drawn(arrays, tmp_path):
    result = finetune(
        *arrays, objectives=["ce", "ce + silhouette"], epochs=2, device="cpu", metrics=["rankme", "gini(dead='ignore')"]
    )
    assert list(result.before)[:2] == ["rankme", "gini"]
    assert plot([str(result.path)], tmp_path / "run.png", kinds=["comparison"]) == [tmp_path / "run.png"]


def test_test_rows_may_be_arrays(arrays):
    rows, labels = arrays
    found = finetune(rows[:70], labels[:70], test=(rows[70:], labels[70:]), objectives="ce", **FAST)
    assert found.data.test == 20


def test_annotated_data_name_a_column(arrays):
    rows, labels = arrays
    data = SimpleNamespace(obsm={"X_pca": rows}, obs={"kind": labels}, obs_names=np.arange(len(rows)).astype(str), X=rows)
    assert finetune(data, "kind", objectives="ce", **FAST).data.layer == "X_pca"
