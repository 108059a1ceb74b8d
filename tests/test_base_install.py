"""What `pip install embedscope` gives, without extras: every command works, and what an extra is needed for names it."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib

import numpy as np
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

COMMANDS = """
import contextlib, io, json, sys
from importlib.machinery import PathFinder

absent, commands = map(json.loads, sys.argv[1:])


class Base(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Base
from embedscope.cli import main

found = []
for command in commands:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(command)
    found.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(found))
"""


def base():
    """Distributions that the dependencies of pyproject.toml bring, names in canonical form."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found, todo = set(), [(Requirement(text), "") for text in project["dependencies"]]
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # of another platform, or not installed here
            continue
        if name not in found:
            found.add(name)
            todo += [(Requirement(text), next(iter(requirement.extras), "")) for text in needed]
    return found


def absent():
    """Modules that other distributions bring."""
    kept = base()
    tops = importlib.metadata.packages_distributions()
    return sorted(top for top, names in tops.items() if not kept & {canonicalize_name(name) for name in names})


def test_the_base_is_told_from_the_extras():
    assert "pytest" in absent()
    assert not set(absent()) & {"torch", "numpy", "sklearn", "matplotlib", "umap", "typer", "rich", "PIL", "scipy", "h5py"}


def test_commands_need_no_extra(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))\n"
    )
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    np.savez(tmp_path / "d.npz", X=generator.normal(size=(60, 8)).astype(np.float32) + labels[:, None], y=labels)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    (tmp_path / "m.onnx").write_bytes(b"a model")
    expected = [
        (["--help"], 0, ""),
        (["env"], 0, ""),
        (["extract", "net.py:Net", "d.npz", "-o", "a.h5", "-q"], 0, ""),
        (["inspect", "a.h5"], 0, ""),
        (["score", "a.h5", "--ci", "-q", "--samples", "s.csv"], 0, ""),
        (["score", "d.npz", "-q", "--json"], 0, ""),
        (["finetune", "a.h5", "-o", "run", "--epochs", "1", "-q"], 0, ""),
        (["plot", "run", "-o", "run.png", "-q", "-k", "tsne", "-k", "silhouette", "-k", "comparison"], 0, ""),
        (["score", "--list"], 0, ""),
        (["finetune", "--list"], 0, ""),
        (["plot", "--list"], 0, ""),
        (["plot", "a.h5", "-o", "a.html"], 1, r"plotly is not installed; pip install 'embedscope\[report\]'"),
        (["score", "t.parquet"], 1, r"pyarrow is not installed; pip install 'embedscope\[tables\]'"),
        (["score", "a.h5", "--samples", "s.parquet"], 1, r"pyarrow, which is not installed; .*'embedscope\[tables\]'"),
        (["extract", "m.onnx", "d.npz", "-o", "b.h5"], 1, r"onnxruntime is not installed; pip install 'embedscope\[onnx\]'"),
        (["extract", "torchvision:resnet18", "d.npz", "-o", "b.h5"], 1, r"torchvision is not .*'embedscope\[vision\]'"),
        (["extract", "timm:resnet18", "d.npz", "-o", "b.h5"], 1, r"timm is not installed; pip install 'embedscope\[vision\]'"),
        (["extract", "hf:a/b", "d.npz", "-o", "b.h5"], 1, r"transformers is not installed; pip install 'embedscope\["),
        (
            ["extract", "st:a/b", "d.npz", "-o", "b.h5"],
            1,
            r"sentence_transformers is not installed; pip install 'embedscope\[text",
        ),
        (["extract", "net.py:Net", "hf:a/b", "-o", "b.h5"], 1, r"datasets is not installed; pip install 'embedscope\[hf"),
        (
            ["finetune", "a.h5", "-o", "r2", "--objective", "supcon"],
            1,
            r"pytorch_metric_learning is not .*'embedscope\[losses\]'",
        ),
        (["finetune", "a.h5", "-o", "r3", "--tensorboard", "--epochs", "1"], 1, r"tensorboard.*'embedscope\[tensorboard\]'"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(absent()), json.dumps([command for command, _, _ in expected])],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for (command, code, message), (found, _, error) in zip(expected, json.loads(done.stdout), strict=True):
        assert found == code, (command, error)
        assert re.search(message, error), (command, error)
        assert not message or error.count("\n") == 1, (command, error)
