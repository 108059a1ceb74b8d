"""`score CHECKPOINTS --model --data`: the table of stores that extract wrote, and a file that a kill leaves of use."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from embedscope.cli import main
from embedscope.errors import InputError
from embedscope.monitoring.stages import in_order
from embedscope.store.trajectories import read_points
from tests.conftest import ROOT

SAMPLE = ROOT / "sample_data"
MODEL = ["--model", f"{SAMPLE / 'network.py'}:DigitNet"]


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path):
    """Two checkpoints, whose names are in another order than their numbers, and data with splits of 150 rows each."""
    for name, step in (("early", 9), ("late", 10)):
        shutil.copy(SAMPLE / f"{name}.safetensors", tmp_path / f"ckpt-{step}.safetensors")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (300, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", X=images, y=np.arange(300) % 3, split=np.array(["train"] * 150 + ["test"] * 150))
    return tmp_path


def printed(capsys, *arguments):
    capsys.readouterr()
    assert run(*arguments) == 0
    return capsys.readouterr().out


def test_it_prints_what_score_prints_of_stores(folder, capsys):
    for step in (9, 10):
        store, weights = folder / f"ckpt-{step}.h5", folder / f"ckpt-{step}.safetensors"
        layers = ("-l", "classifier.input", "-l", "conv2")
        assert run("extract", MODEL[1], folder / "data.npz", "--checkpoint", weights, *layers, "-o", store, "-q") == 0
    expected = json.loads(printed(capsys, "score", folder / "ckpt-9.h5", folder / "ckpt-10.h5", "--json", "-q"))
    found = json.loads(
        printed(capsys, "score", folder / "ckpt-10.safetensors", folder / "ckpt-9.safetensors", *MODEL, "--data",
                folder / "data.npz", "-l", "classifier.input", "-l", "conv2", "--json", "-q")
    )  # fmt: skip
    for one, other in zip(found["results"], expected["results"], strict=True):
        assert one.pop("source") == other.pop("source").replace(".h5", ".safetensors")
        assert one == other


def test_a_split_is_read_alone(folder, capsys):
    arguments = ["score", folder, *MODEL, "--data", folder / "data.npz", "--split", "test", "-m", "silhouette", "--json", "-q"]
    assert [each["samples"] for each in json.loads(printed(capsys, *arguments))["results"]] == [150, 150]
    assert run(*arguments[:-2], "--split", "tst") == 2


def test_what_was_measured_is_not_measured_again(folder, capsys, monkeypatch):
    table = folder / "t.jsonl"
    arguments = ["score", folder, *MODEL, "--data", folder / "data.npz", "-o", table]
    first = printed(capsys, *arguments)
    lines = table.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [9, 10]
    table.write_text(lines[0] + "\n" + lines[1][:40])  # killed while it wrote the second
    opened = []
    from embedscope.monitoring import checkpoints

    embed = checkpoints.embed
    monkeypatch.setattr(
        checkpoints, "embed", lambda encoder, *rest, **options: opened.append(1) or embed(encoder, *rest, **options)
    )
    assert printed(capsys, *arguments) == first
    assert len(opened) == 1
    assert [point.metrics for point in read_points(table)] == [json.loads(line)["metrics"] for line in lines]
    assert printed(capsys, *arguments) == first
    assert len(opened) == 1
    assert "class_kl by class" not in first
    assert "silhouette by class" in printed(capsys, *arguments, "--per-class")
    assert len(opened) == 3
    assert len(table.read_text().splitlines()) == 2


def test_other_settings_need_another_file(folder, capsys):
    table = folder / "t.jsonl"
    arguments = ["score", folder, *MODEL, "--data", folder / "data.npz", "-o", table, "-q"]
    assert run(*arguments, "-m", "silhouette") == 0
    assert run(*arguments, "-m", "gini") == 1
    assert (
        "another model, data, layers, metrics or options; choose another name, or pass --overwrite" in capsys.readouterr().err
    )
    assert run(*arguments, "-m", "gini", "--overwrite") == 0
    assert [list(point.metrics) for point in read_points(table)] == [["gini"], ["gini"]]


def test_intervals_and_samples(folder, capsys):
    arguments = ["score", folder, *MODEL, "--data", folder / "data.npz", "-m", "silhouette", "-o", folder / "t.jsonl"]
    shown = printed(capsys, *arguments, "--ci", "--samples", folder / "samples.csv")
    assert "minus ckpt-9, same samples" in shown
    assert len((folder / "samples.csv").read_text().splitlines()) == 601


@pytest.mark.parametrize("broken", ["ckpt-8", "ckpt-11"])  # the first, which tells how to prepare the data, and the last
def test_a_broken_checkpoint_is_skipped_and_the_others_are_kept(folder, capsys, broken):
    (folder / f"{broken}.safetensors").write_bytes(b"torn")
    table = folder / "t.jsonl"
    arguments = ["score", folder, *MODEL, "--data", folder / "data.npz", "-m", "silhouette", "-o", table, "--json", "-q"]
    assert run(*arguments) == 1
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [each["name"] for each in found["results"]] == ["ckpt-9", "ckpt-10"]
    assert list(found["failed"]) == [broken]
    skipped, last = captured.err.splitlines()
    assert skipped.startswith(f"warning: skipping {broken}: ")
    assert last == f"embedscope: 1 of 3 checkpoints could not be measured: {broken}"
    assert [point.step for point in read_points(table)] == [9, 10]
    shutil.copy(SAMPLE / "early.safetensors", folder / f"{broken}.safetensors")
    assert "failed" not in json.loads(printed(capsys, *arguments))


def test_what_is_wrong_with_the_whole_run_is_said_once(folder, capsys):
    model = ["--model", f"{SAMPLE / 'network.py'}:Nothing"]
    assert run("score", folder, *model, "--data", folder / "data.npz") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "'Nothing'" in line


def test_a_missed_threshold_is_told_beside_a_skipped_checkpoint(folder, capsys):
    (folder / "ckpt-11.safetensors").write_bytes(b"torn")
    assert run("score", folder, *MODEL, "--data", folder / "data.npz", "--fail-under", "silhouette=0.999", "-q") == 1
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("warning: ") and "0.999" in line for line in lines)
    assert lines[-1] == "embedscope: 1 of 3 checkpoints could not be measured: ckpt-11"


def test_if_all_checkpoints_are_broken_nothing_is_printed(folder, capsys):
    for step in (9, 10):
        (folder / f"ckpt-{step}.safetensors").write_bytes(b"torn")
    assert run("score", folder, *MODEL, "--data", folder / "data.npz", "-o", folder / "t.jsonl") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1] == "embedscope: none of the 2 checkpoints could be measured"
    assert not (folder / "t.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "x.py:Net"], 2, "--model also requires --data"),
        (["--data", "x.npz"], 2, "--data also requires --model"),
        (["--limit", "3"], 2, "--limit applies to checkpoints, which need --model and --data"),
        ([*MODEL, "--data", "none.npz"], 1, "no such data: none.npz"),
        ([*MODEL, "--data", SAMPLE / "digits", "-o", "table.csv"], 2, "name it table.jsonl"),
        ([*MODEL, "--data", SAMPLE / "digits", "-m", "siluette"], 2, "did you mean 'silhouette'"),
    ],
    ids=str,
)
def test_errors_are_one_line(folder, capsys, arguments, code, message):
    assert run("score", folder / "ckpt-9.safetensors", *arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("taken.jsonl", "is a folder; give a file name"),
        ("notes.jsonl", "line 1 is not a measurement"),
        ("data.npz/out.jsonl", "data.npz is not a writable folder"),
    ],
)
def test_an_output_that_cannot_be_is_told_before_a_model_is_opened(folder, capsys, monkeypatch, output, message):
    def opened(*arguments, **options):
        raise AssertionError("a model was opened")

    monkeypatch.setattr("embedscope.monitoring.checkpoints.open_model", opened)
    (folder / "taken.jsonl").mkdir()
    (folder / "notes.jsonl").write_text("one\ntwo\n")
    assert run("score", folder / "ckpt-9.safetensors", *MODEL, "--data", folder / "data.npz", "-o", folder / output) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert message in line


def test_a_layer_that_is_not_there_names_the_command_that_lists_them(folder, capsys):
    arguments = ("score", folder / "ckpt-9.safetensors", *MODEL, "--data", folder / "data.npz", "-l", "conv7")
    assert run(*arguments) == 2
    assert f"embedscope extract {MODEL[1]} {folder / 'data.npz'} --list-layers prints all" in capsys.readouterr().err


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return [str(folder / name) for name in names]


def steps(paths):
    return [(stage.step, stage.name) for stage in in_order(paths)]


def test_names_are_in_natural_order(tmp_path):
    files = touch(tmp_path, "ckpt-10.pt", "ckpt-9.pt", "ckpt-100.pt")
    assert steps(files) == [(9, "ckpt-9"), (10, "ckpt-10"), (100, "ckpt-100")]
    assert steps([str(tmp_path)]) == steps(files)


def test_a_step_is_the_last_number_of_a_name(tmp_path):
    assert [step for step, _ in steps(touch(tmp_path, "epoch=3-step=1500.ckpt", "epoch=10-step=5000.ckpt"))] == [1500, 5000]


def test_without_numbers_positions_are_steps(tmp_path):
    assert steps(touch(tmp_path, "late.pt", "early.pt")) == [(0, "early"), (1, "late")]
    assert [step for step, _ in steps(touch(tmp_path, "a-1.pt", "b-1.pt"))] == [0, 1]


def test_folders_of_trainers(tmp_path):
    touch(tmp_path, "checkpoint-500/model.safetensors", "checkpoint-500/optimizer.pt", "checkpoint-500/rng_state_0.pth")
    touch(tmp_path, "checkpoint-1000/model.safetensors")
    assert steps([str(tmp_path)]) == [(500, "checkpoint-500"), (1000, "checkpoint-1000")]


def test_shards_are_one_checkpoint(tmp_path):
    shards = [f"ckpt-5/model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    touch(tmp_path, *shards, "ckpt-5/model.safetensors.index.json", "ckpt-6/model.safetensors")
    assert [stage.path for stage in in_order([str(tmp_path)])] == [
        str(tmp_path / "ckpt-5" / "model.safetensors.index.json"), str(tmp_path / "ckpt-6" / "model.safetensors"),
    ]  # fmt: skip


def test_what_is_no_checkpoint(tmp_path):
    (path,) = touch(tmp_path, "a.pt")
    with pytest.raises(InputError, match="no such checkpoint"):
        in_order([str(tmp_path / "b.pt")])
    with pytest.raises(InputError, match="is given twice"):
        in_order([path, path])
    Path(path).unlink()
    with pytest.raises(InputError, match="has no checkpoint: no file name ends with"):
        in_order([str(tmp_path)])
