"""run.json is written and read in one place; whatever else the file holds is one sentence."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedscope.errors import InputError
from embedscope.store.results import (
    Candidate,
    Finetuning,
    ObjectiveResult,
    RunData,
    Summary,
    Trial,
    as_json,
    is_run,
    read_run,
    write_run,
)


def made(path):
    trials = tuple(
        Trial(seed, 5, 3, {"silhouette": 0.5 + seed, "gini": None}, 1.5, f"ce/trial-{seed}", 0.25) for seed in (0, 1)
    )
    candidate = Candidate("ce", (0.5, 0.25), 0.375, ("ce/trial-0", "ce/trial-1"))
    summary = {"silhouette": Summary(1.0, 0.5, 0.25, (0.0, 0.5), 0.03), "gini": Summary(None, None)}
    plain, swept = (
        ObjectiveResult("ce", trials, summary),
        ObjectiveResult("ce", trials, summary, "[1,2]*ce", (candidate,), ("a",)),
    )
    data = RunData(train=60, test=20, validation=10, name="late", dimensions=8, classes=3)
    return Finetuning(path, {"epochs": 5, "objectives": ("ce",)}, data, (plain, swept), 3.5, {"silhouette": 0.25, "gini": None})


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path, made(tmp_path))
    return tmp_path


def rewrite(folder, change):
    document = json.loads((folder / "run.json").read_text())
    change(document)
    (folder / "run.json").write_text(json.dumps(document))


def test_what_is_written_is_read(folder):
    found = read_run(str(folder))
    assert found == made(folder)
    assert hash(found) == hash(made(folder))
    assert found != made(folder / "elsewhere")
    assert is_run(str(folder))


def test_before_stands_in_every_trial_too(folder):
    document = json.loads((folder / "run.json").read_text())
    for objective in document["objectives"]:
        assert [trial["before"] for trial in objective["trials"]] == [{"silhouette": 0.25, "gini": None}] * 2


def test_before_of_an_earlier_version_is_that_of_a_trial(folder):
    rewrite(folder, lambda document: document.pop("before"))
    assert read_run(str(folder)) == made(folder)


def test_fields_of_a_newer_version_are_left_out(folder):
    rewrite(folder, lambda document: document["objectives"][0]["trials"][0].update(energy=3))
    assert read_run(str(folder)) == made(folder)


def put(*path, value):
    def change(document):
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


TRIAL = ("objectives", 0, "trials", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("schema", value="embedscope.finetune/9"), "its schema is not embedscope.finetune/1"),
        (put("data", "train", value="many"), r"run.data.train must be an integer, got 'many'"),
        (put(*TRIAL, "seed", value=True), r"run.objectives\[0\].trials\[0\].seed must be an integer, got 'True'"),
        (put(*TRIAL, "after", "silhouette", value="good"), r"after.silhouette must be a number below 1e100, got 'good'"),
        (put(*TRIAL, "seconds", value=10**400), "seconds must be a number below 1e100, got '1000"),
        (put(*TRIAL, "seconds", value=float("nan")), "NaN is not JSON"),
        (put(*TRIAL, "directory", value="../../etc"), r"'\.\./\.\./etc' is not a directory of the run"),
        (put(*TRIAL, "directory", value="/etc"), "'/etc' is not a directory of the run"),
        (put(*TRIAL, "after", "gini", value=-1e308), "gini must be a number below 1e100, got '-1e\\+308'"),
        (put("objectives", 0, "expression", value="a\ud800"), r"expression must be a UTF-8 string, got 'a\\ud800'"),
        (put("options", "note", value=[{"\0": 1}]), r"a key of run.options.note\[0\] must be a UTF-8 string, got '\\x00'"),
        (put("data", "layer", value="a\0b"), r"data.layer must be a UTF-8 string, got 'a\\x00b'"),
        (put("objectives", 1, "summary", "gini", value=[]), r"objectives\[1\].summary.gini must be an object, got '\[\]'"),
        (put("objectives", 0, "summary", "silhouette", "ci95", value=[1]), "ci95 must be a list of 2, got"),
        (put("objectives", 0, "trials", value=[]), "an objective without trials"),
        (put("objectives", value=[]), "no objective"),
        (put("objectives", value={}), "run.objectives must be a list, got"),
        (put("options", value=3), "run.options must be an object, got '3'"),
        (put("before", value=[]), "run.before must be an object, got"),
        (put("objectives", 0, "warnings", value=[3]), r"warnings\[0\] must be a UTF-8 string, got '3'"),
    ],
)
def test_damage_is_named(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(InputError, match=message) as found:
        read_run(str(folder))
    assert str(found.value).startswith(f"{folder / 'run.json'} is damaged: ")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"a"', "[" * 100_000, '{"schema": NaN}', "9" * 5000])
def test_files_that_are_no_manifest(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert not is_run(str(tmp_path))
    with pytest.raises(InputError, match=r"run.json is damaged: "):
        read_run(str(tmp_path))


def test_a_manifest_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"run.json is damaged: .*No such file"):
        read_run(str(tmp_path))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(document, path=()):
    yield path
    keys = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in keys:
        yield from places(document[key], (*path, key))


@settings(max_examples=200, deadline=None, database=None)
@given(data=st.data(), value=VALUES)
def test_any_json_anywhere_is_read_or_refused_in_a_sentence(tmp_path_factory, data, value):
    folder = tmp_path_factory.getbasetemp()
    document = json.loads(json.dumps(as_json(made(Path("run")))))
    path = data.draw(st.sampled_from(list(places(document))))
    changed = copy.deepcopy(document) if path else value
    if path:
        put(*path, value=value)(changed)
    (folder / "run.json").write_text(json.dumps(changed))
    is_run(str(folder))
    problem = ""
    try:
        assert read_run(str(folder)).objectives[0].trials
    except InputError as error:
        problem = str(error)
    assert len(problem.splitlines()) <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"splits": 3}, "the trials of an objective do not divide evenly into 3 splits"),
        ({"before_by_split": []}, "a trial of a split beyond the 1 with measurements before"),
    ],
)
def test_splits_that_do_not_fit_the_trials(folder, change, message):
    def split(document):
        document["splits"] = 2
        document["before_by_split"] = [document["before"]] * 2
        for objective in document["objectives"]:
            objective["trials"][1]["split"] = 1

    rewrite(folder, split)
    assert read_run(str(folder)).splits == 2
    rewrite(folder, lambda document: document.update(change))
    with pytest.raises(InputError, match=message):
        read_run(str(folder))
