import pytest
import torch
from torch import nn

from embedscope.errors import InputError, UsageError
from embedscope.models import open_model
from embedscope.models.torchscript import is_torchscript

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # to write the programs; reading is silent


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


@pytest.fixture
def traced(network, tmp_path):
    torch.jit.trace(network, torch.rand(2, 1, 8, 8)).save(tmp_path / "traced.pt")
    return str(tmp_path / "traced.pt")


def test_traced(network, traced):
    encoder = open_model(traced)
    batch = encoder.prepare(torch.rand(5, 1, 8, 8))
    with torch.inference_mode():
        assert torch.equal(encoder.module(batch), network(batch))
    assert encoder.embedding == "output"
    assert "TorchScript takes no hooks" in encoder.outputs_only
    assert encoder.weights.matched == tuple(network.state_dict())


@pytest.mark.parametrize("suffix", ["pt", "pth", "ts"])
def test_scripted_while_it_trained_is_evaluated(network, tmp_path, suffix):
    path = tmp_path / f"scripted.{suffix}"
    torch.jit.script(network.train()).save(path)
    encoder = open_model(f"torchscript:{path}")
    batch = torch.rand(5, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(encoder.module(batch), network.eval()(batch))
    assert is_torchscript(path)


def test_a_checkpoint_is_no_program(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "a.pt")
    assert not is_torchscript(tmp_path / "a.pt")
    with pytest.raises(UsageError, match=r"a\.pt is no model by itself; .*`checkpoint="):
        open_model(str(tmp_path / "a.pt"))


def test_a_checkpoint_given_as_a_program(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "a.pt")
    with pytest.raises(
        InputError, match=r"a\.pt cannot be read as TorchScript .*constants.pkl.*`checkpoint=` if it holds weights$"
    ):
        open_model(f"torchscript:{tmp_path}/a.pt")


def test_truncated(traced, tmp_path):
    (tmp_path / "short.pt").write_bytes((tmp_path / "traced.pt").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"short\.pt cannot be read as TorchScript \(RuntimeError: .*\); expected a file"):
        open_model(f"torchscript:{tmp_path}/short.pt")


def test_absent():
    with pytest.raises(InputError, match=r"no such file: nowhere\.ts"):
        open_model("torchscript:nowhere.ts")


def test_two_inputs(tmp_path):
    class Sum(nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor, scale: float = 2.0):
            return scale * (left + right)

    torch.jit.script(Sum()).save(tmp_path / "sum.pt")
    with pytest.raises(InputError, match=r"sum\.pt takes 2 inputs \(left, right\), and can only be given one batch"):
        open_model(f"{tmp_path}/sum.pt")
