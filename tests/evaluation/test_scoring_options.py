"""Intervals, samples, memory, tables and thresholds."""

import csv
import json

import numpy as np
import pytest
import torch

from embedscope.cli import main
from embedscope.errors import ThresholdError, UsageError
from embedscope.evaluation import score
from embedscope.evaluation.thresholds import check_thresholds, parse_threshold
from embedscope.metrics.silhouette import silhouette_samples


@pytest.fixture
def store(make_store, blobs):
    rows, labels = blobs
    generator = np.random.default_rng(3)
    features = np.concatenate([rows + generator.normal(size=rows.shape) for _ in range(10)]).astype(np.float32)
    return str(make_store(features, np.tile(labels, 10), class_names=["a", "b", "c"]))


def test_sample_estimates_the_mean_against_all_rows(store):
    exact = score([store])[0].metrics
    found = score([store], sample=200, seed=1)[0].metrics
    for name in ("silhouette", "soft_silhouette"):
        low, high = found[name].ci95
        assert low < exact[name].value < high
        assert 0 < high - low < 0.2
        assert found[name].note.startswith("estimated from a stratified sample of 200 of 900 rows, against all rows")
    assert found["gini"].value == exact["gini"].value
    assert found["gini"].ci95 is None


def test_sample_of_everything_is_exact(store):
    exact = score([store])[0].metrics["silhouette"]
    found = score([store], sample=10_000)[0].metrics["silhouette"]
    assert found.value == exact.value
    assert found.ci95 is None


def test_intervals_hold_the_value(store):
    found = score([store], ci=True, metrics=["silhouette", "gini", "class_kl"])[0].metrics
    for name in ("silhouette", "gini"):
        low, high = found[name].ci95
        assert low <= high
        # The interval is corrected for bias, so the plug-in value of a biased metric may lie beyond an end.
        assert low - 0.05 * abs(low) <= found[name].value <= high + 0.05 * abs(high)
    assert found["class_kl"].ci95[0] >= 0
    again = score([store], ci=True, metrics=["silhouette"])[0].metrics["silhouette"]
    assert again.ci95 == found["silhouette"].ci95


@pytest.mark.parametrize("metric", ["silhouette", "silhouette(distance='cosine')", "soft_silhouette", "gini", "rankme"])
def test_rows_on_disk_give_the_same_as_rows_in_memory(store, metric, monkeypatch):
    def forced(rows, device, budget):
        return rows

    (inside,) = score([store], metrics=[metric])
    monkeypatch.setattr("embedscope.evaluation.evaluating._at_hand", forced)
    (outside,) = score([store], metrics=[metric])
    name = metric.partition("(")[0]
    # Products of float32 rows round differently in other blocks.
    assert outside.metrics[name].value == pytest.approx(inside.metrics[name].value, abs=1e-7)


def test_features_larger_than_half_of_the_memory_stay_on_disk(make_store):
    rows = np.random.default_rng(0).normal(size=(2**15, 160)).astype(np.float32)  # 20 MB
    path = str(make_store(rows, np.arange(2**15) % 4))
    said = []
    score([path], metrics=["gini", "stable_rank"], memory=2**25, say=said.append)
    score([path], metrics=["gini"], memory=2**26, say=said.append)
    assert said[0] == "store: 32,768 x 160 (20.0 MB) read from disk in blocks; at most 32.0 MB of memory"
    score([path], metrics=["gini"], memory=2**26, sample=100, say=said.append)
    assert said[1] == "store: 32,768 x 160 (20.0 MB) read into memory; 100 sampled rows against all; at most 64.0 MB of memory"


def test_no_interval_for_what_would_be_read_again_and_again(store, monkeypatch):
    monkeypatch.setattr("embedscope.evaluation.evaluating._at_hand", lambda rows, device, budget: rows)
    found = score([store], ci=True, metrics=["silhouette", "gini"])[0].metrics
    assert found["gini"].ci95 is not None  # one more pass over the rows
    assert found["silhouette"].ci95 is None
    assert found["silhouette"].note == "no interval: the features do not fit in memory; measure a sample to get one"


def test_memory_too_small():
    with pytest.raises(UsageError, match=r"a memory limit of 1.0 MB is too small"):
        score([[0.0], [1.0]], ["a", "b"], memory=2**20)


def test_table_of_samples(store, tmp_path, capsys):
    assert main(["score", store, "-q", "--samples", str(tmp_path / "s.csv"), "-m", "silhouette"]) == 0
    with (tmp_path / "s.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["name", "id", "label", "silhouette", "nearest", "split"]
    assert len(lines) == 900
    from embedscope.store import read_features

    features = read_features(store)
    samples = silhouette_samples(features.features[:], torch.from_numpy(features.labels))
    assert [float(line["silhouette"]) for line in lines] == samples.tolist()
    assert [line["id"] for line in lines] == features.ids.tolist()
    assert all(line["nearest"] in "abc" and line["nearest"] != line["label"] for line in lines)
    again = ["score", store, "-q", "--samples", str(tmp_path / "s.csv")]
    assert main(again) == 1
    assert "exists; choose another name or pass --overwrite" in capsys.readouterr().err


def test_table_of_samples_as_parquet(store, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    assert main(["score", store, "-q", "--samples", str(tmp_path / "s.parquet"), "-m", "silhouette"]) == 0
    table = parquet.read_table(tmp_path / "s.parquet")
    assert table.column_names == ["name", "id", "label", "silhouette", "nearest", "split"]
    assert table["silhouette"].to_pylist() == score([store], metrics=["silhouette"])[0].table.values["silhouette"].tolist()


def test_parquet_without_pyarrow(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert main(["score", store, "--samples", str(tmp_path / "s.parquet")]) == 1
    assert "pyarrow, which is not installed; pip install 'embedscope[tables]'" in capsys.readouterr().err


def test_metric_asked_for_twice_has_two_columns(store, tmp_path):
    options = [part for metric in ("silhouette", "silhouette(distance='cosine')", "silhouette") for part in ("-m", metric)]
    assert main(["score", store, "-q", "--samples", str(tmp_path / "s.csv"), *options]) == 0
    with (tmp_path / "s.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0])[3:5] == ["silhouette", "silhouette(distance='cosine')"]
    means = [np.mean([float(line[name]) for line in lines]) for name in list(lines[0])[3:5]]
    (found,) = score([store], metrics=["silhouette", "silhouette(distance='cosine')"])
    assert means == pytest.approx([entry.value for entry in found.metrics.values()], abs=1e-12)
    with pytest.raises(UsageError, match="could mean any of 2 measurements of gini"):
        parse_threshold("gini=0.3", ["gini", "gini(dead='ignore')"])


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--samples", "x.csv", "-m", "gini"], 2, "--samples needs a metric with a value per sample"),
        (["--samples", "/proc/none/s.csv"], 1, "cannot write /proc/none/s.csv"),
        (["-m", "silhouette(distance=['a'])"], 2, "option distance of silhouette must be a number, a string"),
        (["-m", "soft_silhouette(tau_s=0.1"], 2, "has an unclosed bracket"),
        (["--json", "--format", "csv"], 2, "--json and --format csv exclude each other"),
        (["--device", "cpu:7"], 2, "no device 'cpu:7'"),
        (["--sample", "2"], 2, "a sample of 2 rows is too small for 3 classes"),
        (["--memory", "lots"], 2, "cannot read the size 'lots'; use a form such as 500MB or 4GB"),
    ],
)
def test_options_that_cannot_be(store, options, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["score", store, *options]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert message in err
    assert not (tmp_path / "x.csv").exists()


def test_other_table(store, tmp_path, capsys):
    assert main(["score", store, "--samples", str(tmp_path / "s.xlsx")]) == 2
    assert "the name must end with .csv or .parquet" in capsys.readouterr().err


def test_csv(store, capsys):
    assert main(["score", store, f"b={store}", "-q", "--format", "csv", "-m", "silhouette", "-m", "gini"]) == 0
    lines = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [(line["name"], line["metric"], line["class"]) for line in lines[:5]] == [
        ("store", "silhouette", ""),
        ("store", "silhouette", "a"),
        ("store", "silhouette", "b"),
        ("store", "silhouette", "c"),
        ("store", "gini", ""),
    ]
    assert len(lines) == 10
    assert lines[0]["better"] == "higher"


def test_interval_is_shown(store, capsys):
    assert main(["score", store, "-q", "--ci", "-m", "silhouette"]) == 0
    assert "[0." in capsys.readouterr().out
    assert main(["score", store, "-q", "--sample", "100", "--json", "-m", "silhouette"]) == 0
    found = json.loads(capsys.readouterr().out)["results"][0]["metrics"]["silhouette"]
    assert len(found["ci95"]) == 2


@pytest.mark.parametrize(
    ("threshold", "code"),
    [("silhouette=0.05", 0), ("silhouette=0.99", 3), ("gini=0.99", 0), ("gini=0.01", 3), ("soft-silhouette=0.99", 3)],
)
def test_threshold(store, threshold, code, capsys):
    assert main(["score", store, "-q", "--fail-under", threshold]) == code
    out, err = capsys.readouterr()
    assert "silhouette" in out
    assert len(err.splitlines()) == (1 if code else 0)


def test_undefined_value_misses_every_threshold(make_store, blobs):
    scores = score([str(make_store(blobs[0], np.zeros(90, int)))])
    with pytest.raises(ThresholdError, match="store: silhouette is undefined"):
        check_thresholds(scores, [("silhouette", -1.0)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("silhouette", "cannot read the threshold 'silhouette'"),
        ("silhouette=high", "cannot read the threshold 'silhouette=high'"),
        ("gini=nan", "cannot read the threshold 'gini=nan'"),
        ("rankme=3", "is on a metric that is not measured; measured: gini"),
    ],
)
def test_threshold_that_cannot_be(text, message):
    with pytest.raises(UsageError, match=message):
        parse_threshold(text, ["gini"])


@pytest.mark.parametrize(
    ("text", "measured", "name"),
    [
        ("gini_impurity=0.9", ["gini"], "gini"),
        ("gini=0.9", ["gini-impurity"], "gini_impurity"),
        ("gini=0.9", ["gini_impurity(dead='ignore')", "gini"], "gini"),
        ("n_components_95=9", ["explained_variance"], "explained_variance"),
    ],
)
def test_threshold_by_another_name_of_the_metric(text, measured, name):
    assert parse_threshold(text, measured)[0] == name


def test_values_are_reported_under_the_name_that_was_typed(store):
    (found,) = score([store], metrics=["gini_impurity", "n_components_95", "gini", "explained_variance"])
    assert list(found.metrics) == ["gini_impurity", "n_components_95", "gini", "explained_variance"]
    assert found.metrics["gini_impurity"].value == found.metrics["gini"].value
    assert found.metrics["n_components_95"].value == found.metrics["explained_variance"].value


def test_table_fits_a_narrow_terminal(store, monkeypatch):
    import io

    from rich.console import Console

    from embedscope.cli import console

    shown = io.StringIO()
    real = Console
    monkeypatch.setattr(
        "rich.console.Console", lambda **options: real(file=shown, width=80, force_terminal=True, color_system=None)
    )
    names = [f"checkpoint-epoch-{number:02}-of-a-long-run={store}" for number in range(8)]
    console.print_scores(score(names), per_class=False)
    text = shown.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert text.count("soft_silhouette ↑") == 4  # two columns in each of four tables
    assert text.replace("\n", "").count("0.") > 24
