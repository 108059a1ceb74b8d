"""The notebooks of examples/ run from top to bottom, and hold the outputs of such a run, kept small."""

import importlib.util
import json
import warnings

import pytest

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
INSTALLED = all(importlib.util.find_spec(name) for name in ("ipykernel", "nbclient", "nbformat", "pandas"))


def cells(path):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def printed(outputs):
    """How many lines a cell printed."""
    return sum(len("".join(each["text"]).splitlines()) for each in outputs if each["output_type"] == "stream")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_are_there_and_small(path):
    assert [cell["execution_count"] for cell in cells(path)] == list(range(1, len(cells(path)) + 1))
    assert not any(output["output_type"] == "error" for cell in cells(path) for output in cell["outputs"])
    assert path.stat().st_size < 100_000


@pytest.mark.skipif(not INSTALLED, reason="ipykernel, nbclient or pandas is not installed: extras docs and tables")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_runs(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Jupyter's own
        from examples.run import execute

        done = [cell for cell in execute(path).cells if cell.cell_type == "code"]
    assert [printed(cell["outputs"]) for cell in done] == [printed(cell["outputs"]) for cell in cells(path)]
