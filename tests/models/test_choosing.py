"""Several networks in one file: every choice that is offered has to work."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from embedscope.errors import InputError, UsageError
from embedscope.models._choosing import choose
from embedscope.models.checkpoint import load_checkpoint


def weights(seed):
    torch.manual_seed(seed)
    return nn.Linear(3, 2).state_dict()


def prefixed(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


FILES = {
    "one prefix under two keys": {"student": prefixed(weights(0), "backbone."), "teacher": prefixed(weights(1), "backbone.")},
    "two prefixes under one key": {"model": prefixed(weights(0), "student.net.") | prefixed(weights(1), "teacher.net.")},
    "two prefixes under two keys": {
        "a": prefixed(weights(0), "student.") | prefixed(weights(1), "teacher."),
        "b": prefixed(weights(2), "student.") | prefixed(weights(3), "teacher."),
    },
    "two averages": {"ema": weights(0), "model_ema": weights(1)},
    "flat": prefixed(weights(0), "student.module.") | prefixed(weights(1), "teacher.module."),
    "raw and another": {"raw": weights(0), "best": weights(1)},
    "one inside another": prefixed(weights(0), "model.") | prefixed(weights(1), "other.model."),
    "a list": [weights(0), weights(1)],
    "deep": {"outer": {"first": weights(0), "second": weights(1)}},
}


@pytest.mark.parametrize("kind", FILES)
def test_every_choice_works(tmp_path, kind):
    path = str(tmp_path / "w.pt")
    torch.save(FILES[kind], path)
    with pytest.raises(InputError, match="sets of weights that match equally well; choose one with `weights=`: ") as caught:
        load_checkpoint(nn.Linear(3, 2), path)
    count = int(re.search(r"holds (\d+) sets", str(caught.value))[1])
    offered = str(caught.value).partition("`weights=`: ")[2].split(", ")
    assert len(set(offered)) == len(offered) == count
    loaded = []
    for name in offered:
        net = nn.Linear(3, 2)
        load_checkpoint(net, path, weights=name)
        loaded.append(net.weight.detach().sum().item())
    assert len(set(loaded)) == count


NAMES = st.sampled_from(["student", "teacher", "ema", "model", "a", "module", "raw"])


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, st.lists(NAMES, min_size=1, max_size=2, unique=True), min_size=1, max_size=3))
def test_every_choice_of_any_file_works(layout):
    expected = {"weight": torch.zeros(2), "bias": torch.zeros(1)}
    found = {
        key: {name: tensor for front in fronts for name, tensor in prefixed(expected, f"{front}.").items()}
        for key, fronts in layout.items()
    }
    try:
        fit, _ = choose("w.pt", expected, found, None)
        assert fit is not None
    except InputError as error:
        for name in str(error).partition("`weights=`: ")[2].split(", "):
            fit, _ = choose("w.pt", expected, found, name)
            assert fit.size == 2


def test_choices_are_the_plainest_names(tmp_path):
    path = str(tmp_path / "w.pt")
    torch.save({"student": prefixed(weights(0), "module.backbone."), "teacher": prefixed(weights(1), "backbone.")}, path)
    with pytest.raises(InputError, match=r"choose one with `weights=`: student, teacher$"):
        load_checkpoint(nn.Linear(3, 2), path)


def test_names_in_the_hint_work(tmp_path):
    path = str(tmp_path / "w.pt")
    torch.save({"student": weights(0), "teacher": weights(1), "head": {"x": torch.ones(7)}}, path)
    with pytest.raises(
        UsageError, match=r"has no weights under the prefix 'techer'; did you mean 'teacher'\? It has: student, t"
    ):
        load_checkpoint(nn.Linear(3, 2), path, weights="techer")
    with pytest.raises(InputError, match="the weights under head match nothing in the model"):
        load_checkpoint(nn.Linear(3, 2), path, weights="head")


def test_tensor_that_fits_by_chance_is_not_the_raw_weights(tmp_path):
    path = str(tmp_path / "w.pt")
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    torch.save({"model_ema": net.state_dict(), "stats": {"1.bias": torch.ones(2)}}, path)
    assert "contains only EMA weights (model_ema)" in load_checkpoint(net, path).notes[0]
