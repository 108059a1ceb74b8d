import pytest
import torch

from embedscope import devices
from embedscope.errors import InputError, UsageError


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_auto_falls_back(no_cuda):
    assert devices.choose("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_named_device_does_not(no_cuda, name):
    with pytest.raises(InputError, match=f"device {name} is not available: torch sees 0 CUDA devices"):
        devices.choose(name)


def test_absent_mps(no_cuda):
    with pytest.raises(InputError, match="device mps is not available"):
        devices.choose("mps")


def test_mps_has_no_float64(no_cuda, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices.choose("auto") == torch.device("mps")
    assert devices.choose("auto", float64=True) == torch.device("cpu")
    with pytest.raises(InputError, match="device mps has no float64"):
        devices.choose("mps", float64=True)


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:x"])
def test_unknown_device(name):
    with pytest.raises(UsageError, match=f"no device '{name}'"):
        devices.choose(name)


def test_memory_where_the_system_does_not_tell(monkeypatch):
    def missing(path, **_):
        raise FileNotFoundError(path)

    monkeypatch.setattr(devices.Path, "read_text", missing)
    assert devices.free_memory(torch.device("cpu")) > 2**20
    monkeypatch.delattr(devices.os, "sysconf")
    assert devices.free_memory(torch.device("cpu")) == 2**32
