"""Loggers by name, each for real: what a Monitor logs is read back from what the logger wrote, without a network."""

import json
import sqlite3
import struct
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from embedscope import Monitor

# Of their dependencies, at import and at exit.
pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = (0, 5, 10)


@pytest.fixture
def monitored():
    """Return a function that trains with a logger, and calls another one before each step: step -> values that were due."""
    torch.manual_seed(0)
    inputs, labels = torch.randn(30, 4), torch.arange(30) % 3
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    optimizer = torch.optim.SGD(net.parameters(), 0.5)

    def train(log, before=lambda step: None):
        monitor = Monitor((inputs, labels), metrics=["silhouette", "knn_accuracy(k=5)", "knn_accuracy(k=3)"], every=5, log=log)
        found = {}
        for step in range(11):
            before(step)
            nn.functional.cross_entropy(net(inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            found[step] = monitor(net, step)
        with torch.no_grad():
            net[0].weight.fill_(float("nan"))  # nothing is left to log
        monitor.measure(net, 15)
        return {step: values for step, values in found.items() if values is not None}

    return train


def records(path):
    """Read what a run of wandb wrote offline: records in the format of LevelDB's log, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the only, or the last, part of a record
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def history(path):
    """Return the rows that a finished run logged; another process writes them, and may do so after `finish`."""
    end = time.monotonic() + 30
    while True:
        try:
            found = list(records(path))
        except Exception:  # half of a record
            found = []
        if any(each.WhichOneof("record_type") == "exit" for each in found):
            rows = [each.history.item for each in found if each.WhichOneof("record_type") == "history"]
            return [{item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]
        assert time.monotonic() < end, f"{path} did not get its last record"
        time.sleep(0.05)


@pytest.mark.parametrize("given", ["name", "run"])
def test_wandb_beside_values_of_its_own_steps(monitored, tmp_path, monkeypatch, given):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    with wandb.init(project="probe") as run:
        values = monitored("wandb" if given == "name" else run, lambda step: wandb.log({"loss": 1.0}))
    rows = history(Path(run.settings.sync_file))
    assert sum("loss" in row for row in rows) == 11
    logged = {
        row["monitor/step"]: {name: row[name] for name in row if "input/" in name} for row in rows if "monitor/step" in row
    }
    assert logged == values
    assert tuple(logged) == STEPS


def test_wandb_starts_a_run_where_there_is_none(monitored, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    values = monitored("wandb")
    path = Path(wandb.run.settings.sync_file)
    wandb.finish()
    assert [(row["_step"], row["2.input/silhouette"]) for row in history(path)] == [
        (step, values[step]["2.input/silhouette"]) for step in STEPS
    ]


@pytest.mark.parametrize("store", ["sqlite", "files"])
def test_mlflow(monitored, tmp_path, monkeypatch, store):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    if store == "sqlite":
        pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed, which mlflow's database needs")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}" if store == "sqlite" else (tmp_path / "mlruns").as_uri())
    mlflow.set_experiment("probe")
    with mlflow.start_run() as run:
        values = monitored("mlflow")
    client = mlflow.MlflowClient()
    names = client.get_run(run.info.run_id).data.metrics
    assert len(names) == 3  # both of knn_accuracy, though MLflow refuses brackets
    for name in ("2.input/silhouette", "2.input/knn_accuracy"):
        logged = {each.step: each.value for each in client.get_metric_history(run.info.run_id, name)}
        assert logged == {step: values[step][name] for step in STEPS}


def test_trackio(monitored, tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="trackio is not installed")
    import trackio
    import trackio.utils

    monkeypatch.chdir(tmp_path)
    trackio.init(project="probe", name="one")
    folder = trackio.utils.TRACKIO_DIR
    try:
        values = monitored("trackio")
    finally:
        trackio.finish()
    with sqlite3.connect(folder / "probe.db") as database:
        rows = [(step, json.loads(text)) for step, text in database.execute("select step, metrics from metrics order by id")]
    assert dict(rows[-3:]) == values


def test_tensorboard_by_name(monitored, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    values = monitored(f"tensorboard(folder={str(tmp_path)!r})")
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == set(values[0])
    for name in values[0]:  # in float32
        assert [(each.step, each.value) for each in events.Scalars(name)] == [
            (step, pytest.approx(values[step][name], rel=1e-6)) for step in STEPS
        ]
