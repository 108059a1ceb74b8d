"""The Python of README and the documentation: linted, type-checked and run; its plugins are used as another package's are."""

import json
import os
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from embedscope import plugins
from embedscope.errors import InputError
from tests.conftest import ROOT

PAGES = ("README.md", "docs/guide/python.md", "docs/how-to/plugin.md")
PARTS = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES).split("```python\n")
BLOCKS = [after.partition("```")[0] for after in PARTS[1:]]
# The paragraph before a plugin says which file it is: "A metric, `embedscope/metrics/spread.py`:".
NAMED = [re.search(r"`embedscope/(\w+/\w+\.py)`", before.rstrip().rpartition("\n\n")[2]) for before in PARTS[:-1]]
FILES = {name[1]: block for name, block in zip(NAMED, BLOCKS, strict=True) if name}
SNIPPETS = [block for name, block in zip(NAMED, BLOCKS, strict=True) if not name]
KINDS = ("metrics", "losses", "models", "data", "plotting")


def test_there_is_an_example_of_every_kind_of_plugin():
    assert sorted(name.split("/")[0] for name in FILES) == sorted(KINDS)
    assert SNIPPETS


def ruff(*arguments, text):
    command = Path(sys.executable).with_name("ruff")
    return subprocess.run([command, *arguments, "-"], input=text, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.skipif(not Path(sys.executable).with_name("ruff").exists(), reason="ruff is not installed")
@pytest.mark.parametrize("name", [*FILES, *range(len(SNIPPETS))])
def test_examples_are_linted(name):
    """As the package is, but for annotations, which examples leave out; a snippet uses names that it does not define."""
    text = SNIPPETS[name] if isinstance(name, int) else FILES[name]
    path = "tests/snippet.py" if isinstance(name, int) else f"embedscope/{name}"
    found = ruff("check", "--extend-ignore=ANN,D102,F821,B018", "--output-format=concise", "--stdin-filename", path, text=text)
    assert found.returncode == 0, found.stdout
    assert ruff("format", "--stdin-filename", path, text=text).stdout == text


def test_plugins_type_check(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "readme").mkdir()  # a package of this name may leave annotations out, says pyproject.toml
    (tmp_path / "readme" / "__init__.py").touch()
    for name, text in FILES.items():
        (tmp_path / "readme" / Path(name).name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--cache-dir", ROOT / ".mypy_cache", tmp_path / "readme"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout


def test_snippets_run():
    pytest.importorskip("pandas")
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 10
    late, early = (torch.randn(40, 64, generator=generator) + scale * torch.eye(64)[labels] for scale in (5, 1))
    logits = torch.randn(40, 10, generator=generator)
    model = torch.nn.Sequential(OrderedDict(body=torch.nn.Linear(64, 16), fc=torch.nn.Linear(16, 10)))
    namespace = {
        "features": late,
        "labels": labels,
        "logits": logits,
        "late": late,
        "early": early,
        "model": model,
        "loader": [(late[:20], labels[:20]), (late[20:], labels[20:])],
    }
    for text in SNIPPETS:
        exec(compile(text, "snippet", "exec"), namespace)


# ---- a package of somebody else


@pytest.fixture
def installed(tmp_path):
    """Install the plugins as pip would: modules, and beside them a folder of metadata with the entry points."""
    site = tmp_path / "site"
    package = site / "my_package"
    metadata = site / "my_package-1.0.dist-info"
    package.mkdir(parents=True)
    metadata.mkdir()
    (package / "__init__.py").write_text("")
    lines = []
    for name, text in FILES.items():
        kind, module = name.removesuffix(".py").split("/")
        (package / f"{module}.py").write_text(text, encoding="utf-8")
        lines += [f"[embedscope.{kind}]", f"{module} = my_package.{module}:{module}"]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    return site


# Runs commands one after the other, and prints the exit code and both outputs of each.
COMMANDS = """
import contextlib, io, json, sys
from embedscope.cli import main
found = []
for command in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(command)
        except SystemExit as stopped:
            code = stopped.code
    found.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(found))
"""


def commands(site, folder, *typed):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:my_package", "-c", COMMANDS, json.dumps(typed)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_plugins_of_another_package_are_measured_trained_and_drawn(installed, tmp_path):
    pytest.importorskip("plotly")
    objective = "ce + 0.1*compact(power=1)"
    extracted, scored, missed, tuned, drawn, paged = commands(
        installed,
        tmp_path,
        ["extract", "perceptron:2(hidden=8)", "rings:60(noise=0.2)", "--layer", "0", "-o", "a.h5"],
        ["score", "a.h5", "-m", "spread(power=1)", "-m", "silhouette", "--ci", "--json", "-q"],
        ["score", "a.h5", "-m", "spread", "--fail-under", "spread=0.001", "-q"],
        ["finetune", "a.h5", "--objective", objective, "--select-by", "spread", "--epochs", "2", "-o", "run", "-q"],
        ["plot", "a.h5", "--kind", "norms(bins=5)", "-o", "norms.svg", "-q"],
        ["plot", "run", "-o", "run.html", "-q"],
    )  # fmt: skip
    assert extracted[0] == 0, extracted
    assert "60 rows of 0 (8)" in extracted[2]
    assert scored[0] == 0, scored
    spread = json.loads(scored[1])["results"][0]["metrics"]["spread"]
    assert spread["options"] == {"power": 1}
    assert spread["better"] == "lower"
    low, high = spread["ci95"]
    assert low < spread["value"] < high
    assert missed[0] == 3
    assert re.search(r"spread is \d\.\d{4}, above 0.001", missed[2])
    assert tuned[0] == 0, tuned
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["objectives"][0]["expression"] == objective
    log = (tmp_path / "run" / run["objectives"][0]["trials"][0]["directory"] / "log.csv").read_text().splitlines()
    assert {"compact", "val_spread"} <= set(log[0].split(","))
    assert drawn[0] == 0, drawn
    assert "Norms of the features" in (tmp_path / "norms.svg").read_text()
    assert paged[0] == 0, paged
    assert "spread" in (tmp_path / "run.html").read_text()


def test_lists_and_suggestions_know_plugins_of_another_package(installed, tmp_path):
    metrics, losses, kinds, typo = commands(
        installed,
        tmp_path,
        ["score", "--list"],
        ["finetune", "--list"],
        ["plot", "--list"],
        ["score", "a.h5", "-m", "spred"],
    )
    assert re.search(r"^spread +Mean distance to the class mean, to a power", metrics[1], re.MULTILINE)
    assert re.search(r"^compact +Mean distance to the mean of the class in the batch", losses[1], re.MULTILINE)
    assert re.search(r"^norms +Norms of the rows\.", kinds[1], re.MULTILINE)
    assert typo[0] == 2
    assert "did you mean 'spread'" in typo[2]


def test_a_plugin_that_cannot_be_imported_names_its_package(installed, monkeypatch):
    (installed / "my_package" / "spread.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(installed)
    with pytest.raises(InputError, match=r"metric spread of the package my-package cannot be imported \(ModuleNotFoundError"):
        plugins.load("metrics", "spread")
