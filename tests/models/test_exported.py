import io
import json
import os
import re
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from embedscope.errors import InputError
from embedscope.models import open_model

# Of torch's own pytree, when a program is written; reading is silent.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class Net(nn.Module):
    """A network whose layers lie in modules of modules."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4, 3)

    def forward(self, images):
        return self.head(self.dropout(self.body(images).mean((2, 3))))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def save(tmp_path):
    def write(network, *inputs, dynamic=None):
        path = tmp_path / "program.pt2"
        torch.export.save(torch.export.export(network, inputs, dynamic_shapes=dynamic), path)
        return str(path)

    return write


def test_any_batch_size_and_layers_by_name(network, save):
    encoder = open_model(save(network, torch.rand(2, 1, 8, 8), dynamic=({0: torch.export.Dim("batch")},)))
    seen = {}
    for name in ("body.0", "body.2", "head"):
        module = encoder.module.get_submodule(name)
        module.register_forward_hook(lambda module, args, output, name=name: seen.__setitem__(name, (args[0], output)))
    batch = encoder.prepare(torch.rand(5, 1, 8, 8))
    with torch.inference_mode():
        assert torch.equal(encoder.module(batch), network(batch))
        assert torch.equal(seen["body.0"][1], network.body[0](batch))
        assert torch.equal(seen["head"][0], network.body(batch).mean((2, 3)))
    assert (encoder.embedding, encoder.batch_size, encoder.device) == ("head.input", None, None)
    assert set(encoder.weights.matched) == set(network.state_dict())


def test_batch_size_of_its_own(network, save):
    encoder = open_model(save(network, torch.rand(4, 1, 8, 8)))
    batch = torch.rand(4, 1, 8, 8)
    assert encoder.batch_size == 4
    with torch.inference_mode():
        assert torch.equal(encoder.module(batch), network(batch))


def test_device_of_its_own(save):
    class Shifted(nn.Module):
        def forward(self, inputs):
            return inputs + torch.ones(3)

    encoder = open_model(save(Shifted(), torch.rand(2, 3)))
    assert (encoder.device, encoder.embedding) == ("cpu", "output")


@pytest.mark.parametrize(("dropout", "named"), [(0.0, "batch_norm"), (0.5, "dropout")])
def test_exported_while_it_trained(save, dropout, named):
    with pytest.raises(InputError, match=rf"was exported while it trained \(.*{named}.*\), .*call model.eval\(\)"):
        open_model(save(Net(dropout).train(), torch.rand(2, 1, 8, 8)))


def test_two_inputs(save):
    class Sum(nn.Module):
        def forward(self, left, right):
            return left + right

    with pytest.raises(InputError, match=r"program\.pt2 takes 2 inputs \(left, right\), and can only be given one batch"):
        open_model(save(Sum(), torch.rand(2), torch.rand(2)))


def test_truncated(network, save, tmp_path, caplog):
    content = Path(save(network, torch.rand(2, 1, 8, 8))).read_bytes()
    (tmp_path / "short.pt2").write_bytes(content[:1000])
    with pytest.raises(
        InputError, match=r"short\.pt2 cannot be read as an exported program \(.*\); expected a \.pt2 file written"
    ):
        open_model(f"{tmp_path}/short.pt2")
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]  # writing the program traces


def test_a_state_dict_given_as_a_program(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "a.pt2")
    with pytest.raises(InputError, match=r"a\.pt2 cannot be read as an exported program"):
        open_model(f"{tmp_path}/a.pt2")


class Evil:
    """What unpickling would run: makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_example_inputs_that_would_run_code_do_not(network, save, tmp_path, monkeypatch):
    pickled = io.BytesIO()
    torch.save(Evil(str(tmp_path / "evil")), pickled)
    with (
        zipfile.ZipFile(save(network, torch.rand(2, 1, 8, 8))) as program,
        zipfile.ZipFile(tmp_path / "evil.pt2", "w") as changed,
    ):
        for name in program.namelist():
            changed.writestr(name, pickled.getvalue() if "sample_inputs" in name else program.read(name))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(InputError, match=r"evil\.pt2 holds more than tensors, and reading it could run any code"):
        open_model(f"{tmp_path}/evil.pt2")
    assert not (tmp_path / "evil").exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_absent():
    with pytest.raises(InputError, match=r"no such file: nowhere\.pt2"):
        open_model("exported:nowhere.pt2")


def test_sizes_that_are_no_whole_numbers(tmp_path):
    class Scales(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.interpolate(x, scale_factor=1.5)

    auto = torch.export.Dim.AUTO
    program = torch.export.export(Scales(), (torch.zeros(2, 1, 6, 8),), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    torch.export.save(program, tmp_path / "a.pt2")
    assert open_model(str(tmp_path / "a.pt2")).module(torch.zeros(3, 1, 4, 4)).shape == (3, 1, 6, 6)


@pytest.mark.parametrize("rename", [str, lambda name: name.replace(".json", ".JSON")])
def test_size_that_would_run_code_does_not(tmp_path, rename):
    import zipfile

    program = torch.export.export(
        torch.nn.Linear(3, 2).eval(), (torch.zeros(4, 3),), dynamic_shapes=({0: torch.export.Dim.AUTO},)
    )
    torch.export.save(program, tmp_path / "good.pt2")
    evil = f"__import__('os').mkdir({str(tmp_path / 'ran')!r}) or s0"
    changed = 0
    with zipfile.ZipFile(tmp_path / "good.pt2") as source, zipfile.ZipFile(tmp_path / "evil.pt2", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(".json"):
                text = re.sub(r'"expr_str": *"[^"]*"', lambda match: f'"expr_str": {json.dumps(evil)}', content.decode())
                changed += text != content.decode()
                content = text.encode()
            target.writestr(rename(name), content)
    assert changed
    with pytest.raises(InputError, match="holds a size that is no arithmetic, '__import__"):
        open_model(str(tmp_path / "evil.pt2"))
    assert not (tmp_path / "ran").exists()
    open_model(str(tmp_path / "good.pt2"))
