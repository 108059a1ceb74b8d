"""What several tests need: real digits, small stores, a network; and a clean environment."""

import ast
import importlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from embedscope.store import StoreWriter
from embedscope.store.provenance import LayerOrigin, Provenance, RunOrigin


def _name_operators_of_torchvision() -> None:
    """Let the Python part of torchvision import where its compiled part cannot be loaded, as beside a CPU-only torch.

    Where that can be loaded, it names them itself, and a second time would end the process.
    """
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return
    except RuntimeError:  # of an operator that does not exist
        for operator in ("nms", "qnms"):
            _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_library = torch.library.Library("torchvision", "FRAGMENT")  # what it defines lasts as long as it
_name_operators_of_torchvision()

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"


def literals(tree):
    """(node, text) of every string in a parsed module, with {} for what f-strings fill in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node, "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node, node.value


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("EMBEDSCOPE_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def digits():
    """(1797, 64) float64 whole numbers 0..16, (1797,) labels."""
    data = load_digits()
    return torch.from_numpy(data.data), torch.from_numpy(data.target)


@pytest.fixture
def make_store(tmp_path):
    """Write a store of given arrays and return its path."""

    def make(features, labels, *, name="store.h5", layer="embedding", class_names=None, ids=None, split=None, magnitudes=None):
        labels = np.asarray(labels)
        path = tmp_path / name
        with StoreWriter(
            path,
            labels=labels,
            class_names=class_names or [str(label) for label in range(int(labels.max(initial=0)) + 1)],
            ids=ids or [f"row{row}" for row in range(len(labels))],
            split=split,
            provenance=Provenance(
                layers={layer: LayerOrigin()}, run=RunOrigin(command="embedscope extract net.py:Net data -o store.h5")
            ),
        ) as store:
            array = np.asarray(features, dtype=np.float32)
            store.add({layer: array}, None if magnitudes is None else {layer: np.asarray(magnitudes, dtype=np.float32)})
        return path

    return make


@pytest.fixture
def blobs():
    """Three well separated classes in 8 dimensions: (90, 8) float32, (90,) int64."""
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    features = generator.normal(size=(90, 8)) + 4 * np.eye(8)[labels]
    return features.astype(np.float32), labels
