"""Checkpoints as they are found in the wild, and files that must not be believed."""

import argparse
import collections
import fractions
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from embedscope.errors import InputError, UsageError
from embedscope.models.checkpoint import load_checkpoint


class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
        self.head = nn.Linear(5, classes)


def weights(seed=0, classes=3):
    torch.manual_seed(seed)
    net = Net(classes)
    net.body[1].running_mean.normal_()
    return net.state_dict()


def prefixed(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def saved(tmp_path, held, name="w.pt"):
    torch.save(held, tmp_path / name)
    return str(tmp_path / name)


def check(net, state):
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name]), name


WRAPPED = {
    "bare": lambda state: state,
    "ordered": collections.OrderedDict,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state},
    "model": lambda state: {"model": state, "args": "text", "loss": [0.1, 0.2]},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {0: state["head.weight"]}}},
    "net": lambda state: {"net": state, "acc": 0.9},
    "module": lambda state: {"module": state},
    "optimizer beside": lambda state: {
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(5, 4)}}, "param_groups": []},
        "model": state,
    },
    "DataParallel": lambda state: prefixed(state, "module."),
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "compiled and parallel": lambda state: {"state_dict": prefixed(state, "module._orig_mod.")},
    "compiled inside": lambda state: {name.replace("body.", "body._orig_mod."): tensor for name, tensor in state.items()},
    "backbone": lambda state: prefixed(state, "backbone."),
    "lightning": lambda state: {
        "pytorch-lightning_version": "2.5.0",
        "state_dict": prefixed(state, "model.encoder.") | {"criterion.weight": torch.ones(7)},
        "callbacks": {},
        "hyper_parameters": {"lr": 0.1},
    },
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrappings(tmp_path, kind):
    state = weights()
    net = Net()
    loaded = load_checkpoint(net, saved(tmp_path, WRAPPED[kind](state)))
    check(net, state)
    assert set(loaded.matched) == set(state)
    assert loaded.missing == ()


def test_safetensors_with_a_prefix(tmp_path):
    state = weights()
    save_file(prefixed(state, "encoder."), tmp_path / "w.safetensors")
    net = Net()
    loaded = load_checkpoint(net, str(tmp_path / "w.safetensors"))
    check(net, state)
    assert loaded.origin == "without the prefix encoder."


def test_model_has_a_prefix_that_the_file_lacks(tmp_path):
    state = weights()
    net = nn.ModuleDict({"backbone": Net()})
    loaded = load_checkpoint(net, saved(tmp_path, state))
    check(net["backbone"], state)
    assert loaded.origin == "under the prefix backbone."
    assert len(loaded.matched) == len(state)


def test_raw_and_ema(tmp_path):
    raw, ema = weights(0), weights(1)
    path = saved(tmp_path, {"state_dict": raw, "state_dict_ema": ema})
    net = Net()
    assert "also contains EMA weights" in load_checkpoint(net, path).notes[0]
    check(net, raw)
    assert load_checkpoint(net, path, weights="ema").notes == ()
    check(net, ema)
    load_checkpoint(net, path, weights="raw")
    check(net, raw)


def test_only_ema(tmp_path):
    net = Net()
    loaded = load_checkpoint(net, saved(tmp_path, {"model_ema": weights()}))
    check(net, weights())
    assert "only EMA" in loaded.notes[0]


def test_ema_of_a_wrapper(tmp_path):
    net = Net()
    load_checkpoint(net, saved(tmp_path, {"ema": {"shadow": weights(1), "decay": 0.99}, "model": weights(0)}), weights="ema")
    check(net, weights(1))


def test_no_ema_there(tmp_path):
    with pytest.raises(UsageError, match="has no ema weights that match the model; it has: model"):
        load_checkpoint(Net(), saved(tmp_path, {"model": weights()}), weights="ema")


def test_two_sets_that_fit_equally_well(tmp_path):
    path = saved(tmp_path, {"state_dict": prefixed(weights(0), "encoder_q.") | prefixed(weights(1), "encoder_k.")})
    with pytest.raises(
        InputError, match=r"holds 2 sets of weights that match equally well; choose one with `weights=`: encoder_q, encoder_k"
    ):
        load_checkpoint(Net(), path)
    net = Net()
    load_checkpoint(net, path, weights="encoder_k")
    check(net, weights(1))
    with pytest.raises(UsageError, match="did you mean 'encoder_k'"):
        load_checkpoint(net, path, weights="encoder_kk")


def test_set_that_fits_is_taken(tmp_path):
    bigger = {f"blocks.{name}": tensor for name, tensor in weights(2).items()} | {"more": torch.zeros(3)}
    net = Net()
    assert load_checkpoint(net, saved(tmp_path, {"generator": {"w": torch.ones(3)}, "critic": weights(0)})).origin == "critic"
    check(net, weights(0))
    load_checkpoint(net, saved(tmp_path, {"model": {"other": torch.ones(3)}, "blocks": bigger}))
    check(net, weights(2))


def test_unnamed_sets_that_fit_equally_well(tmp_path):
    path = saved(tmp_path, {"student": weights(0), "teacher": weights(1)})
    with pytest.raises(
        InputError, match="2 sets of weights that match equally well; choose one with `weights=`: student, teacher"
    ):
        load_checkpoint(Net(), path)
    net = Net()
    load_checkpoint(net, path, weights="teacher")
    check(net, weights(1))


def test_name_that_is_right_already_wins(tmp_path):
    net = Net()
    load_checkpoint(net, saved(tmp_path, weights(0) | prefixed(weights(1), "module.")))
    check(net, weights(0))


def test_tied_weights_are_filled_together(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

    torch.manual_seed(0)
    state = Tied().state_dict()
    del state["b.weight"]
    save_file(state, tmp_path / "w.safetensors")
    net = Tied()
    assert load_checkpoint(net, str(tmp_path / "w.safetensors")).missing == ()
    assert torch.equal(net.b.weight, state["a.weight"])


def test_wrapped_part_of_a_model(tmp_path):
    state = weights()
    net = Net()
    inner = {name.replace("body.", "body.module."): tensor for name, tensor in state.items()}
    load_checkpoint(net, saved(tmp_path, inner))
    check(net, state)


def test_model_with_a_compiled_part_loads_its_own_weights(tmp_path):
    net = Net()
    net.body = nn.ModuleDict({"_orig_mod": net.body})
    state = {name: tensor.clone() + 1 for name, tensor in net.state_dict().items()}
    load_checkpoint(net, saved(tmp_path, state))
    check(net, state)


def test_ema_under_a_prefix(tmp_path):
    held = prefixed(weights(0), "model.") | prefixed(weights(1), "model_ema.")
    net = Net()
    load_checkpoint(net, saved(tmp_path, held), weights="ema")
    check(net, weights(1))


@pytest.mark.parametrize("wrap", [lambda held: {"model_ema": held}, lambda held: prefixed(held, "model_ema.")])
def test_averages_whose_names_have_no_dots(tmp_path, wrap):
    average = {name.replace(".", ""): tensor for name, tensor in weights(1).items()} | {"decay": torch.tensor(0.9)}
    net = Net()
    load_checkpoint(net, saved(tmp_path, {"state_dict": weights(0), **wrap(average)}), weights="ema")
    check(net, weights(1))


def test_arguments_beside_the_weights(tmp_path):
    net = Net()
    load_checkpoint(net, saved(tmp_path, {"model": weights(), "args": argparse.Namespace(lr=0.1, out=tmp_path)}))
    check(net, weights())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_weights_of_a_torchscript_program(tmp_path):
    torch.manual_seed(0)
    source = Net().eval()
    torch.jit.trace(source.body, torch.zeros(2, 4)).save(str(tmp_path / "p.pt"))
    net = Net().eval()
    load_checkpoint(net, str(tmp_path / "p.pt"))
    assert torch.equal(net.body[0].weight, source.body[0].weight)


def test_extra_state_is_no_tensor(tmp_path):
    class Extra(Net):
        def get_extra_state(self):
            return {"steps": 3}

        def set_extra_state(self, state):
            pass

    net = Extra()
    assert load_checkpoint(net, saved(tmp_path, weights())).missing == ()


def test_student_and_teacher_side_by_side(tmp_path):
    path = saved(tmp_path, {"student": prefixed(weights(0), "module.backbone."), "teacher": prefixed(weights(1), "backbone.")})
    net = Net()
    load_checkpoint(net, path, weights="teacher")
    check(net, weights(1))


def test_head_of_another_shape_is_missing_and_told(tmp_path):
    net = Net(classes=7)
    before = net.head.weight.clone()
    loaded = load_checkpoint(net, saved(tmp_path, weights()))
    assert set(loaded.missing) == {"head.weight", "head.bias"}
    assert set(loaded.left_over) == {"head.weight", "head.bias"}
    assert "2 tensors with a different shape: head.weight is (7, 5) in the model but (3, 5)" in loaded.notes[0]
    assert torch.equal(net.head.weight, before)
    assert torch.equal(net.body[0].weight, weights()["body.0.weight"])


def test_nothing_fits(tmp_path):
    with pytest.raises(InputError, match=r"matches nothing in the model: it has 1 tensor \(x\), the model 9"):
        load_checkpoint(Net(), saved(tmp_path, {"x": torch.ones(3)}))


def test_no_tensors(tmp_path):
    with pytest.raises(InputError, match="contains no named tensors; give a file"):
        load_checkpoint(Net(), saved(tmp_path, {"epoch": 3}))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


def test_pickle_that_would_run_code_does_not(tmp_path):
    path = saved(tmp_path, {"state_dict": weights(), "extra": Evil(tmp_path / "ran")})
    with pytest.raises(InputError, match=r"would run \w+\.mkdir; if you trust its author, pass `unsafe_pickle=True`"):
        load_checkpoint(Net(), path)
    assert not (tmp_path / "ran").exists()


def test_old_pickle_that_would_run_code_does_not(tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"state_dict": Evil(tmp_path / "ran")}))
    with pytest.raises(InputError, match=r"would run \w+\.mkdir"):
        load_checkpoint(Net(), str(tmp_path / "w.pkl"))
    assert not (tmp_path / "ran").exists()


def test_unsafe_pickle_when_asked_for(tmp_path):
    path = saved(tmp_path, {"state_dict": weights(), "when": fractions.Fraction(1, 2)})
    with pytest.raises(InputError, match=r"fractions.Fraction"):
        load_checkpoint(Net(), path)
    net = Net()
    load_checkpoint(net, path, unsafe_pickle=True)
    check(net, weights())


def test_whole_module_when_asked_for(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5))
    path = saved(tmp_path, model)
    net = nn.Sequential(nn.Linear(4, 5))
    load_checkpoint(net, path, unsafe_pickle=True)
    assert torch.equal(net[0].weight, model[0].weight)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_file_that_is_cut_short(tmp_path, name, part):
    if name == "w.pt":
        saved(tmp_path, weights())
    else:
        save_file(weights(), tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * part)])
    message = "cannot be read as a checkpoint: it is truncated" if part else "is empty: it has 0 bytes"
    with pytest.raises(InputError, match=rf"{name} {message}"):
        load_checkpoint(Net(), str(tmp_path / name))


def test_folder(tmp_path):
    with pytest.raises(InputError, match="is a folder; give the weights file"):
        load_checkpoint(Net(), str(tmp_path))


def test_sparse_tensors(tmp_path):
    with pytest.raises(InputError, match="holds sparse tensors"):
        load_checkpoint(Net(), saved(tmp_path, {"head.weight": torch.eye(5).to_sparse()}))


def test_lazy_module(tmp_path):
    net = nn.Sequential(nn.LazyLinear(5))
    torch.manual_seed(0)
    state = nn.Sequential(nn.Linear(4, 5)).state_dict()
    load_checkpoint(net, saved(tmp_path, state))
    assert torch.equal(net[0].weight, state["0.weight"])


def test_prefix_that_stands_inside_another_too(tmp_path):
    path = saved(tmp_path, {"state_dict": prefixed(weights(0), "model.") | prefixed(weights(1), "other.model.")})
    net = Net()
    load_checkpoint(net, path, weights="model")
    check(net, weights(0))


def test_prefix_inside_of_two_sets(tmp_path):
    path = saved(tmp_path, prefixed(weights(0), "online.encoder.") | prefixed(weights(1), "target.encoder."))
    with pytest.raises(InputError, match=r"choose one with `weights=`: online\.encoder, target\.encoder"):
        load_checkpoint(Net(), path, weights="encoder")
    net = Net()
    load_checkpoint(net, path, weights="target.encoder")
    check(net, weights(1))


@pytest.mark.parametrize("name", ["ema", "net_ema", "model_ema"])
def test_average_beside_raw_weights_in_one_mapping(tmp_path, name):
    path = saved(tmp_path, {"state_dict": prefixed(weights(0), "net.") | prefixed(weights(1), f"{name}.")})
    net = Net()
    assert "also contains EMA weights" in load_checkpoint(net, path).notes[0]
    check(net, weights(0))
    load_checkpoint(net, path, weights="raw")
    check(net, weights(0))
    load_checkpoint(net, path, weights="ema")
    check(net, weights(1))


def test_module_of_the_model_that_is_called_ema(tmp_path):
    net = nn.ModuleDict({"ema": Net()})
    assert load_checkpoint(net, saved(tmp_path, weights(0)), weights="raw").notes == ()
    check(net["ema"], weights(0))


def test_no_raw_weights_there(tmp_path):
    with pytest.raises(UsageError, match="has no raw weights that match the model; it has: ema"):
        load_checkpoint(Net(), saved(tmp_path, {"ema": weights()}), weights="raw")
