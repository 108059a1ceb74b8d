"""Names of tensors in the forms that wrappers, older versions and a module's own hooks give them."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from embedscope.errors import InputError
from embedscope.models._matching import fitted
from embedscope.models.checkpoint import load_checkpoint

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "module")


def saved(tmp_path, held):
    torch.save(held, tmp_path / "w.pt")
    return str(tmp_path / "w.pt")


def network():
    return nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2))


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("place", ["0.{}.1", "{}.0.1", "0.1.{}", "_fsdp_wrapped_module.0.{}.1"])
def test_wrappers_inside_of_names(tmp_path, wrapper, place):
    torch.manual_seed(0)
    state = network().state_dict()
    held = {name.replace("0.1.", f"{place.format(wrapper)}."): tensor for name, tensor in state.items()}
    net = network()
    assert load_checkpoint(net, saved(tmp_path, held)).missing == ()
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in state.items())


PARTS = st.sampled_from(["a", "b", "layer1", "weight", "module", "0", "encoder"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(PARTS, min_size=1, max_size=3).map(".".join), min_size=1, max_size=5, unique=True),
    st.lists(st.sampled_from([*WRAPPERS, "backbone", "model", "x.y"]), max_size=2),
    st.randoms(use_true_random=False),
)
def test_whatever_is_wrapped_comes_back(names, prefix, random):
    """Tensors of different sizes, so that each name has one right answer."""
    expected = {name: torch.zeros(place + 2) for place, name in enumerate(names)}
    held = {}
    for name, tensor in expected.items():
        parts = name.split(".")
        parts.insert(random.randrange(len(parts)), "_checkpoint_wrapped_module")
        held[".".join([*prefix, *parts])] = tensor + 1
    fits = fitted("", expected, held)
    assert [fit.size for fit in fits] == [len(names)] * len(fits)
    for name, source in fits[0].sources.items():
        assert held[source].shape == expected[name].shape


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.text("ab._", max_size=6), st.integers(0, 3), max_size=6),
    st.dictionaries(st.text("ab._", max_size=6), st.integers(0, 3), max_size=6),
)
def test_any_names_are_matched_by_shape_and_once(expected, held):
    module = {name: torch.zeros(size) for name, size in expected.items()}
    file = {name: torch.zeros(size) for name, size in held.items()}
    for fit in fitted("", module, file):
        assert fit.size >= 1
        assert fit.sources.keys() <= module.keys()
        assert set(fit.sources.values()) <= file.keys()


def test_thousands_of_tensors_and_dots():
    expected = {f"layers.{place}.weight": torch.zeros(2) for place in range(5000)}
    held = {f"module.{name}": tensor for name, tensor in expected.items()} | {"." * 100_000: torch.zeros(2)}
    begun = time.process_time()
    assert fitted("", expected, held)[0].size == 5000
    assert time.process_time() - begun < 10


def newer_weight_norm():
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2))


def older_weight_norm():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.warns(FutureWarning, match="weight_norm"):
        nn.utils.weight_norm(net[0])
    return net


@pytest.mark.parametrize("prefix", ["", "module.net."])
@pytest.mark.parametrize(("source", "target"), [(older_weight_norm, newer_weight_norm), (newer_weight_norm, older_weight_norm)])
def test_weight_norm_of_either_kind(tmp_path, source, target, prefix):
    torch.manual_seed(0)
    net, right = target(), source()
    held = {prefix + name: tensor for name, tensor in right.state_dict().items()}
    loaded = load_checkpoint(net, saved(tmp_path, held))
    batch = torch.rand(5, 3)
    assert torch.equal(net(batch), right(batch))
    assert (loaded.missing, loaded.left_over) == ((), ())


class Renamed(nn.Module):
    """Reads names of an earlier version: `old` became `new`."""

    def __init__(self):
        super().__init__()
        self.new = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        for name in [name for name in state_dict if name.startswith(f"{prefix}old.")]:
            state_dict[name.replace("old.", "new.")] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *rest)


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("inner", [lambda module: module, lambda module: nn.Sequential(module, nn.Linear(2, 2))])
def test_load_hooks_of_the_module(tmp_path, inner, prefix):
    torch.manual_seed(0)
    state = inner(Renamed()).state_dict()
    held = {prefix + name.replace("new.", "old."): tensor for name, tensor in state.items()} | {f"{prefix}more": torch.ones(2)}
    net = inner(Renamed())
    loaded = load_checkpoint(net, saved(tmp_path, held))
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in state.items())
    assert loaded.missing == ()
    assert loaded.left_over == (f"{prefix}more",)


def test_load_hooks_alone_match(tmp_path):
    net = nn.Sequential()
    net.add_module("only", nn.Linear(3, 2))
    net.register_load_state_dict_pre_hook(
        lambda module, state, prefix, *rest: state.update({f"only.{name[4:]}": state.pop(name) for name in list(state)})
    )
    held = {"was_weight": torch.ones(2, 3), "was_bias": torch.ones(2)}
    assert load_checkpoint(net, saved(tmp_path, held)).missing == ()
    assert torch.equal(net.only.weight, torch.ones(2, 3))


def test_load_hook_that_fails(tmp_path):
    net = nn.Sequential(nn.Linear(3, 2))

    def fail(module, state, prefix, *rest):
        raise KeyError("absent")

    net.register_load_state_dict_pre_hook(fail)
    with pytest.raises(InputError, match=r"w\.pt cannot be loaded into the model: KeyError: 'absent'"):
        load_checkpoint(net, saved(tmp_path, {"0.weight": torch.ones(2, 3)}))
