"""What users hold: every public name has an example, records print in a few lines, compare and hash."""

from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch
from torch import nn

import embedscope
from embedscope import TrainingConfig, extract, finetune, list_layers, open_features, score
from embedscope.data.dataset import Dataset
from embedscope.metrics.silhouette import silhouette
from embedscope.models.encoder import Encoder
from embedscope.models.preparation import Pixels
from embedscope.store import describe


@pytest.mark.parametrize("name", [name for name in embedscope.__all__ if name != "__version__"])
def test_every_public_name_has_an_example(name):
    assert ">>> " in getattr(embedscope, name).__doc__


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """One record of every kind that a user gets, some with what they hold."""
    generator = np.random.default_rng(0)
    rows, labels = generator.normal(size=(24, 3)).astype(np.float32), np.arange(24) % 2
    folder = tmp_path_factory.mktemp("records")
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    loader = [(torch.as_tensor(rows), labels)]
    written = extract(model, loader, folder / "a.h5")
    data = Dataset(torch.as_tensor(rows), labels, ("a", "b"), [str(row) for row in range(24)], None, "here", "")
    encoder = Encoder(model, Pixels(), "net")
    scores = score({"one": (rows, labels), "two": (rows[::-1].copy(), labels)}, ci=True)
    run = finetune(rows, labels, objectives=["ce", "ce + gini"], trials=2, epochs=1, device="cpu")
    (features,) = open_features(folder / "a.h5")
    return {
        "features": features,
        "in memory": extract(model, loader)[0],
        "extraction": written,
        "store": describe(folder / "a.h5"),
        "provenance": features.provenance,
        "dataset": data,
        "encoder": encoder,
        "layer": list_layers(encoder, data)[0],
        "scores": scores[0],
        "table": scores,
        "measurement": scores[0].metrics["silhouette"],
        "samples": scores[0].table,
        "difference": scores.differences[0],
        "result": silhouette(torch.as_tensor(rows), torch.as_tensor(labels)),
        "run": run,
        "objective": run.objectives[0],
        "trial": run.objectives[0].trials[0],
        "comparison": run.comparison,
        "row": run.comparison[0],
        "config": TrainingConfig(),
    }


NAMES = [
    *("features", "in memory", "extraction", "store", "provenance", "dataset", "encoder", "layer", "scores", "table"),
    *("measurement", "samples", "difference", "result", "run", "objective", "trial", "comparison", "row", "config"),
]


@pytest.mark.parametrize("name", NAMES)
def test_records_compare_and_hash(held, name):
    record = held[name]
    assert record == record
    assert record != name
    assert hash(record) == hash(record)
    if is_dataclass(record):
        assert all(hasattr(record, each.name) for each in fields(record))


@pytest.mark.parametrize(
    "name", ["features", "in memory", "dataset", "encoder", "scores", "table", "measurement", "samples", "result", "run"]
)
def test_records_print_in_a_few_lines(held, name):
    text = repr(held[name])
    assert len(text.splitlines()) <= 16  # a table with what stands out
    assert max(map(len, text.splitlines())) <= 140
    assert "array(" not in text
    assert "tensor(" not in text


def test_strings_are_one_item(held, tmp_path):
    store = str(held["features"].source)
    assert [each.layer for each in open_features(store, layers="1.input")] == ["1.input"]
    assert len(score(store, metrics="gini", layers="1.input")[0].metrics) == 1
    assert TrainingConfig(objectives="ce", metrics="gini").metrics == ("gini",)
