"""Arguments of the types that numbers have in NumPy, torch and pandas mean what their plain values mean, in every verb."""

import json
import os
from enum import StrEnum

import numpy as np
import pandas as pd
import pytest
import torch

import embedscope
from embedscope.arguments import check_flag, check_names, check_whole, displayed
from embedscope.data.dataset import Dataset
from embedscope.evaluation import find_issues, score
from embedscope.extraction import extract
from embedscope.metrics.linear_probe import linear_probe
from embedscope.models import open_model
from embedscope.monitoring.checkpoints import score_checkpoints
from embedscope.ops import blocks
from embedscope.plotting import plot
from embedscope.store import open_features, read_features

GENERATOR = np.random.default_rng(0)
LABELS = np.arange(60) % 2
FEATURES = GENERATOR.normal(size=(60, 3)) + LABELS[:, None]
NET = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))


class Name(StrEnum):
    gini = "gini"


class Place:
    """A path of another library."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


WHOLE = [np.int64, np.uint8, torch.tensor]
FLAGS = [np.bool_, torch.tensor]


@pytest.mark.parametrize("whole", WHOLE)
def test_score(whole):
    plain = {"metrics": ["silhouette", "linear_probe"], "ci": True, "sample": 50, "seed": 3}
    expected = score(FEATURES, LABELS, **plain).as_json()
    found = score(FEATURES, LABELS, **{**plain, "sample": whole(50), "seed": whole(3)}).as_json()
    assert found["results"][0]["metrics"] == expected["results"][0]["metrics"]


@pytest.mark.parametrize("whole", WHOLE)
def test_options_of_a_metric(whole):
    features, labels = torch.tensor(FEATURES), torch.tensor(LABELS)
    found = linear_probe(features, labels, folds=whole(3), seed=whole(3))
    assert torch.equal(found.per_sample, linear_probe(features, labels, folds=3, seed=3).per_sample)


@pytest.mark.parametrize("names", [{"gini"}, ("gini",), iter(["gini"]), pd.Index(["gini"]), np.array(["gini"]), Name.gini])
def test_names_of_any_sequence(names):
    (found,) = score(FEATURES, LABELS, metrics=names, layers=None, device=torch.device("cpu"))
    assert list(found.metrics) == ["gini"]


@pytest.mark.parametrize("memory", [2**30, float(2**30), np.int64(2**30), "1GB"])
def test_memory(memory, monkeypatch):
    limits, allowance = [], blocks.allowance
    for module in ("evaluating", "samples"):
        monkeypatch.setattr(
            f"embedscope.evaluation.{module}.allowance",
            lambda device, limit=None: limits.append(limit) or allowance(device, limit),
        )
    score(FEATURES, LABELS, metrics="gini", memory=memory)
    find_issues(FEATURES, LABELS, memory=memory)
    assert set(limits) == {2**30}


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("flag", FLAGS)
def test_finetune(whole, flag, tmp_path):
    options = {"metrics": "gini", "epochs": whole(1), "trials": whole(1), "seed": whole(2), "batch_size": whole(16)}
    rates = {"learning_rate": np.float32(0.01), "test_share": np.float64(0.3), "ema": np.float64(0.9)}
    embedscope.finetune(FEATURES, LABELS, tmp_path / "run", amp=flag(False), overwrite=flag(True), **options, **rates)
    written = json.loads((tmp_path / "run" / "run.json").read_text())["options"]
    assert [written[name] for name in ("epochs", "seed", "amp", "ema")] == [1, 2, False, 0.9]


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("flag", FLAGS)
def test_extract(whole, flag, tmp_path):
    data = Dataset([torch.ones(3)] * 6, np.arange(6) % 2, ("a", "b"), [str(each) for each in range(6)], None, "here", "")
    encoder = open_model("torch.nn:Linear(3, 2)", seed=whole(1))
    extract(
        encoder,
        data,
        Place(tmp_path / "a.h5"),
        layers="output",
        batch_size=whole(2),
        limit=whole(4),
        workers=whole(0),
        seed=whole(1),
        overwrite=flag(False),
    )
    assert read_features(str(tmp_path / "a.h5")).features.shape == (4, 2)
    assert score(Place(tmp_path / "a.h5"), metrics="gini")[0].samples == 4
    assert open_features(Place(tmp_path / "a.h5"))[0].features.shape == (4, 2)


class Indexed:
    """A loader that `for` reads by position."""

    def __getitem__(self, place):
        if place >= 3:
            raise IndexError
        return torch.ones(2, 3), [0, 1]

    def __len__(self):
        return 3


def test_a_loader_without_iter():
    (found,) = extract(NET, Indexed(), layers=None)
    assert found.features.shape == (6, 4)


@pytest.mark.parametrize("whole", WHOLE)
def test_monitor(whole):
    probe = (torch.tensor(FEATURES, dtype=torch.float32), LABELS)
    monitor = embedscope.Monitor(
        probe, metrics="gini", batch_size=whole(8), seed=whole(3), workers=whole(0), amp=np.bool_(False)
    )
    assert monitor(NET, 0).keys() == {"1.input/gini"}


@pytest.mark.parametrize("whole", WHOLE)
def test_checkpoints(whole, tmp_path):
    torch.save(NET.state_dict(), tmp_path / "a.pt")
    (tmp_path / "net.py").write_text(
        "import torch\ndef net():\n    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))\n"
    )
    np.savez(tmp_path / "d.npz", X=FEATURES.astype(np.float32), y=LABELS)
    given = ([str(tmp_path / "a.pt")], f"{tmp_path / 'net.py'}:net", str(tmp_path / "d.npz"))
    plain = {"sample": 20, "seed": 2, "limit": 40}
    (expected,) = score_checkpoints(*given, metrics="silhouette", **plain)
    others = {name: whole(value) for name, value in plain.items()}
    (found,) = score_checkpoints(*given, tmp_path / "run.jsonl", metrics="silhouette", **others, full=np.bool_(True))
    assert (found.samples, found.metrics["silhouette"].value) == (40, expected.metrics["silhouette"].value)


def test_plot(tmp_path):
    features = np.concatenate([FEATURES, FEATURES])
    options = {"kind": "pca", "max_points": np.int64(40), "seed": np.int64(1), "overwrite": np.bool_(True)}
    (path,) = plot(features, tmp_path / "a.png", labels=np.tile(LABELS, 2), **options)
    assert os.path.getsize(path) > 1000


def test_range_of_images():
    for given in ("0,4095", (0, 4095), np.array([0, 4095]), [np.int64(0), np.float32(4095)]):
        prepare = open_model("torch.nn:Conv2d(1, 2, 3)", value_range=given, size=np.array([8, 8])).prepare
        assert (prepare.value_range, prepare.size) == ((0.0, 4095.0), (8, 8))
    for wrong in ((0, 0), (255, 0), (1,), "0"):
        with pytest.raises(embedscope.errors.UsageError, match="range"):
            open_model("torch.nn:Conv2d(1, 2, 3)", value_range=wrong)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.int64(3), "3"),
        (np.bool_(True), "True"),
        (torch.tensor(2.5), "2.5"),
        (np.array("x"), "'x'"),
        (np.zeros((2, 3)), "ndarray of shape (2, 3)"),
        ("a" * 100, f"'{'a' * 59}..."),
        (NET, "an object of type Sequential"),
    ],
)
def test_how_a_value_is_displayed(value, text):
    assert displayed(value) == text


def test_what_is_refused_whatever_its_library():
    for check, value in (
        (lambda what, got: check_whole(what, got, low=1), np.float64(2)),
        (lambda what, got: check_whole(what, got, low=1), np.bool_(True)),
        (check_flag, np.int64(1)),
        (check_names, np.array("gini")),
        (check_names, torch.tensor(3)),
    ):
        with pytest.raises(embedscope.errors.UsageError, match=r"^x must be"):
            check("x", value)
