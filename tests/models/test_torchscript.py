import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from embedscope.errors import InputError, UsageError
from embedscope.models import open_model
from embedscope.models._pickled import scripted_tensors
from embedscope.models.checkpoint import load_checkpoint
from embedscope.models.torchscript import is_torchscript

pytestmark = [  # to write the programs; reading is silent
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning"),
]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


@pytest.fixture
def traced(network, tmp_path):
    torch.jit.trace(network, torch.rand(2, 1, 8, 8)).save(tmp_path / "traced.pt")
    return str(tmp_path / "traced.pt")


def test_traced(network, traced):
    encoder = open_model(traced, unsafe_pickle=True)
    batch = encoder.prepare(torch.rand(5, 1, 8, 8))
    with torch.inference_mode():
        assert torch.equal(encoder.module(batch), network(batch))
    assert encoder.embedding == "output"
    assert "TorchScript does not support hooks" in encoder.outputs_only
    assert encoder.weights.matched == tuple(network.state_dict())


@pytest.mark.parametrize("suffix", ["pt", "pth", "ts"])
def test_scripted_while_it_trained_is_evaluated(network, tmp_path, suffix):
    path = tmp_path / f"scripted.{suffix}"
    torch.jit.script(network.train()).save(path)
    encoder = open_model(f"torchscript:{path}", unsafe_pickle=True)
    batch = torch.rand(5, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(encoder.module(batch), network.eval()(batch))
    assert is_torchscript(path)


def test_a_checkpoint_is_not_a_program(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "a.pt")
    assert not is_torchscript(tmp_path / "a.pt")
    with pytest.raises(UsageError, match=r"a\.pt is not a model by itself; .*`checkpoint="):
        open_model(str(tmp_path / "a.pt"))


def test_a_checkpoint_given_as_a_program(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "a.pt")
    with pytest.raises(
        InputError, match=r"a\.pt cannot be read as TorchScript .*contains no code.*`checkpoint=` if it holds weights$"
    ):
        open_model(f"torchscript:{tmp_path}/a.pt")


def test_truncated(traced, tmp_path):
    (tmp_path / "short.pt").write_bytes((tmp_path / "traced.pt").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"short\.pt cannot be read as TorchScript \(it is truncated .*\); expected a file"):
        open_model(f"torchscript:{tmp_path}/short.pt")


def test_absent():
    with pytest.raises(InputError, match=r"no such file: nowhere\.ts"):
        open_model("torchscript:nowhere.ts")


def test_two_inputs(tmp_path):
    class Sum(nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor, scale: float = 2.0):
            return scale * (left + right)

    torch.jit.script(Sum()).save(tmp_path / "sum.pt")
    with pytest.raises(InputError, match=r"sum\.pt takes 2 inputs \(left, right\), but only one can"):
        open_model(f"{tmp_path}/sum.pt", unsafe_pickle=True)


class Writer(nn.Module):
    """Writes a file when it is loaded."""

    def __init__(self, path: str):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.path = path

    @torch.jit.export
    def __getstate__(self):
        return self.weight, self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]):
        self.weight, self.path, self.training = state
        mapped = torch.from_file(self.path, True, 6, dtype=torch.uint8).fill_(65)
        self.weight = self.weight + 0 * mapped.float().sum()

    def forward(self, batch):
        return batch


@pytest.fixture
def writer(tmp_path):
    path = tmp_path / "writer.pt"
    torch.jit.script(nn.Sequential(nn.Linear(3, 2), Writer(str(tmp_path / "ran")))).save(path)
    (tmp_path / "ran").unlink(missing_ok=True)
    return str(path)


def test_program_that_writes_a_file(writer, tmp_path):
    with pytest.raises(
        InputError, match=r"writer\.pt is a TorchScript program, .* and write files .*; pass `unsafe_pickle=True`"
    ):
        open_model(writer)
    assert not (tmp_path / "ran").exists()
    open_model(writer, unsafe_pickle=True)
    assert (tmp_path / "ran").exists()


def test_checkpoint_that_writes_a_file(writer, tmp_path):
    net = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(
        InputError, match=r"runs custom code on loading \(1: Writer\); if you trust its author, pass `unsafe_pickle=True`"
    ):
        load_checkpoint(net, writer)
    assert not (tmp_path / "ran").exists()
    assert load_checkpoint(net, writer, unsafe_pickle=True).missing == ()


def test_option_that_only_the_flag_sets(traced):
    with pytest.raises(UsageError, match="torchscript has no option 'unsafe_pickle'"):
        open_model(f"torchscript:{traced}(unsafe_pickle=True)")


def test_tensors_without_the_program(network, traced, tmp_path):
    lstm = nn.LSTM(3, 4, 2, bidirectional=True)
    torch.jit.script(lstm).save(tmp_path / "lstm.pt")
    for path, source in ((Path(traced), network), (tmp_path / "lstm.pt", lstm)):
        found = scripted_tensors(path)
        assert found.keys() == source.state_dict().keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in source.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64])
def test_tensors_of_all_dtypes_and_views(tmp_path, dtype):
    module = nn.Module()
    base = torch.arange(12).reshape(3, 4).to(dtype)
    for name, tensor in {"whole": base, "part": base[1:, ::2], "number": base[2, 1], "none": base[:0]}.items():
        module.register_buffer(name, tensor)
    torch.jit.script(module).save(tmp_path / "a.pt")
    found = scripted_tensors(tmp_path / "a.pt")
    assert all(torch.equal(found[name], tensor) and found[name].dtype == dtype for name, tensor in module.state_dict().items())
    assert found.keys() == module.state_dict().keys()


def rewritten(path, content):
    """Write an archive again with another data.pkl."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(path.parent / "b.pt", "w") as target:
        for name in source.namelist():
            target.writestr(name, content(source.read(name)) if name.endswith("/data.pkl") else source.read(name))
    return path.parent / "b.pt"


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


PICKLES = {
    "runs code": lambda content, folder: pickle.dumps({"a": Evil(f"{folder}/ran")}, 2),
    "memo without end": lambda content, folder: b"\x80\x02Nr\xff\xff\xff\x7f.",
    "cut short": lambda content, folder: content[: len(content) // 2],
    "beyond its storage": lambda content, folder: content.replace(b"K\x02K\x03t", b"K\x02K\x7ft"),
    "storage of another size": lambda content, folder: content.replace(b"K\x06tQ", b"K\x07tQ"),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_archives_that_are_not_what_they_say(tmp_path, kind):
    torch.jit.script(nn.Linear(3, 2)).save(tmp_path / "a.pt")
    path = rewritten(tmp_path / "a.pt", lambda content: PICKLES[kind](content, tmp_path))
    with pytest.raises(InputError, match=r"b\.pt (cannot be read as a checkpoint|contains no named tensors)"):
        load_checkpoint(nn.Linear(3, 2), str(path))
    assert not (tmp_path / "ran").exists()
