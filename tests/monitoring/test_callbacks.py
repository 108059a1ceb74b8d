"""The callbacks, driven as their trainers drive them."""

import types

import pytest
import torch
from torch import nn

from embedscope import Monitor
from embedscope.errors import MissingExtraError


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.fixture
def probe():
    return torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2


def test_transformers(net, probe):
    pytest.importorskip("transformers")
    from transformers import TrainerCallback, TrainerControl, TrainerState

    from embedscope.monitoring.transformers import MonitorCallback

    callback = MonitorCallback(probe, every=10, stop_on="silhouette<=1")
    assert isinstance(callback, TrainerCallback)
    state, control = TrainerState(), TrainerControl()
    state.global_step = 7
    callback.on_train_begin(None, state, control, model=net)
    assert not control.should_training_stop
    callback.on_log(None, state, control, logs={"loss": 0.25})
    for step in (8, 9, 10):
        state.global_step = step
        callback.on_step_end(None, state, control, model=net, optimizer=None)
    assert control.should_training_stop
    (entry,) = state.log_history
    assert entry == {**Monitor(probe)(net, 0), "step": 10}
    assert callback.monitor.points[0].loss == 0.25


class Trainer:
    def __init__(self):
        self.global_step, self.should_stop, self.is_global_zero = 0, False, True
        self.kept = []
        self.loggers = [types.SimpleNamespace(log_metrics=lambda values, step: self.kept.append((values, step)))]


@pytest.mark.parametrize("library", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning(net, probe, library):
    pytest.importorskip(library, reason="lightning is not installed, and its trainer takes its own callbacks only")
    from embedscope.monitoring.lightning import MonitorCallback

    callback, trainer = MonitorCallback(probe, every=2, stop_on="silhouette<=1"), Trainer()
    callback.on_train_start(trainer, net)
    assert trainer.should_stop
    for step in (1, 1, 2):
        trainer.global_step = step
        callback.on_train_batch_end(trainer, net, {"loss": torch.tensor(0.5)}, None, step)
    assert [step for _, step in trainer.kept] == [0, 2]
    assert trainer.kept[0][0] == Monitor(probe)(net, 0)
    assert callback.monitor.points[1].loss == 0.5


def test_a_monitor_is_taken_as_it_is(net, probe):
    pytest.importorskip("transformers")
    from embedscope.monitoring.transformers import MonitorCallback

    monitor = Monitor(probe)
    assert MonitorCallback(monitor).monitor is monitor


def test_lightning_that_is_not_there(monkeypatch):
    import sys

    from embedscope.monitoring import lightning

    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    lightning._callback.cache_clear()
    with pytest.raises(MissingExtraError, match="pip install lightning"):
        lightning.MonitorCallback  # noqa: B018
