import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from embedscope.errors import InputError, UsageError
from embedscope.models import open_model
from embedscope.models.encoder import Encoder
from embedscope.models.preparation import Pixels, to_input

CODE = """
import neighbor
from torch import nn

def Net(width=3, bias=True):
    return nn.Linear(neighbor.INPUTS, width, bias)

def wrong():
    return 42

def late(width):
    import neighbor
    return nn.Linear(neighbor.INPUTS, width)

def leaves():
    import sys
    sys.exit(3)

def fails():
    raise ValueError("no\\nway")
"""


@pytest.fixture
def code(tmp_path):
    (tmp_path / "neighbor.py").write_text("INPUTS = 2\n")
    (tmp_path / "net.py").write_text(CODE)
    yield f"{tmp_path}/net.py"
    sys.modules.pop("neighbor", None)


def test_factory_in_a_file(code):
    path = list(sys.path)
    encoder = open_model(f"{code}:Net(width=5)")
    assert encoder.module.weight.shape == (5, 2)
    assert not encoder.module.training
    assert sys.path == path


def test_positional_options_and_late_imports(code):
    assert open_model(f"{code}:Net(7)").module.weight.shape == (7, 2)
    assert open_model(f"{code}:late(4)").module.weight.shape == (4, 2)


def test_dataclasses_in_a_file(tmp_path):
    (tmp_path / "config_net.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\n"
        "@dataclass\nclass Config:\n    width: int = 3\n\ndef Net():\n    return nn.Linear(2, Config().width)\n"
    )
    assert open_model(f"{tmp_path}/config_net.py:Net").module.weight.shape == (3, 2)


def test_source_by_name(monkeypatch):
    from embedscope import plugins

    given = []

    def mine(location, /, *args, **options):
        given.append((location, args, options))
        return Encoder(torch.nn.Identity(), Pixels(), "mine")

    real = plugins.names, plugins.load
    monkeypatch.setattr(plugins, "names", lambda kind: ["mine", "python"] if kind == "models" else real[0](kind))
    monkeypatch.setattr(plugins, "load", lambda kind, name: mine if name == "mine" else real[1](kind, name))
    assert open_model("mine:resnet(3, width=2)").spec == "mine:resnet(3, width=2)"
    assert given == [("resnet", (3,), {"width": 2})]


def test_weights_that_are_not_loaded_are_the_same_every_time(code):
    first, second, other = (open_model(f"{code}:Net", seed=seed).module.weight for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_preprocessing_is_adjusted(code):
    encoder = open_model(f"{code}:Net", size=(4, 6), mean=(0.5,), std=(0.25,))
    image = Image.new("L", (12, 8), 255)
    batch = encoder.prepare([image])
    assert batch.shape == (1, 1, 4, 6)
    assert (batch == 2).all()
    assert "4x6" in encoder.prepare.text
    assert "0.25" in encoder.prepare.text


@pytest.mark.parametrize(("mode", "channels", "expected"), [("L", 3, [0.2] * 3), ("RGB", 1, [0.2]), ("I;16", 3, [0.2] * 3)])
def test_channels(mode, channels, expected):
    value = {"L": 51, "RGB": (51, 51, 51), "I;16": 13107}[mode]
    batch = Pixels(channels=channels)([Image.new(mode, (2, 2), value)])
    assert batch.shape == (1, channels, 2, 2)
    assert batch[0, :, 0, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_checkpoint_as_a_model(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(UsageError, match="is not a model by itself; give the model and the file as its weights"):
        open_model(str(tmp_path / "w.pt"))


def test_source_without_a_name():
    with pytest.raises(UsageError, match="'python:' does not name a model; write python:NAME"):
        open_model("python:")


def test_factory_in_a_module():
    assert isinstance(open_model("torch.nn:Identity").module, torch.nn.Identity)


def test_factory_in_the_current_folder(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "net", raising=False)
    assert open_model("net:Net").module.weight.shape == (3, 2)
    del sys.modules["net"]


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("net.py", UsageError, "cannot read the model 'net.py'; give path/to/file.py:Factory"),
        ("nowhere.py:Net", InputError, "no such file: nowhere.py"),
        ("{code}:Nett", InputError, "has no factory 'Nett'; did you mean 'Net'"),
        ("{code}:Net(hight=1)", InputError, "cannot be called: TypeError: .*hight"),
        ("{code}:wrong", InputError, "returned int, expected a torch.nn.Module"),
        ("{code}:leaves", InputError, "cannot be called: SystemExit: 3"),
        ("{code}:fails", InputError, "cannot be called: ValueError: no$"),
        (":Net", InputError, "cannot read the model ':Net'"),
        ("{code}:", InputError, "cannot read the model"),
        (".relative:Net", InputError, "cannot be imported: TypeError"),
        ("no_such_package:Net", InputError, "no_such_package cannot be imported: ModuleNotFoundError"),
    ],
)
def test_models_that_cannot_be_made(code, spec, error, message):
    with pytest.raises(error, match=message):
        open_model(spec.format(code=code))


def test_file_with_a_mistake(tmp_path):
    (tmp_path / "net.py").write_text("def Net(:")
    with pytest.raises(InputError, match=r"cannot be imported: SyntaxError: invalid syntax"):
        open_model(f"{tmp_path}/net.py:Net")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_checkpoint_fills_the_model(code, tmp_path, suffix):
    weights = {"weight": torch.arange(6.0).reshape(3, 2), "bias": torch.ones(3)}
    path = tmp_path / f"a{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    encoder = open_model(f"{code}:Net", str(path))
    assert torch.equal(encoder.module.weight, weights["weight"])
    assert encoder.weights.matched == ("weight", "bias")
    assert len(encoder.weights.sha256) == 64


def test_missing_checkpoint(code):
    with pytest.raises(InputError, match=r"no such checkpoint: nowhere\.pt"):
        open_model(f"{code}:Net", "nowhere.pt")


@pytest.mark.parametrize(
    ("mode", "value", "shape", "expected"),
    [
        ("L", 51, (1, 3, 2), 0.2),
        ("1", 1, (1, 3, 2), 1.0),
        ("RGB", (51, 51, 51), (3, 3, 2), 0.2),
        ("RGBA", (51, 51, 51, 0), (3, 3, 2), 0.2),
        ("P", 0, (3, 3, 2), 0.0),
        ("I;16", 13107, (1, 3, 2), 0.2),
    ],
)
def test_images_become_tensors(mode, value, shape, expected):
    found = to_input(Image.new(mode, (2, 3), value))
    assert (found.dtype, tuple(found.shape)) == (torch.float32, shape)
    assert found.mean() == pytest.approx(expected)


def test_pixels_keep_their_places():
    pixels = np.arange(18, dtype=np.uint8).reshape(3, 2, 3)
    assert torch.equal(to_input(Image.fromarray(pixels))[2] * 255, torch.from_numpy(pixels[:, :, 2]).float())


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.uint8, torch.float32), (torch.float64, torch.float32), (torch.float16, torch.float32), (torch.int64, torch.int64)],
)
def test_arrays_become_what_networks_take(dtype, expected):
    assert to_input(torch.ones(2, dtype=dtype)).dtype == expected


@pytest.mark.parametrize(
    "spec", ["{}.onnx", "{}.pt2", "{}.pt", "{}.safetensors", "onnx:{}.onnx", "exported:{}.pt2", "torchscript:{}.pt"]
)
def test_an_empty_model_is_called_empty(tmp_path, spec):
    spec = spec.format(tmp_path / "a")
    path = spec.partition(":")[2] or spec
    Path(path).touch()
    with pytest.raises(InputError, match=f"^{path} is empty: it has 0 bytes$"):
        open_model(spec)
