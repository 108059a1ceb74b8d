import re
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from embedscope.data.dataset import Dataset
from embedscope.errors import InputError, UsageError
from embedscope.extraction import list_layers
from embedscope.models.encoder import Encoder
from embedscope.models.layers import _matches, find, first_tensor
from embedscope.models.preparation import Pixels


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.mlp = nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    def forward(self, x):
        return self.mlp(self.fc(x))


@pytest.fixture
def encoder():
    return Encoder(nn.ModuleDict({"layer1": Block(), "layer2": Block(), "head": nn.Linear(2, 3)}), Pixels(), "net")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("layer*", ["layer1", "layer2"]),
        ("layer*.1", None),
        ("layer?.mlp.1", ["layer1.mlp.1", "layer2.mlp.1"]),
        ("layer1.**", ["layer1.fc", "layer1.mlp", "layer1.mlp.0", "layer1.mlp.1"]),
        ("*.fc.input", ["layer1.fc.input", "layer2.fc.input"]),
        ("*.mlp:mean", ["layer1.mlp:mean", "layer2.mlp:mean"]),
    ],
)
def test_patterns(encoder, pattern, names):
    if names is None:
        with pytest.raises(UsageError, match=r"no layer that matches 'layer\*\.1'"):
            find(encoder, [pattern])
    else:
        assert [layer.name for layer in find(encoder, [pattern])] == names


def test_names_of_each_kind(encoder):
    found = find(encoder, ["head", "head.input", "input", "output", "output.logits", "head:flatten"])
    assert [(layer.name, layer.module, layer.side, layer.key, layer.pooling) for layer in found] == [
        ("head", "head", "output", None, "auto"),
        ("head.input", "head", "input", None, "auto"),
        ("input", "", "input", None, "auto"),
        ("output", "", "output", None, "auto"),
        ("output.logits", "", "output", "logits", "auto"),
        ("head:flatten", "head", "output", None, "flatten"),
    ]


def test_pooling_with_a_typo(encoder):
    with pytest.raises(UsageError, match="layer head: no pooling 'men'; did you mean 'mean'"):
        find(encoder, ["head:men"])


@pytest.mark.parametrize("name", ["head", "layer*", "nothing"])
def test_model_with_outputs_alone(name):
    encoder = Encoder(nn.ModuleDict({"head": nn.Linear(2, 3)}), Pixels(), "x", outputs_only="it takes no hooks")
    with pytest.raises(UsageError, match=r"cannot be reached: it takes no hooks|no layer that matches"):
        find(encoder, [name])


def test_first_tensor():
    one, two = torch.ones(1), torch.zeros(1)
    assert first_tensor((None, [two, one])) is two
    assert first_tensor({"a": "text", "b": {"c": one}}) is one
    assert first_tensor({"a": one, "b": two}, "b") is two
    assert first_tensor({"a": one}, "c") is None
    assert first_tensor(one, "a") is None
    assert first_tensor("text") is None


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.idle = nn.Linear(1, 1)

    def forward(self, x):
        maps = self.conv(x)
        return {"maps": maps, "mean": maps.mean((2, 3))}


def dataset():
    import numpy as np

    return Dataset([torch.zeros(1, 5, 5)], np.zeros(1, np.int64), ("a",), ("0",), None, "here", "f")


def test_listing():
    lines = list_layers(Encoder(Two(), Pixels(), "two"), dataset(), device="cpu")
    assert [(line.name, line.type, line.shape, line.parameters) for line in lines] == [
        ("conv", "Conv2d", (4, 3, 3), 40),
        ("idle", "Linear", None, 2),
        ("output.maps", "Two", (4, 3, 3), 42),
        ("output.mean", "Two", (4,), 42),
        ("output", "Two", (4, 3, 3), 42),
    ]


def test_listing_of_data_that_does_not_fit():
    with pytest.raises(InputError, match=r"x does not take inputs of shape \(1, 1, 5, 5\)"):
        list_layers(Encoder(nn.Linear(3, 3), Pixels(), "x"), dataset(), device="cpu")


def test_outputs_whose_names_have_colons():
    one = Encoder(nn.Identity(), Pixels(), "net", outputs=("Identity:0",), outputs_only="no hooks")
    two = Encoder(nn.Identity(), Pixels(), "net", outputs=("Identity:0", "Identity:1"), outputs_only="no hooks")
    assert [(layer.name, layer.key, layer.pooling) for layer in find(one, ["Identity:0", "output.Identity:0:gap"])] == [
        ("Identity:0", None, "auto"),
        ("output.Identity:0:gap", None, "gap"),
    ]
    assert [layer.key for layer in find(two, ["Identity:1", "output.Identity:0"])] == ["Identity:1", "Identity:0"]
    with pytest.raises(UsageError, match="no output 'Identity'; did you mean 'Identity:"):
        find(two, ["output.Identity"])
    with pytest.raises(UsageError, match="no output 'Identity:2'; did you mean 'Identity:"):
        find(two, ["Identity:2"])


def test_module_whose_name_has_colons_and_stars():
    odd = Encoder(nn.ModuleDict({"a:b": nn.Linear(2, 2), "x*": nn.Linear(2, 2), "xy": nn.Linear(2, 2)}), Pixels(), "net")
    found = find(odd, ["a:b", "a:b:mean", "a:b.input", "x*"])
    assert [(layer.module, layer.side, layer.pooling) for layer in found] == [
        ("a:b", "output", "auto"),
        ("a:b", "output", "mean"),
        ("a:b", "input", "auto"),
        ("x*", "output", "auto"),
    ]


def test_thousands_of_layers_and_patterns_of_many_stars():
    layers = Encoder(nn.Sequential(*(nn.Sequential(nn.Identity()) for _ in range(1500))), Pixels(), "net")
    begun = time.process_time()
    assert len(find(layers, ["**"])) == 3000
    assert len(find(layers, [f"{place}.0" for place in range(1500)])) == 1500
    with pytest.raises(UsageError, match="no layer that matches"):
        find(layers, ["*" * 41 + "a", "**0" * 30])
    assert time.process_time() - begun < 5


@settings(max_examples=50, deadline=None)
@given(st.text("ab.*?", max_size=8), st.text("ab.", max_size=10))
def test_patterns_are_what_regular_expressions_say(pattern, name):
    parts = [part for part in re.split(r"(\*\*+|\*|\?|.)", pattern) if part]
    meaning = {"*": "[^.]*", "?": "[^.]"}
    wanted = "".join(meaning.get(part, ".*" if part.startswith("**") else re.escape(part)) for part in parts)
    assert _matches(parts, name) == bool(re.fullmatch(wanted, name))
