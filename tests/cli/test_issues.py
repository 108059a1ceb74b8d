"""`score --issues`: the file, the summary on stderr, JSON, and refusals before any work."""

import csv
import json

import numpy as np
import pytest

from embedscope.cli import main


def run(*arguments):
    return main([str(argument) for argument in arguments])


WRONG = [4, 13, 22, 35, 50, 62, 77, 81]


@pytest.fixture
def store(make_store, blobs):
    features, labels = blobs[0].copy(), blobs[1].copy()
    wrong = np.array(WRONG)
    labels[wrong] = (labels[wrong] + 1) % 3
    features[60] = features[30]
    return make_store(features, labels, split=["train"] * 45 + ["test"] * 45)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_issues_are_written_and_summed_up(store, tmp_path, capsys):
    assert run("score", store, "-m", "silhouette", "--issues", tmp_path / "i.csv", "--json") == 0
    printed = capsys.readouterr()
    rows = rows_of(tmp_path / "i.csv")
    assert list(rows[0]) == ["name", "id", "kind", "label", "score", "suggested", "evidence", "split"]
    errors = {row["id"]: row for row in rows if row["kind"] == "label"}
    assert set(errors) == {f"row{row}" for row in WRONG}
    assert (errors["row4"]["label"], errors["row4"]["suggested"], errors["row4"]["split"]) == ("2", "1", "train")
    copies = [(row["kind"], row["id"], row["split"]) for row in rows if row["kind"] != "label"]
    assert copies == [("leakage", "row30", "train"), ("leakage", "row60", "test")]
    found = json.loads(printed.out)["results"][0]["issues"]
    assert (found["label"], found["leakage"], found["duplicate"], found["outlier"]) == (8, 2, 0, 0)
    assert found["leakage_groups"] == 1
    assert "store: label errors: 8 (" in printed.err
    assert "store: copies in another split: 2 (in 1 group)" in printed.err
    assert f"wrote 10 rows to {tmp_path / 'i.csv'}" in printed.err


def test_several_sources_and_parquet(store, tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run("score", f"a={store}", f"b={store}", "-m", "silhouette", "--issues", tmp_path / "i.parquet", "-q") == 0
    table = parquet.read_table(tmp_path / "i.parquet").to_pydict()
    assert table["name"] == ["a"] * 10 + ["b"] * 10
    assert table["id"][:10] == table["id"][10:]
    assert capsys.readouterr().err == ""


def test_no_issues_is_a_file_with_a_heading(make_store, blobs, tmp_path, capsys):
    assert run("score", make_store(*blobs), "-m", "silhouette", "--issues", tmp_path / "i.csv") == 0
    assert (tmp_path / "i.csv").read_text() == "name,id,kind,label,score,suggested,evidence,split\n"
    assert "store: leakage: not computed: the data have no splits" in capsys.readouterr().err


@pytest.fixture
def bare(make_store):
    features = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    features[7] = features[3]
    return make_store(features, np.full(40, -1), class_names=["a"])


def test_unlabeled_rows_still_have_issues(bare, tmp_path, capsys):
    assert run("score", bare, "--issues", tmp_path / "i.csv", "--json") == 0
    printed = capsys.readouterr()
    assert [row["id"] for row in rows_of(tmp_path / "i.csv")] == ["row3", "row7"]
    assert "label: not computed: needs two classes of at least 5 rows each, but there is none" in printed.err
    assert "no row has a label: metrics are not computed" in printed.err
    (result,) = json.loads(printed.out)["results"]
    assert (result["metrics"], result["samples"], result["issues"]["duplicate"]) == ({}, 40, 2)
    assert run("score", bare, "--issues", tmp_path / "j.csv") == 0
    assert "copies of one another" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["-m", "silhouette"], ["--fail-under", "silhouette=0.1"]])
def test_metrics_of_unlabeled_rows_are_refused_before_the_work(bare, tmp_path, capsys, options):
    assert run("score", bare, "--issues", tmp_path / "i.csv", *options) == 1
    assert "none of them labeled" in capsys.readouterr().err
    assert not (tmp_path / "i.csv").exists()


def test_issues_and_metrics_share_their_probes(store, tmp_path, monkeypatch):
    from embedscope.ops import probes

    fits, fit = [], probes.fit
    monkeypatch.setattr(probes, "fit", lambda *args, **options: fits.append(1) or fit(*args, **options))
    assert run("score", store, "-m", "linear_probe", "--issues", tmp_path / "i.csv", "--json") == 0
    assert len(fits) == 5


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--issues", "i.txt"], 2, "the name must end with .csv or .parquet"),
        (["--issues", "old.csv"], 1, "exists; choose another name or pass --overwrite"),
        (["--issues", "i.csv", "-m", "siluette"], 2, "did you mean 'silhouette'?"),
        (["--issues", "i.csv", "--split", "tset"], 2, "did you mean 'test'?"),
    ],
)
def test_mistakes_are_told_before_the_work(store, tmp_path, capsys, monkeypatch, options, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.csv").write_text("old")
    assert run("score", store, *options) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
    assert not (tmp_path / "i.csv").exists()
    assert (tmp_path / "old.csv").read_text() == "old"
