import json

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from embedscope.data import open_dataset
from embedscope.errors import InputError, OutputError, UsageError
from embedscope.extraction import extract
from embedscope.models.transforms import to_input
from embedscope.records import Encoder
from embedscope.store import open_features


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc1 = nn.Linear(4, 6)
        self.fc2 = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc2(self.fc1(self.conv(x).mean((2, 3))).relu())


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return Encoder(Net().eval(), to_input, "net.py:Net")


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
    assert provenance["model"] == {"spec": "net.py:Net", "checkpoint": None, "sha256": None, "matched": []}
    assert provenance["layers"] == {"conv": {"type": "Conv2d", "pooling": "gap", "shape": [4, 3, 3]}}
    assert provenance["data"]["fingerprint"] == dataset.fingerprint
    assert {"device", "dtype", "torch", "seed", "command", "embedscope", "created"} == set(provenance["run"])
    assert provenance["run"]["seed"] == 5


def test_tokens_are_averaged(dataset, tmp_path):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Identity()

        def forward(self, x):
            return self.block(x[:, 0])

    encoder = Encoder(Tokens(), to_input, "tokens")
    extract(encoder, dataset, tmp_path / "a.h5", layers=["block"])
    found = open_features([str(tmp_path / "a.h5")])[0]
    expected = torch.stack([to_input(dataset.inputs[row])[0].mean(0) for row in range(11)])
    torch.testing.assert_close(found.features[:], expected, atol=1e-6, rtol=0)


def test_unknown_layer_names_the_nearest(encoder, dataset, tmp_path):
    with pytest.raises(UsageError, match="no layer 'conf'; did you mean 'conv'"):
        extract(encoder, dataset, tmp_path / "a.h5", layers=["conf"])
    assert list(tmp_path.iterdir()) == [tmp_path / "data.npz"]


def test_no_linear_and_no_layer(dataset, tmp_path):
    with pytest.raises(UsageError, match="the model has no Linear whose input could be the embedding"):
        extract(Encoder(nn.Sequential(nn.Flatten()), to_input, "x"), dataset, tmp_path / "a.h5")


def test_data_that_the_model_does_not_take(dataset, tmp_path):
    encoder = Encoder(nn.Sequential(nn.Linear(3, 2)), to_input, "linear")
    with pytest.raises(InputError, match=r"linear does not take inputs of shape \(1, 1, 5, 5\): mat1 and mat2"):
        extract(encoder, dataset, tmp_path / "a.h5")
    assert list(tmp_path.iterdir()) == [tmp_path / "data.npz"]


def test_layer_that_mixes_samples(dataset, tmp_path):
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.all = nn.Flatten(0)

        def forward(self, x):
            return self.all(x)

    with pytest.raises(InputError, match="layer all gives 275 rows for 11 samples"):
        extract(Encoder(Mixer(), to_input, "mixer"), dataset, tmp_path / "a.h5", layers=["all"])


def test_layer_without_a_tensor(dataset, tmp_path):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = self.Inner()

        class Inner(nn.Module):
            def forward(self, x):
                return {"out": x}

        def forward(self, x):
            return self.inner(x)["out"]

    with pytest.raises(InputError, match="layer inner gives dict, expected a tensor"):
        extract(Encoder(Words(), to_input, "words"), dataset, tmp_path / "a.h5", layers=["inner"])


def test_layer_that_is_never_run(dataset, tmp_path):
    class Idle(Net):
        def __init__(self):
            super().__init__()
            self.idle = nn.Linear(1, 1)

    with pytest.raises(InputError, match="layer idle did not run"):
        extract(Encoder(Idle(), to_input, "idle"), dataset, tmp_path / "a.h5", layers=["idle"])


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
    with pytest.raises(UsageError, match="the batch size has to be at least 1, got 0"):
        extract(encoder, dataset, tmp_path / "a.h5", batch_size=0)
