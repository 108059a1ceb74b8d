"""A run that was interrupted goes on, and comes to what it would have come to."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from embedscope.errors import InputError, InterruptedRunError, OutputError
from embedscope.finetuning import finetune, trials
from embedscope.models.head import open_head
from embedscope.store import read_features, verify
from embedscope.store.runs import RunWriter
from tests.conftest import ROOT

OPTIONS = {"objectives": ["ce", "ce + [0.1,1]*silhouette"], "trials": 2, "epochs": 4, "batch_size": 16}


@pytest.fixture
def features(make_store, blobs):
    rows, labels = blobs
    return read_features(str(make_store(rows - 2.5 * np.eye(8, dtype=np.float32)[labels], labels)))


def results(folder):
    """What a run came to, without what differs from run to run."""
    document = json.loads((folder / "run.json").read_text())
    for objective in document["objectives"]:
        for trial in objective["trials"]:
            del trial["seconds"]
    logs = {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.glob("**/log.csv"))}
    return document["objectives"], logs


def interrupting(after_epochs):
    """A track that stops everything after so many epochs in all."""
    done = 0

    def track(items, description, total):
        nonlocal done
        for item in items:
            if done == after_epochs:
                raise KeyboardInterrupt
            yield item
            done += 1

    return track


@pytest.mark.parametrize("epochs", [2, 4, 9, 23])  # of 6 trainings of 4 epochs
def test_a_run_that_goes_on_comes_to_the_same(features, tmp_path, monkeypatch, epochs):
    monkeypatch.setattr(trials, "_SECONDS_BETWEEN_STATES", 0.0)
    finetune(features, tmp_path / "whole", **OPTIONS)
    with pytest.raises(InterruptedRunError, match="finished training is kept; resume with: the same call and resume=True"):
        finetune(features, tmp_path / "run", **OPTIONS, track=interrupting(epochs))
    assert not (tmp_path / "run").exists()
    trained = []

    def counting(items, description, total):
        for item in items:
            trained.append(item)
            yield item

    finetune(features, tmp_path / "run", **OPTIONS, resume=True, track=counting)
    assert len(trained) == 24 - epochs
    assert results(tmp_path / "run") == results(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "store.h5", "whole"]
    assert not (tmp_path / "run" / "progress").exists()


def test_what_is_in_the_way_is_said(features, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "_SECONDS_BETWEEN_STATES", 0.0)
    with pytest.raises(InterruptedRunError):
        finetune(features, tmp_path / "run", **OPTIONS, track=interrupting(9))
    with pytest.raises(
        OutputError, match=r"run.partial is an unfinished run: `resume=True` continues it, `overwrite=True` starts again"
    ):
        finetune(features, tmp_path / "run", **OPTIONS)
    with pytest.raises(OutputError, match=r"was started with a different epochs: 4, now 5; resume with the original settings"):
        finetune(features, tmp_path / "run", **{**OPTIONS, "epochs": 5}, resume=True)
    finetune(features, tmp_path / "run", **OPTIONS, overwrite=True)
    with pytest.raises(OutputError, match="run is complete already; nothing is left to resume"):
        finetune(features, tmp_path / "run", **OPTIONS, resume=True)


def test_a_strange_folder_in_the_way_is_left_alone(features, tmp_path):
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial" / "thesis.tex").write_text("")
    with pytest.raises(OutputError, match=r"run.partial exists but is not an unfinished run"):
        finetune(features, tmp_path / "run", overwrite=True)
    assert (tmp_path / "run.partial" / "thesis.tex").exists()


def test_resuming_nothing_begins(features, tmp_path):
    result = finetune(features, tmp_path / "run", objectives=["ce"], epochs=1, resume=True)
    assert result.objectives[0].trials[0].epochs == 1


def test_other_rows_are_not_gone_on_with(features, make_store, blobs, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "_SECONDS_BETWEEN_STATES", 0.0)
    with pytest.raises(InterruptedRunError):
        finetune(features, tmp_path / "run", **OPTIONS, track=interrupting(9))
    rows = features.features[:].numpy()
    (tmp_path / "store.h5").unlink()
    other = read_features(str(make_store(rows, np.roll(features.labels, 1))))
    with pytest.raises(OutputError, match="was started with a different rows"):
        finetune(other, tmp_path / "run", **OPTIONS, resume=True)


def test_a_training_that_breaks_keeps_the_last_good_head(features, tmp_path):
    with pytest.raises(InputError, match=r"; the head of epoch \d+ is kept: ") as found:
        finetune(features, tmp_path / "run", objectives=["ce + 1e39*silhouette@3"], epochs=5)
    path = str(found.value).partition("is kept: ")[2].partition(";")[0]
    assert path.endswith("run.partial/ce_1e39-silhouette@3/trial-0/head.safetensors")
    assert open_head(path).objective == "ce + 1e39*silhouette@3"
    assert Path(path).with_name("log.csv").exists()


def test_a_kill_leaves_what_a_run_goes_on_from(features, tmp_path):
    command = [sys.executable, "-m", "embedscope", "finetune", features.source, "-o", str(tmp_path / "run"), "--trials", "200"]
    command += ["--objective", "ce", "--epochs", "2", "--device", "cpu"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    noted = tmp_path / "run.partial" / "progress"
    for _ in range(600):
        if len(list(noted.glob("*.trained.json"))) > 2:
            break
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert len(list(noted.glob("*.trained.json"))) > 2
    done = len(list(noted.glob("*.trained.json")))
    process = subprocess.Popen([*command, "--resume"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if len(list(noted.glob("*.trained.json"))) > done:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; finished training is kept; resume with: embedscope finetune" in talk
    assert talk.strip().endswith("--resume")


def test_what_else_was_trained_can_be_gone_on_with(features, tmp_path):
    with pytest.raises(
        InputError, match="the other objectives are kept; to continue them, drop this objective and pass `resume=True`"
    ):
        finetune(features, tmp_path / "run", objectives=["ce", "1e39*ce + silhouette"], epochs=2)
    trained = []

    def counting(items, description, total):
        for item in items:
            trained.append(item)
            yield item

    result = finetune(features, tmp_path / "run", objectives=["ce"], epochs=2, trials=2, resume=True, track=counting)
    assert len(trained) == 2  # the second trial
    assert len(result.objectives[0].trials) == 2
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run.json", "before.h5", "ce"}


def test_another_process_is_waited_for(features, tmp_path):
    def meanwhile(items, description, total):
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputError, match=rf"run is being written by pid {os.getpid()} on "):
                finetune(features, tmp_path / "run", objectives=["ce"], epochs=1, **options)
        yield from items

    result = finetune(features, tmp_path / "run", objectives=["ce"], epochs=1, track=meanwhile)
    assert (tmp_path / "run" / result.objectives[0].trials[0].directory / "after.h5").exists()


def test_a_folder_beside_the_run_is_left_alone(features, tmp_path):
    finetune(features, tmp_path / "run", objectives=["ce"], epochs=1)
    (tmp_path / "run.earlier").mkdir()
    finetune(features, tmp_path / "run", objectives=["gini"], epochs=1, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.earlier", "store.h5"]


def test_what_a_killed_writer_left_is_removed(features, tmp_path):
    options = {**OPTIONS, "objectives": ["ce"]}
    with pytest.raises(InterruptedRunError):
        finetune(features, tmp_path / "run", **options, track=interrupting(5))
    (tmp_path / "run.partial" / "head.safetensors.12345678.partial").write_text("half")
    finetune(features, tmp_path / "run", **options, resume=True)
    assert not list((tmp_path / "run").glob("*.partial"))


@pytest.mark.parametrize("name", ["begun.json", "before.measured.json", "ce--trial-0.state.pt"])
def test_progress_that_is_damaged_is_said(features, tmp_path, monkeypatch, name):
    monkeypatch.setattr(trials, "_SECONDS_BETWEEN_STATES", 0.0)
    with pytest.raises(InterruptedRunError):
        finetune(features, tmp_path / "run", **OPTIONS, track=interrupting(2))
    path = tmp_path / "run.partial" / "progress" / name
    assert path.exists()
    path.write_text("[]")
    with pytest.raises(InputError, match=rf"{name} is damaged.*; start again with `overwrite=True`"):
        finetune(features, tmp_path / "run", **OPTIONS, resume=True)
    finetune(features, tmp_path / "run", **OPTIONS, overwrite=True)


def test_a_store_that_was_damaged_meanwhile_is_made_again(features, tmp_path, monkeypatch):
    finetune(features, tmp_path / "whole", objectives=["ce"], epochs=1)

    def killed(*arguments):
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(RunWriter, "finish", killed)
        with pytest.raises(SystemExit):
            finetune(features, tmp_path / "run", objectives=["ce"], epochs=1)
    (after,) = (tmp_path / "run.partial").rglob("after.h5")
    content = bytearray(after.read_bytes())
    with h5py.File(after) as file:
        content[file["features/embedding"].id.get_chunk_info(0).byte_offset] ^= 1
    after.write_bytes(content)
    result = finetune(features, tmp_path / "run", objectives=["ce"], epochs=1, resume=True)
    path = f"{result.objectives[0].trials[0].directory}/after.h5"
    assert verify(tmp_path / "run" / path) == 1
    made, expected = (read_features(str(tmp_path / folder / path)).features[:] for folder in ("run", "whole"))
    assert torch.equal(made, expected)


def test_a_run_that_cannot_be_begun_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="No space left on device"), RunWriter(tmp_path / "run", {}, overwrite=False):
        pass
    assert not list(tmp_path.iterdir())
