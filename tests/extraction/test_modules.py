"""extract for any nn.Module and any loader: the numbers, the shapes of batches, and that nothing is left behind."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from embedscope import extract, finetune, open_features, score
from embedscope.errors import InputError, OutputError, UsageError
from embedscope.models.encoder import Encoder
from embedscope.models.preparation import Pixels


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 3)
        self.cache = None

    def forward(self, x):
        if self.cache is None:
            self.cache = torch.ones(4)  # as rotary embeddings do
        maps = self.norm(self.conv(x)).relu()
        return self.fc(self.drop(maps.mean((2, 3))) * self.cache)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(30, 1, 6, 6, generator=generator), torch.arange(30) % 3


def expected(net, rows):
    net.eval()
    with torch.no_grad():
        found = net.norm(net.conv(rows)).relu()
        return found.mean((2, 3)), found.abs().mean((2, 3))


def test_features_are_those_of_the_forward_pass(net, images):
    loader = DataLoader(TensorDataset(*images), batch_size=7)
    entry, maps = extract(net, loader, layers=["fc.input", "norm"])
    wanted, _ = expected(net, images[0])
    torch.testing.assert_close(entry.features, wanted)
    assert (entry.layer, entry.name, entry.source) == ("fc.input", "fc.input", "Net")
    assert list(entry.labels) == images[1].tolist()
    assert list(entry.ids[:3]) == ["0", "1", "2"]
    assert entry.magnitudes is None
    assert maps.magnitudes.shape == (30, 4)
    assert maps.provenance.layers["norm"].pooling == "gap"
    assert repr(entry) == "FeatureSet 'fc.input': 30 x 4 float32, 3 classes, layer fc.input of Net"


def test_by_default_the_embedding_is_taken(net, images):
    (found,) = extract(net, [images])
    assert found.layer == "fc.input"


def test_a_string_is_one_layer(net, images):
    (found,) = extract(net, [images], layers="norm")
    assert found.layer == "norm"


def test_everything_is_left_as_it_was(net, images):
    net.train()
    net.norm.eval()
    net(images[0]).sum().backward()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    parameters, layouts = list(net.parameters()), [parameter.stride() for parameter in net.parameters()]
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002

    class Noisy(TensorDataset):
        def __getitem__(self, index):
            rows, label = super().__getitem__(index)
            return rows + np.random.rand() + random.random() + torch.rand(()), label  # noqa: NPY002

    extract(net, DataLoader(Noisy(*images), batch_size=8, shuffle=True), layers=["fc.input", "conv"])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]
    assert [each.training for each in (net, net.conv, net.norm, net.drop, net.fc)] == [True, True, False, True, True]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(parameter.grad, grad) for parameter, grad in zip(net.parameters(), gradients, strict=True))
    assert all(one is other for one, other in zip(net.parameters(), parameters, strict=True))
    assert [parameter.stride() for parameter in net.parameters()] == layouts
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in net.modules())
    assert torch.is_grad_enabled()


def test_a_module_that_fails_is_left_as_it_was_too(net, images):
    net.train()
    with pytest.raises(InputError, match="Net does not take inputs of shape"):
        extract(net, [(torch.zeros(2, 5), torch.arange(2))])
    assert net.training
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in net.modules())


def test_what_a_module_caches_can_be_trained_with(net, images):
    extract(net, [images])
    assert not net.cache.is_inference()
    net.train()(images[0]).sum().backward()


def test_shuffled_rows_keep_their_labels_and_the_order_repeats(net, images):
    rows, labels = images
    loader = DataLoader(TensorDataset(rows, labels), batch_size=8, shuffle=True)
    (one,), (other,) = (extract(net, loader, seed=5) for _ in range(2))
    assert torch.equal(one.features, other.features)
    assert list(one.labels) != labels.tolist()
    wanted, _ = expected(net, rows)
    for row, label in zip(one.features, one.labels, strict=True):
        distances = (wanted - row).norm(dim=1)
        assert distances.min() < 1e-5
        assert labels[distances.argmin()] == label


@pytest.mark.parametrize("given", ["pair", "list", "triple", "mapping", "named", "texts", "numpy", "column"])
def test_batches_of_any_shape(net, images, given):
    rows, labels = images
    names = np.array(["a", "b", "c"])[labels].tolist()
    batch = {
        "pair": (rows, labels),
        "list": [rows, labels.tolist()],
        "triple": (rows, labels, [f"image{row}" for row in range(30)]),
        "mapping": {"image": rows, "label": labels, "id": torch.arange(100, 130)},
        "named": {"x": rows, "unused": torch.zeros(30), "labels": labels},
        "texts": (rows, names),
        "numpy": (rows.numpy(), labels.numpy()),
        "column": (rows, labels[:, None]),
    }[given]
    (found,) = extract(net, [batch])
    torch.testing.assert_close(found.features, expected(net, rows)[0])
    assert list(found.labels) == labels.tolist()
    assert found.class_names == (("a", "b", "c") if given == "texts" else ("0", "1", "2"))
    assert found.ids[1] == {"triple": "image1", "mapping": "101"}.get(given, "1")


def test_several_inputs_come_by_name_or_in_order():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, left, right):
            return self.fc(left - right)

    left, right, labels = torch.ones(4, 2), torch.rand(4, 2), [0, 1, 0, 1]
    for inputs in ((left, right), {"right": right, "left": left}):
        (found,) = extract(Two(), [(inputs, labels)])
        torch.testing.assert_close(found.features, left - right)


def test_classes_are_named_by_the_data_set(net, images):
    data = TensorDataset(*images)
    data.classes = ["ant", "bee", "cat", "dog"]
    (found,) = extract(net, DataLoader(data, batch_size=30))
    assert found.class_names == ("ant", "bee", "cat")


def test_wrapped_modules_have_the_names_of_the_model(net, images):
    (found,) = extract(nn.DataParallel(net), [images], layers="fc.input")
    assert found.layer == "fc.input"


def test_limit_takes_the_first_rows(net, images):
    (found,) = extract(net, DataLoader(TensorDataset(*images), batch_size=8), limit=10)
    assert list(found.labels) == images[1][:10].tolist()


def test_float16_is_rounded(net, images):
    (found,) = extract(net, [images], dtype="float16")
    assert found.features.dtype == torch.float16


def test_features_go_on_to_score_and_finetune(net, images):
    found = extract(net, [images], layers=["fc.input", "conv"])
    assert [each.name for each in score(found, metrics="silhouette")] == ["fc.input", "conv"]
    assert finetune(found[0], objectives="ce", epochs=1, device="cpu", metrics="silhouette").data.layer == "fc.input"


def test_output_writes_a_store_with_the_same_rows(net, images, tmp_path):
    path = tmp_path / "features.h5"
    wanted = extract(net, [images], layers=["fc.input", "norm"])
    written = extract(net, [images], path, layers=["fc.input", "norm"])
    assert (written.path, written.rows, dict(written.layers)) == (path, 30, {"fc.input": 4, "norm": 4})
    assert hash(written) == hash(written)
    for one, other in zip(open_features([str(path)]), wanted, strict=True):
        assert torch.equal(one.features[:], other.features)
        assert (one.layer, one.class_names, list(one.ids)) == (other.layer, other.class_names, list(other.ids))
        assert (one.magnitudes is None) == (other.magnitudes is None)
        assert one.provenance.model.spec == "Net"
    with pytest.raises(OutputError, match="exists"):
        extract(net, [images], path)
    assert extract(net, [images], path, overwrite=True, limit=3).rows == 3


def test_a_loader_without_rows_is_refused(net):
    with pytest.raises(InputError, match="the loader gave no batch with rows; an it"):
        extract(net, iter([]))


def test_batches_without_labels_are_refused(net, images):
    with pytest.raises(UsageError, match=r"a loader must yield \(inputs, labels\).*it yielded Tensor"):
        extract(net, [images[0]])


def test_mappings_without_labels_are_refused(net, images):
    with pytest.raises(UsageError, match="the batches have x but no labels; name them one of labels"):
        extract(net, [{"x": images[0]}])


def test_labels_of_another_length_are_refused(net, images):
    with pytest.raises(InputError, match=r"a batch of the loader has 30 rows and labels of shape \(5,\)"):
        extract(net, [(images[0], images[1][:5])])


def test_inputs_that_forward_does_not_take_are_refused(net, images):
    with pytest.raises(UsageError, match="Net takes x, but the batches have a, b"):
        extract(net, [{"a": images[0], "b": images[0], "label": images[1]}])


def test_an_option_of_data_sets_is_refused(net, images):
    with pytest.raises(UsageError, match="`workers=` applies to an encoder and a data set"):
        extract(net, [images], workers=2)


def test_an_encoder_needs_a_data_set(net, images):
    with pytest.raises(UsageError, match="an encoder takes a data set"):
        extract(Encoder(net, Pixels(), "net"), [images], "features.h5")


def test_an_unknown_layer_is_named(net, images):
    with pytest.raises(UsageError, match=r"no layer 'fcc'; did you mean 'fc'"):
        extract(net, [images], layers="fcc")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_module_comes_back_to_its_device(net, images):
    (there,) = extract(net, [images], device="cuda")
    assert next(net.parameters()).device.type == "cpu"
    (here,) = extract(net, [images])
    torch.testing.assert_close(there.features, here.features, atol=1e-4, rtol=1e-4)
    net.cuda()
    extract(net, [images])
    assert next(net.parameters()).device.type == "cuda"
