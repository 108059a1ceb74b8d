"""The self-check of the GPU kernel: what is used where it fails, differs, or is right."""

import sys
import types
import warnings

import pytest
import torch

from embedscope.ops import fused
from embedscope.ops.all_pairs import all_pairs_once

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(fused, "_CHECKED", {})


def kernel(monkeypatch, change):
    """Put something in the place of the kernel that gives what plain torch gives, changed."""

    def computed(features, classes, frame, *, unit, form, tiling):
        own, found = all_pairs_once(features, classes, frame, unit=unit, form=form)
        change(own, found)
        return own, found, torch.zeros(len(own), dtype=torch.bool)

    module = types.ModuleType("kernel")
    module.fused_class_distances = computed
    monkeypatch.setitem(sys.modules, "embedscope.ops._class_distances_triton", module)


def test_a_right_kernel_is_used_and_checked_once(monkeypatch):
    calls = []
    kernel(monkeypatch, lambda own, found: calls.append(found.form.form))
    assert fused.checked(CPU)
    assert fused.checked(CPU)
    assert calls == ["hard", "weighted"]


def wrong_sums(own, found):
    own[7] += 1


def wrong_classes(own, found):
    found.nearest[3] += 1


def not_numbers(own, found):
    found.lowest[0] = torch.nan


def failing(own, found):
    raise RuntimeError("no such instruction\nand a long trace")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (wrong_sums, r"its distances differ by 3\.3e-03"),
        (wrong_classes, "it finds other nearest classes"),
        (not_numbers, "its distances differ by nan"),
        (failing, "it fails with RuntimeError: no such instruction$"),
    ],
)
def test_a_wrong_kernel_is_not_used_and_said_once(change, reason, monkeypatch):
    kernel(monkeypatch, change)
    with pytest.warns(RuntimeWarning, match=f"using plain torch instead of the fused kernel on cpu: {reason}"):
        assert not fused.checked(CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not fused.checked(CPU)


@pytest.mark.parametrize(
    ("device", "dtype", "installed", "right", "used"),
    [
        ("cuda", torch.float32, True, True, True),
        ("cuda", torch.float16, True, True, True),
        ("cuda", torch.float32, True, False, False),
        ("cuda", torch.float64, True, True, False),
        ("cuda", torch.float32, False, True, False),
        ("cpu", torch.float32, True, True, False),
    ],
)
def test_where_the_kernel_is_used(device, dtype, installed, right, used, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object() if installed else None)
    monkeypatch.setattr(fused, "_CHECKED", {"cuda": right})
    assert fused.fusible(types.SimpleNamespace(device=torch.device(device), dtype=dtype)) == used
