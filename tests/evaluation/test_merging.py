"""Many runs in one table: what other readers make of it, what is joined, and what is refused."""

import csv
import io
import json

import numpy as np
import pytest

from embedscope.cli import main
from embedscope.errors import InputError
from embedscope.evaluation import score
from embedscope.evaluation.merging import merge
from embedscope.finetuning import finetune


@pytest.fixture
def files(tmp_path, blobs):
    """Scores of two embeddings with intervals, and of a third without."""
    rows, labels = blobs
    tables = {
        "a": score({"early": rows, "late": 2 * rows + 1}, labels, metrics=["silhouette", "gini"], ci=True),
        "b": score({"other": rows[:, :4]}, labels, metrics=["silhouette", "rankme"]),
    }
    for name, table in tables.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(table.as_json()))
    return [tmp_path / "a.json", tmp_path / "b.json"], [entry for table in tables.values() for entry in table]


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_columns_hold_what_the_files_hold(files):
    paths, scores = files
    columns = merge(paths).columns()
    assert list(columns) == [
        "name", "source", "layer", "samples", "dimensions", "classes", "silhouette", "silhouette_low", "silhouette_high",
        "gini", "gini_low", "gini_high", "rankme",
    ]  # fmt: skip
    assert columns["name"] == ["early", "late", "other"]
    assert columns["dimensions"] == [8, 8, 4]
    for row, entry in enumerate(scores):
        for key in ("silhouette", "gini", "rankme"):
            found = entry.metrics.get(key)
            assert columns[key][row] == (found and found.value)
            if key != "rankme":
                assert (columns[f"{key}_low"][row], columns[f"{key}_high"][row]) == ((found and found.ci95) or (None, None))


def test_csv_and_parquet_are_read_back(files, tmp_path, capsys):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    paths, _ = files
    expected = merge(paths).columns()
    assert run("merge", *paths) == 0
    printed = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["gini_low"] for row in printed] == ["" if low is None else str(low) for low in expected["gini_low"]]
    for name in ("t.csv", "t.parquet"):
        assert run("merge", *paths, "-o", tmp_path / name, "-q") == 0
        read = pandas.read_csv(tmp_path / name) if name == "t.csv" else pandas.read_parquet(tmp_path / name)
        assert list(read) == list(expected)
        np.testing.assert_array_max_ulp(
            np.array(read["silhouette"]), np.array(expected["silhouette"])
        )  # pandas 2 misses the last bit
        assert read["rankme"].isna().tolist() == [True, True, False]


def test_json_has_rows_as_objects(files, tmp_path, capsys):
    paths, _ = files
    assert run("merge", *paths, "-o", tmp_path / "t.json", "-q") == 0
    found = json.loads((tmp_path / "t.json").read_text())
    assert found["schema"] == "embedscope.merge/1"
    assert [row["name"] for row in found["rows"]] == ["early", "late", "other"]
    assert list(found["rows"][0]) == found["columns"]
    assert run("merge", *paths, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == found


def test_markdown_is_a_table_whatever_the_names(blobs, tmp_path, capsys):
    rows, labels = blobs
    table = score({"a|b": rows, "*c*_d_e": rows}, labels, metrics="silhouette", ci=True)
    (tmp_path / "a.json").write_text(json.dumps(table.as_json()))
    assert run("merge", tmp_path / "a.json", "--format", "markdown") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| name | layer | samples | dimensions | silhouette ↑ |"
    assert lines[1] == "| --- | --- | ---: | ---: | ---: |"
    low, high = table[0].metrics["silhouette"].ci95
    assert lines[2] == f"| a\\|b | X | 90 | 8 | {table[0].metrics['silhouette'].value:.4f} [{low:.4f}, {high:.4f}] |"
    assert lines[3].startswith("| \\*c\\*\\_d_e |")
    assert len(lines) == 4


@pytest.mark.parametrize("name", ["plain", "a: b # c", "'quote\" \\", "- x", "yes", "\U0001f600 é", "1e5"])
def test_hugging_face_yaml_is_read_back(blobs, tmp_path, name):
    yaml = pytest.importorskip("yaml")
    rows, labels = blobs
    table = score({name: rows}, labels, metrics=["silhouette", "class_kl", "explained_variance"], ci=True)
    document = table.as_json()
    document["results"][0]["metrics"]["class_kl"]["value"] = 1e-05
    document["results"][0]["metrics"]["explained_variance"]["value"] = None
    (tmp_path / "a.json").write_text(json.dumps(document))
    (model,) = yaml.safe_load(merge([tmp_path / "a.json"]).hugging_face(dataset="blobs"))["model-index"]
    assert model["name"] == name
    (result,) = model["results"]
    assert result["task"]["type"] == "feature-extraction"
    assert result["dataset"] == {"type": "blobs", "name": "blobs"}
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values == {"silhouette": table[0].metrics["silhouette"].value, "class_kl": 1e-05}
    assert result["metrics"][0]["name"].startswith("silhouette (95% interval ")


def test_yaml_needs_no_reader_of_yaml(files, tmp_path, capsys):
    paths, _ = files
    assert run("merge", *paths, "-o", tmp_path / "card.yaml", "--dataset", "blobs", "-q") == 0
    text = (tmp_path / "card.yaml").read_text()
    assert text.splitlines()[:3] == ["model-index:", '- name: "early"', "  results:"]
    assert text.count('      name: "blobs"') == 3


def test_runs_of_finetune(blobs, tmp_path):
    finetune(*blobs, run=tmp_path / "run", objectives=["ce", "ce + gini"], epochs=1, device="cpu")
    found = merge([tmp_path / "run"])
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [row.name for row in found.rows] == ["ce", "ce + gini"]
    for row, objective in zip(found.rows, document["objectives"], strict=True):
        assert row.metrics["accuracy"].value == objective["summary"]["accuracy"]["mean"]
        assert row.samples == document["data"]["test"]


def test_metrics_of_one_embedding_are_joined(blobs, tmp_path):
    rows, labels = blobs
    for name, metric in (("a", "silhouette"), ("b", "gini"), ("c", "silhouette")):
        (tmp_path / f"{name}.json").write_text(json.dumps(score(rows, labels, metrics=metric).as_json()))
    found = merge([tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.json"])
    assert [list(row.metrics) for row in found.rows] == [["silhouette", "gini"]]


def test_other_options_are_another_column(blobs, tmp_path):
    rows, labels = blobs
    for name, spec in (("a", "silhouette"), ("b", "silhouette(distance='cosine')")):
        (tmp_path / f"{name}.json").write_text(json.dumps(score({name: rows}, labels, metrics=spec).as_json()))
    found = merge([tmp_path / "a.json", tmp_path / "b.json"])
    assert list(found.metrics.items()) == [
        ("silhouette(distance='euclidean')", "higher"),
        ("silhouette(distance='cosine')", "higher"),
    ]


def test_contradictions_are_refused(files, tmp_path):
    paths, _ = files
    document = json.loads(paths[0].read_text())
    document["results"][1]["metrics"]["gini"]["value"] = 0.5
    (tmp_path / "other.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"a.json and .*other.json both contain late \(.*\) but differ in gini; leave one out"):
        merge([paths[0], tmp_path / "other.json"])


def test_a_folder_stands_for_the_results_in_it(files, tmp_path, blobs, capsys):
    paths, _ = files
    finetune(*blobs, run=tmp_path / "run", epochs=1, device="cpu")
    (tmp_path / "package.json").write_text('{"name": "x"}')
    (tmp_path / "early.h5").touch()
    assert run("merge", tmp_path, "-o", tmp_path / "table.json") == 0
    assert f"{tmp_path}: left out package.json: neither scores nor a run" in capsys.readouterr().err
    expected = merge([*paths, tmp_path / "run"])
    assert json.loads((tmp_path / "table.json").read_text()) == expected.as_json()
    said = []
    assert merge([tmp_path], say=said.append).as_json() == expected.as_json()  # the table is not a result
    assert said == [f"{tmp_path}: left out package.json, table.json: neither scores nor a run"]
    assert merge([tmp_path / "run"]).as_json() == merge([tmp_path / "run" / "run.json"]).as_json()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "has no results to merge; give files written by embedscope score --json, or run directories"),
        (("x.json",), "has no results to merge; give files written by embedscope score --json, or run directories"),
        (("a b.h5",), "but 1 feature store; score first: embedscope score 'x/a b.h5' --json > scores.json"),
        (tuple("abcd"), "but 4 feature stores; score first: embedscope score x/a.h5 x/b.h5 x/c.h5 ... --json > scores.json"),
    ],
)
def test_a_folder_without_results_says_what_to_type(tmp_path, monkeypatch, capsys, names, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    for name in names:
        (tmp_path / "x" / (name if "." in name else f"{name}.h5")).touch()
    assert run("merge", "x") == 1
    assert message in capsys.readouterr().err


def test_a_store_is_not_results(tmp_path, capsys):
    (tmp_path / "a.h5").write_bytes(b"features")
    assert run("merge", tmp_path / "a.h5") == 1
    assert f"contains features, not results; score first: embedscope score {tmp_path}/a.h5 --json > scores.json" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: it has 0 bytes"),
        ("{", "is not JSON"),
        ("[1]", "has no schema; expected"),
        ('{"schema": "embedscope.score/2"}', r"has the schema 'embedscope.score/2'; expected embedscope.score/1"),
        ('{"schema": "embedscope.score/1"}', "results"),
        ('{"schema": "embedscope.score/1", "results": [{"name": 3}]}', "name"),
        ('{"schema": "embedscope.score/1", "results": NaN}', "NaN is not a JSON number"),
        ('{"schema": "embedscope.score/1", "results": []}', "nothing to merge"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=message):
        merge([tmp_path / "a.json"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-o", "t.txt"], 2, "must end with .csv, .parquet, .md, .json, .yaml, .yml"),
        (["-o", "t.csv", "--format", "hf"], 2, "does not match the name"),
        (["--dataset", "x"], 2, "--dataset requires --format hf"),
        (["missing.json"], 1, "no such file"),
        (["-o", "there.csv"], 1, "pass --overwrite"),
    ],
)
def test_wrong_use_is_one_line(files, tmp_path, monkeypatch, capsys, arguments, code, message):
    paths, _ = files
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.csv").write_text("kept")
    assert run("merge", paths[0], *arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert (tmp_path / "there.csv").read_text() == "kept"


def test_damaged_results_in_a_folder_are_warned_about(files, tmp_path, capsys):
    paths, _ = files
    paths[1].write_text(paths[1].read_text()[:-20])
    assert run("merge", tmp_path, "-o", tmp_path / "table.csv") == 0
    assert f"warning: {tmp_path}: left out {paths[1].name}: not JSON, perhaps truncated" in capsys.readouterr().err
