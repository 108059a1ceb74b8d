import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from embedscope.data import open_dataset
from embedscope.errors import InputError, OutputError, UsageError
from embedscope.extraction import extract
from embedscope.models.encoder import Encoder
from embedscope.models.preparation import Pixels, to_input
from embedscope.store import open_features


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc1 = nn.Linear(4, 6)
        self.fc2 = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc2(self.fc1(self.conv(x).mean((2, 3))).relu())


def encoder_of(module, spec="x"):
    return Encoder(module, Pixels(), spec)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return encoder_of(Net().eval(), "net.py:Net")


@pytest.fixture
def dataset(tmp_path):
    images = np.random.default_rng(0).normal(size=(11, 1, 5, 5)).astype(np.float32)
    np.savez(tmp_path / "data.npz", X=images, y=np.arange(11) % 3)
    return open_dataset(str(tmp_path / "data.npz"))


def by_hand(encoder, dataset):
    x = torch.stack([to_input(dataset.inputs[row]) for row in range(len(dataset.inputs))])
    with torch.no_grad():
        maps = encoder.module.conv(x)
        hidden = encoder.module.fc1(maps.mean((2, 3)))
    return maps, hidden


def test_layers_equal_the_model_called_by_hand(encoder, dataset, tmp_path):
    done = extract(encoder, dataset, tmp_path / "a.h5", layers=["conv", "fc1", "fc2.input", "fc1"], batch_size=4)
    assert dict(done.layers) == {"conv": 4, "fc1": 6, "fc2.input": 6}
    assert done.rows == 11
    maps, hidden = by_hand(encoder, dataset)
    found = {features.layer: features for features in open_features([str(tmp_path / "a.h5")])}
    # Batches of another size may round differently.
    torch.testing.assert_close(found["conv"].features[:], maps.mean((2, 3)), atol=1e-6, rtol=0)
    torch.testing.assert_close(found["conv"].magnitudes[:], maps.abs().mean((2, 3)), atol=1e-6, rtol=0)
    torch.testing.assert_close(found["fc1"].features[:], hidden, atol=1e-6, rtol=0)
    torch.testing.assert_close(found["fc2.input"].features[:], hidden.relu(), atol=1e-6, rtol=0)
    assert found["fc1"].magnitudes is None
    assert found["conv"].labels.tolist() == dataset.labels.tolist()


def test_default_is_the_input_of_the_last_linear(encoder, dataset, tmp_path):
    assert list(extract(encoder, dataset, tmp_path / "a.h5").layers) == ["fc2.input"]


def test_hooks_are_gone_afterwards(encoder, dataset, tmp_path):
    extract(encoder, dataset, tmp_path / "a.h5", layers=["conv", "fc2.input"])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in encoder.module.modules())


def test_provenance(encoder, dataset, tmp_path):
    extract(encoder, dataset, tmp_path / "a.h5", layers=["conv"], seed=5, command="embedscope extract ...")
    with h5py.File(tmp_path / "a.h5") as file:
        provenance = json.loads(file["provenance"].asstr()[()])
    assert len(provenance["model"].pop("weights_sha256")) == 64
    assert len(provenance["model"].pop("sources")[str(Path(__file__).resolve())]) == 64
    assert provenance["model"].pop("libraries")["torch"] == torch.__version__
    assert provenance["model"] == dict.fromkeys(["checkpoint", "sha256", "origin", "code_sha256"]) | {
        "spec": "net.py:Net",
        "matched": [],
        "missing": [],
        "head": None,
    }
    assert provenance["layers"] == {"conv": {"type": "Conv2d", "pooling": "gap", "shape": [4, 3, 3]}}
    assert provenance["data"]["fingerprint"] == dataset.fingerprint
    assert {"device", "dtype", "autocast", "batch_size", "torch", "seed", "logits", "command", "embedscope", "created"} == set(
        provenance["run"]
    )
    assert provenance["run"]["seed"] == 5


def test_tokens_are_averaged(dataset, tmp_path):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Identity()

        def forward(self, x):
            return self.block(x[:, 0])

    encoder = encoder_of(Tokens())
    extract(encoder, dataset, tmp_path / "a.h5", layers=["block"])
    found = open_features([str(tmp_path / "a.h5")])[0]
    expected = torch.stack([to_input(dataset.inputs[row])[0].mean(0) for row in range(11)])
    torch.testing.assert_close(found.features[:], expected, atol=1e-6, rtol=0)


def test_layers_are_taken_before_they_are_changed_in_place(dataset, tmp_path):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(1)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            return self.relu(self.norm(x))

    extract(encoder_of(InPlace()), dataset, tmp_path / "a.h5", layers=["norm", "relu.input", "relu"])
    norm, given, relu = (features.features[:] for features in open_features([str(tmp_path / "a.h5")]))
    assert torch.equal(norm, given)
    assert norm.min() < 0
    assert relu.min() >= 0


def test_channels_of_one_dimensional_convolutions(tmp_path):
    np.savez(tmp_path / "d.npz", X=np.random.default_rng(0).normal(size=(6, 2, 9)).astype(np.float32), y=np.arange(6) % 2)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(2, 5, 3), nn.Flatten(), nn.Linear(35, 2))
    extract(encoder_of(module), open_dataset(str(tmp_path / "d.npz")), tmp_path / "a.h5", layers=["0"])
    (found,) = open_features([str(tmp_path / "a.h5")])
    x = torch.from_numpy(np.load(tmp_path / "d.npz")["X"])
    torch.testing.assert_close(found.features[:], module[0](x).detach().mean(2), atol=1e-6, rtol=0)
    assert found.provenance.layers["0"].pooling == "gap"


def test_default_is_the_last_linear_that_runs(dataset, tmp_path):
    class Spare(Net):
        def __init__(self):
            super().__init__()
            self.spare = nn.Linear(1, 1)

        def forward(self, x):
            return self.fc2(input=self.fc1(self.conv(x).mean((2, 3))))

    assert list(extract(encoder_of(Spare().eval()), dataset, tmp_path / "a.h5").layers) == ["fc2.input"]


def test_model_that_is_a_single_layer(tmp_path):
    np.savez(tmp_path / "d.npz", X=np.eye(4, dtype=np.float32), y=[0, 1, 0, 1])
    data = open_dataset(str(tmp_path / "d.npz"))
    assert dict(extract(encoder_of(nn.Linear(4, 3)), data, tmp_path / "a.h5").layers) == {"input": 4}
    assert dict(extract(encoder_of(nn.Linear(4, 3)), data, tmp_path / "b.h5", layers=["output"]).layers) == {"output": 3}


def test_rows_that_are_not_finite_are_counted(tmp_path):
    features = np.zeros((5, 2), np.float32)
    features[[1, 3]] = -1
    np.savez(tmp_path / "d.npz", X=features, y=[0, 1, 0, 1, 0])

    class Log(nn.Module):
        def forward(self, x):
            return torch.log(x + 1)

    done = extract(encoder_of(Log()), open_dataset(str(tmp_path / "d.npz")), tmp_path / "a.h5", layers=["output"], batch_size=2)
    assert done.not_finite == 2


@pytest.mark.parametrize("error", [AssertionError("no"), KeyError("x"), NotImplementedError()])
def test_model_that_fails_in_its_own_way(dataset, tmp_path, error):
    class Fails(Net):
        def forward(self, x):
            raise error

    with pytest.raises(InputError, match=f"does not take inputs of shape .*{type(error).__name__}"):
        extract(encoder_of(Fails()), dataset, tmp_path / "a.h5")


def test_store_may_not_be_called_npz(encoder, dataset, tmp_path):
    with pytest.raises(UsageError, match=r"a store is HDF5; name it .*a\.h5"):
        extract(encoder, dataset, tmp_path / "a.npz")


def test_unknown_layer_names_the_nearest(encoder, dataset, tmp_path):
    with pytest.raises(UsageError, match="no layer 'conf'; did you mean 'conv'"):
        extract(encoder, dataset, tmp_path / "a.h5", layers=["conf"])
    assert list(tmp_path.iterdir()) == [tmp_path / "data.npz"]


def test_no_linear_and_no_layer(dataset, tmp_path):
    with pytest.raises(UsageError, match="x has no Linear whose input could be the embedding"):
        extract(encoder_of(nn.Sequential(nn.Flatten())), dataset, tmp_path / "a.h5")


def test_data_that_the_model_does_not_take(dataset, tmp_path):
    encoder = encoder_of(nn.Sequential(nn.Linear(3, 2)), "linear")
    with pytest.raises(
        InputError, match=r"linear does not take inputs of shape \(1, 1, 5, 5\): RuntimeError: (addmm: )?mat1 and mat2"
    ):
        extract(encoder, dataset, tmp_path / "a.h5")
    assert list(tmp_path.iterdir()) == [tmp_path / "data.npz"]


def test_layer_that_mixes_samples(dataset, tmp_path):
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.all = nn.Flatten(0)

        def forward(self, x):
            return self.all(x)

    with pytest.raises(InputError, match="layer all gives 25 rows for 1 sample: its first axis"):
        extract(encoder_of(Mixer()), dataset, tmp_path / "a.h5", layers=["all"])


def test_layer_without_a_tensor(dataset, tmp_path):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = self.Inner()

        class Inner(nn.Module):
            def forward(self, x):
                return {"out": "text"}

        def forward(self, x):
            self.inner(x)
            return x

    with pytest.raises(InputError, match="layer inner gives dict, with no row per sample: expected a tensor"):
        extract(encoder_of(Words()), dataset, tmp_path / "a.h5", layers=["inner"])


def test_layer_that_is_never_run(dataset, tmp_path):
    class Idle(Net):
        def __init__(self):
            super().__init__()
            self.idle = nn.Linear(1, 1)

    with pytest.raises(InputError, match="layer idle did not run"):
        extract(encoder_of(Idle()), dataset, tmp_path / "a.h5", layers=["idle"])


def test_inputs_of_different_shape(encoder, tmp_path):
    from PIL import Image

    for name, size in (("a", (5, 5)), ("b", (6, 5))):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("L", size).save(tmp_path / "images" / name / "x.png")
    with pytest.raises(InputError, match=r"inputs differ in shape: a/x.png is \(1, 5, 5\), b/x.png is \(1, 5, 6\)"):
        extract(encoder, open_dataset(str(tmp_path / "images")), tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()
    assert not (tmp_path / "a.h5.partial").exists()


def test_existing_output(encoder, dataset, tmp_path):
    (tmp_path / "a.h5").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        extract(encoder, dataset, tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_text() == "mine"
    extract(encoder, dataset, tmp_path / "a.h5", overwrite=True)
    assert open_features([str(tmp_path / "a.h5")])[0].features.shape == (11, 6)


def test_batch_size_below_one(encoder, dataset, tmp_path):
    with pytest.raises(UsageError, match="`batch_size=` must be an integer of at least 1, got 0"):
        extract(encoder, dataset, tmp_path / "a.h5", batch_size=0)
