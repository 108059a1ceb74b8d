"""`embedscope demo`: the sample data reach who installed a wheel, each command is shown and run, and nothing is overwritten."""

import importlib
import sys
import zipfile

import pytest

from embedscope.cli import main
from embedscope.data import shipped
from embedscope.store import describe
from tests.conftest import ROOT

MODULE = importlib.import_module("embedscope.cli.demo")  # embedscope.cli.demo is the command


@pytest.fixture
def steps(monkeypatch):
    """The commands that the demo would run, each with sys.argv at that moment."""
    ran = []

    def record(args, **_):
        ran.append((list(args), list(sys.argv)))

    monkeypatch.setattr(MODULE, "call", record)
    return ran


def test_each_command_is_shown_as_it_runs(steps, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = list(sys.argv)
    assert main(["demo", "here"]) == 0
    err = capsys.readouterr().err
    assert [command[0] for command, _ in steps] == ["extract", "extract", "score", "finetune", "plot"]
    assert all(typed == ["embedscope", *command] for command, typed in steps)
    assert sys.argv == given
    assert "$ embedscope extract here/sample_data/network.py:DigitNet here/sample_data/digits --checkpoint" in err
    assert "--objective 'ce + silhouette'" in err
    assert err.splitlines()[-1] == "Done. Open here/report.html; the features and the run are in here."
    assert sorted(path.name for path in (tmp_path / "here/sample_data").iterdir()) == sorted(
        path.name for path in (ROOT / "sample_data").iterdir() if path.name != "__pycache__"
    )


def test_a_folder_with_something_in_it_stays(steps, tmp_path, capsys):
    (tmp_path / "mine.txt").touch()
    assert main(["demo", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"embedscope: {tmp_path} is not empty; name another folder, or pass --overwrite\n"
    assert steps == []
    assert main(["demo", str(tmp_path), "--overwrite"]) == 0
    assert all(command[-1] == "--overwrite" for command, _ in steps if command[0] != "score")
    assert not any("--overwrite" in command for command, _ in steps if command[0] == "score")


def test_a_step_that_fails_ends_the_demo(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(MODULE, "call", lambda args, **_: 3)
    assert main(["demo", str(tmp_path / "here")]) == 3
    assert "Step 2" not in capsys.readouterr().err


def test_without_plotly_there_is_a_picture(steps, tmp_path, capsys, monkeypatch):
    record = MODULE.call

    def lacking(args, **_):
        record(args)
        if args[-1].endswith(".html"):
            raise MODULE.MissingExtraError("plotly is not installed; pip install 'embedscope[report]'")

    monkeypatch.setattr(MODULE, "call", lacking)
    assert main(["demo", str(tmp_path / "here")]) == 0
    err = capsys.readouterr().err
    assert "pip install 'embedscope[report]'" in err
    assert steps[-1][0][-1].endswith("report.png")
    assert "report.png" in err.splitlines()[-1]


def test_the_first_step_writes_features(monkeypatch, tmp_path):
    """The shown command is what really runs, and what the store records."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MODULE, "_steps", lambda folder: [("Extract", MODULE._extract(folder, "late"))])
    monkeypatch.setattr(MODULE, "_draw", lambda title, folder, again: folder)
    assert main(["demo", "here"]) == 0
    found = describe(tmp_path / "here/late.h5")
    assert found.rows == 1797
    assert found.provenance.run.command.startswith("embedscope extract here/sample_data/network.py:DigitNet")


def test_a_wheel_brings_the_sample_data(tmp_path, monkeypatch):
    """The build hook packs what a checkout has, the same bytes every time, and the package unpacks it."""
    pytest.importorskip("hatchling")
    monkeypatch.syspath_prepend(ROOT)
    hook = importlib.import_module("hatch_build").SampleData
    archives = []
    for name in ("one", "two"):
        made = object.__new__(hook)
        monkeypatch.setattr(hook, "root", str(ROOT), raising=False)
        monkeypatch.setattr(hook, "directory", str(tmp_path / name), raising=False)
        data = {"force_include": {}}
        made.initialize("standard", data)
        ((path, inside),) = data["force_include"].items()
        assert inside == "embedscope/sample_data.zip"
        archives.append((tmp_path / name / "sample_data.zip").read_bytes())
        assert path == str(tmp_path / name / "sample_data.zip")
    assert archives[0] == archives[1]
    editable = {"force_include": {}}
    made.initialize("editable", editable)
    assert editable == {"force_include": {}}
    package = tmp_path / "site" / "embedscope"
    package.mkdir(parents=True)
    (package / "sample_data.zip").write_bytes(archives[0])
    monkeypatch.setattr(shipped, "_PACKAGE", package)
    shipped.write_sample_data(tmp_path / "unpacked")
    assert (tmp_path / "unpacked/late.safetensors").read_bytes() == (ROOT / "sample_data/late.safetensors").read_bytes()
    with zipfile.ZipFile(package / "sample_data.zip") as packed:
        assert len(list((tmp_path / "unpacked/digits").rglob("*.png"))) == 1797 <= len(packed.namelist())


def test_an_installation_without_them_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path / "nowhere")
    with pytest.raises(shipped.InputError, match="lacks the sample data"):
        shipped.write_sample_data(tmp_path / "out")


def test_a_folder_that_cannot_be_made_is_one_line(steps, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["demo", str(tmp_path / "file")]) == 1
    expected = f"embedscope: cannot write the sample data to {tmp_path}/file/sample_data: Not a directory\n"
    assert capsys.readouterr().err == expected
    assert steps == []


def test_an_interrupted_unpacking_is_done_again(tmp_path):
    (tmp_path / "data.partial").mkdir()
    (tmp_path / "data.partial" / "left over").touch()
    shipped.write_sample_data(tmp_path / "data")
    assert (tmp_path / "data/network.py").exists()
    assert not (tmp_path / "data/left over").exists()
    assert not (tmp_path / "data.partial").exists()
