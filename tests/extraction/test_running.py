"""What a run does beside the forward pass: memory, precision, weights that are missing, inputs that cannot be read."""

import shutil
from collections import namedtuple
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from embedscope.data.dataset import Dataset
from embedscope.errors import InputError, OutputError, UsageError
from embedscope.extraction import extract
from embedscope.extraction.running import Runner
from embedscope.models.encoder import Encoder, Weights
from embedscope.models.preparation import Pixels
from embedscope.progress import silent
from embedscope.store import read_features


class Rows:
    """Inputs that are made when they are asked for; some cannot be read."""

    def __init__(self, count, broken=(), shape=(6,)):
        self.count, self.broken, self.shape = count, broken, shape

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.broken:
            raise InputError(f"cannot read the image row{index}.png: broken")
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(index))


def data(count=20, broken=(), shape=(6,)):
    labels = np.arange(count) % 3
    ids = [f"row{row}" for row in range(count)]
    return Dataset(Rows(count, broken, shape), labels, ("a", "b", "c"), ids, ["x"] * count, "here", "f" * 64)


def linear(width=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3)).eval()


def encoder(module=None, **changes):
    return replace(Encoder(module or linear(), Pixels(), "net"), **changes)


def features(path, layer=None):
    return read_features(str(path), layer=layer).features[:]


class Narrow(nn.Module):
    """Fails like a device without memory for more than some rows."""

    def __init__(self, rows, error):
        super().__init__()
        self.inner, self.rows, self.error, self.sizes = linear(), rows, error, []

    def forward(self, x):
        if len(x) > self.rows:
            raise self.error
        self.sizes.append(len(x))
        return self.inner(x)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 byte")]
)
def test_batches_are_halved_when_memory_runs_out(tmp_path, error):
    module, said = Narrow(3, error), []
    extract(encoder(module), data(), tmp_path / "a.h5", layers=["inner.0"], batch_size=16, say=said.append)
    assert set(module.sizes[2:]) == {2}
    assert said == [
        "out of memory with 16 rows per forward pass; continuing with 8",
        "out of memory with 8 rows per forward pass; continuing with 4",
        "out of memory with 4 rows per forward pass; continuing with 2",
    ]
    extract(encoder(), data(), tmp_path / "b.h5", layers=["0"])
    torch.testing.assert_close(features(tmp_path / "a.h5"), features(tmp_path / "b.h5"), atol=1e-6, rtol=0)


def test_not_even_one_row_fits(tmp_path):
    module = Narrow(1, torch.OutOfMemoryError("CUDA out of memory"))
    run = Runner(encoder(module), device="cpu", say=silent)
    with run:
        run.plan(torch.zeros(1, 6), ["inner.0"], pooling="auto", logits=False, allow_partial=False)
        module.rows = 0
        with pytest.raises(InputError, match="net does not fit into the memory of cpu"):
            run(torch.zeros(4, 6))


def test_automatic_batch_size_follows_the_free_memory(tmp_path, monkeypatch):
    # 4 + 4 + 3 outputs of 4 bytes a row; a quarter of 16 rows' bytes may be used.
    monkeypatch.setattr("embedscope.devices.free_memory", lambda device: 4 * 16 * 44 + 1)
    assert extract(encoder(), data(), tmp_path / "a.h5", batch_size=None, device="cpu").batch_size == 16
    monkeypatch.setattr("embedscope.devices.free_memory", lambda device: 10**12)
    assert extract(encoder(), data(), tmp_path / "b.h5", batch_size=None, device="cpu").batch_size == 256


class Fixed(nn.Module):
    def forward(self, x):
        assert len(x) == 8, len(x)
        return x * 2


def test_model_of_one_batch_size(tmp_path):
    done = extract(encoder(Fixed(), batch_size=8), data(), tmp_path / "a.h5", layers=["output"])
    assert done.batch_size == 8
    expected = torch.stack([data().inputs[row] * 2 for row in range(20)])
    assert torch.equal(features(tmp_path / "a.h5"), expected)


def test_half_precision_in_the_store(tmp_path):
    extract(encoder(), data(), tmp_path / "a.h5", layers=["0"])
    extract(encoder(), data(), tmp_path / "b.h5", layers=["0"], dtype="float16")
    found = features(tmp_path / "b.h5")
    assert found.dtype == torch.float16
    assert torch.equal(found, features(tmp_path / "a.h5").half())


def test_beyond_half_precision_is_counted(tmp_path):
    class Big(nn.Module):
        def forward(self, x):
            return x * 1e6

    assert extract(encoder(Big()), data(), tmp_path / "a.h5", layers=["output"], dtype="float16").not_finite == 20


def test_autocast(tmp_path):
    extract(encoder(), data(), tmp_path / "a.h5", layers=["0"])
    extract(encoder(), data(), tmp_path / "b.h5", layers=["0"], amp=True, device="cpu")
    exact, rounded = features(tmp_path / "a.h5"), features(tmp_path / "b.h5")
    assert not torch.equal(exact, rounded)
    # bfloat16 has 8 bits: a sum of six products of numbers about 1 is off by about 1e-2.
    torch.testing.assert_close(exact, rounded, atol=3e-2, rtol=0)
    assert read_features(str(tmp_path / "b.h5")).provenance.run.autocast == "bfloat16"


def test_deterministic_is_asked_of_torch_and_taken_back(tmp_path):
    seen = []

    class Asks(nn.Module):
        def forward(self, x):
            seen.append(torch.are_deterministic_algorithms_enabled())
            return x

    extract(encoder(Asks()), data(), tmp_path / "a.h5", layers=["output"], deterministic=True)
    assert set(seen) == {True}
    assert not torch.are_deterministic_algorithms_enabled()


def test_seed_of_models_that_draw(tmp_path):
    class Draws(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        extract(encoder(Draws()), data(), tmp_path / f"{name}.h5", layers=["output"], seed=seed)
    assert torch.equal(features(tmp_path / "a.h5"), features(tmp_path / "b.h5"))
    assert not torch.equal(features(tmp_path / "a.h5"), features(tmp_path / "c.h5"))


def test_logits(tmp_path):
    module = linear()
    extract(encoder(module), data(), tmp_path / "a.h5", logits=True, batch_size=20)
    expected = module(torch.stack([data().inputs[row] for row in range(20)]))
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["logits"][:], expected.detach().numpy())
        assert list(file["features"]) == ["2.input"]


def test_logits_of_a_model_without(tmp_path):
    with pytest.raises(UsageError, match=r"net has no logits: it gives \(4, 5, 5\) per sample"):
        extract(encoder(nn.Conv2d(1, 4, 1)), data(shape=(1, 5, 5)), tmp_path / "a.h5", layers=["output"], logits=True)


@pytest.mark.parametrize(
    ("missing", "layer", "refused"),
    [
        (("2.weight", "2.bias"), "2.input", None),
        (("2.weight", "2.bias"), "2", r"layer 2 depends on 2 tensors that w.pt does not fill \(2.weight, 2.bias\)"),
        (("0.bias", "2.bias"), "2.input", r"layer 2.input depends on 1 tensor that w.pt does not fill \(0.bias\)"),
    ],
)
def test_weights_that_the_layers_depend_on(tmp_path, missing, layer, refused):
    module = linear()
    held = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    given = encoder(module, weights=Weights(file="w.pt", missing=missing))
    if refused is None:
        extract(given, data(), tmp_path / "a.h5", layers=[layer])
    else:
        with pytest.raises(InputError, match=refused):
            extract(given, data(), tmp_path / "a.h5", layers=[layer])
        extract(given, data(), tmp_path / "a.h5", layers=[layer], allow_partial=True)
    assert all(torch.equal(tensor, held[name]) for name, tensor in module.state_dict().items())


def test_buffers_that_the_layers_depend_on(tmp_path):
    module = nn.Sequential(nn.BatchNorm1d(6, affine=False), nn.Identity()).eval()
    given = encoder(module, weights=Weights(file="w.pt", missing=("0.running_var", "0.num_batches_tracked")))
    with pytest.raises(InputError, match=r"depends on 1 tensor .* \(0.running_var\)"):
        extract(given, data(), tmp_path / "a.h5", layers=["1"])


@pytest.mark.parametrize("hides", [lambda x: (x > 0).float(), lambda x: x.nan_to_num(0.0)])
def test_weights_behind_what_hides_nan(tmp_path, hides):
    class Hides(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 40), nn.Linear(40, 4)

        def forward(self, x):
            return self.b(hides(self.a(x)))

    torch.manual_seed(0)
    given = encoder(Hides(), weights=Weights(file="w.pt", missing=("a.weight", "a.bias")))
    with pytest.raises(InputError, match="depends on"):
        extract(given, data(), tmp_path / "a.h5", layers=["b"])


class Odd(nn.Module):
    """What a layer may do that a row a sample cannot be loaded of, by name."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.inner, self.blocks = kind, nn.Identity(), nn.ModuleList([nn.Identity(), nn.Identity()])
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.kind == "sequence first":
            self.inner(x.reshape(len(x), 3, 2).transpose(0, 1))
        elif self.kind == "complex":
            self.inner(torch.fft.fft(x))
        elif self.kind == "sometimes" and len(x) > 4:
            pass
        else:
            self.inner(x)
        return self.blocks[1](self.blocks[0](x))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sequence first", "layer inner gives 3 rows for 1 sample: its first axis is not the batch"),
        ("complex", "layer inner gives complex numbers"),
        ("sometimes", "layer inner ran for the first input, but not for all of them"),
    ],
)
def test_layers_without_a_row_a_sample(tmp_path, kind, message):
    with pytest.raises(InputError, match=message):
        extract(encoder(Odd(kind)), data(), tmp_path / "a.h5", layers=["inner"], batch_size=8)
    assert not list(tmp_path.iterdir())


def test_pattern_leaves_out_containers_that_never_run(tmp_path):
    assert list(extract(encoder(Odd("")), data(), tmp_path / "a.h5", layers=["blocks**"]).layers) == ["blocks.0", "blocks.1"]


def test_module_that_runs_twice_is_told(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(self.act(x)[:, :3])

    said = []
    extract(encoder(Twice()), data(), tmp_path / "a.h5", layers=["act"], say=said.append)
    assert said == ["layer act runs 2 times in a forward pass; the last call is used"]


def test_name_with_a_slash(tmp_path):
    module = nn.ModuleDict({"a/b": nn.Linear(6, 3)})
    module.forward = lambda x: module["a/b"](x)
    assert list(extract(encoder(module), data(), tmp_path / "a.h5", layers=["a/b"]).layers) == ["a.b"]


def test_model_in_double_precision(tmp_path):
    extract(encoder(linear().double()), data(), tmp_path / "a.h5", layers=["0"])
    extract(encoder(), data(), tmp_path / "b.h5", layers=["0"])
    torch.testing.assert_close(features(tmp_path / "a.h5"), features(tmp_path / "b.h5"), atol=1e-6, rtol=0)


def test_model_without_values(tmp_path):
    with pytest.raises(InputError, match="net is on the meta device"):
        extract(encoder(linear().to("meta")), data(), tmp_path / "a.h5")


def test_lazy_and_three_dimensional_convolutions(tmp_path):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat, self.deep, self.lazy = nn.LazyConv2d(3, 1), nn.Conv3d(1, 2, 1), nn.LazyLinear(4)

        def forward(self, x):
            return self.lazy(self.deep(self.flat(x)[:, None]).flatten(1))

    assert extract(encoder(Mixed()), data(shape=(2, 3, 3)), tmp_path / "a.h5", layers=["lazy", "deep"]).rows == 20


def test_killed_worker_is_one_line(tmp_path):
    class Kills(Rows):
        def __getitem__(self, index):
            import os

            if index == 9:
                os._exit(9)
            return super().__getitem__(index)

    given = replace(data(), inputs=Kills(20))
    with pytest.raises(InputError, match="a data-loading process was killed, probably out of memory"):
        extract(encoder(), given, tmp_path / "a.h5", batch_size=2, workers=1)


def test_input_that_cannot_be_read_stops(tmp_path):
    with pytest.raises(InputError, match=r"cannot read the image row7.png: broken; pass `on_error='skip'`"):
        extract(encoder(), data(broken=(7,)), tmp_path / "a.h5", batch_size=4)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_inputs_that_cannot_be_read_are_skipped_and_listed(tmp_path, workers, batch_size):
    broken = (0, 7, 8, 19)
    done = extract(encoder(), data(broken=broken), tmp_path / "a.h5", batch_size=batch_size, on_error="skip", workers=workers)
    extract(encoder(), data(), tmp_path / "b.h5", batch_size=batch_size)
    kept = [row for row in range(20) if row not in broken]
    found, whole = read_features(str(tmp_path / "a.h5")), read_features(str(tmp_path / "b.h5"))
    # Batches that lack a row are of another size, and may round differently.
    torch.testing.assert_close(found.features[:], whole.features[:][kept], atol=1e-6, rtol=0)
    assert found.ids.tolist() == [f"row{row}" for row in kept]
    assert found.labels.tolist() == [row % 3 for row in kept]
    assert len(found.split) == 16
    assert (done.rows, list(done.skipped)) == (16, [f"row{row}" for row in broken])
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["skipped/ids"].asstr()[:].tolist() == [f"row{row}" for row in broken]
        assert "broken" in file["skipped/reasons"].asstr()[0]
        assert file["rows/done"][()] == 16


def test_no_input_can_be_read(tmp_path):
    with pytest.raises(InputError, match="none of the 5 inputs of here can be read"):
        extract(encoder(), data(5, broken=range(5)), tmp_path / "a.h5", on_error="skip")


def test_preparation_that_fails_names_the_input(tmp_path):
    class Picky(Pixels):
        def __call__(self, items):
            if any(item[0] == data().inputs[5][0] for item in items):
                raise ZeroDivisionError("no")
            return super().__call__(items)

    given = encoder(prepare=Picky())
    with pytest.raises(InputError, match="row5 cannot be prepared for the model: ZeroDivisionError: no"):
        extract(given, data(), tmp_path / "a.h5")
    assert list(extract(given, data(), tmp_path / "a.h5", on_error="skip").skipped) == ["row5"]


def test_workers_do_not_change_anything(tmp_path):
    for workers in (0, 1, 3):
        extract(encoder(), data(50), tmp_path / f"{workers}.h5", batch_size=8, workers=workers)
    first = read_features(str(tmp_path / "0.h5"))
    for workers in (1, 3):
        found = read_features(str(tmp_path / f"{workers}.h5"))
        assert torch.equal(found.features[:], first.features[:])
        assert found.ids.tolist() == first.ids.tolist()


def test_limit_is_spread_over_the_data(tmp_path):
    assert extract(encoder(), data(), tmp_path / "a.h5", limit=3).rows == 3
    found = read_features(str(tmp_path / "a.h5"))
    assert found.ids.tolist() == ["row0", "row10", "row19"]
    assert found.provenance.data.limit == 3
    assert extract(encoder(), data(), tmp_path / "b.h5", limit=30).rows == 20


def test_disk_without_room(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(100, 50, 50))
    with pytest.raises(OutputError, match=r"would take 0.0 MB and .* has room for 0.0 MB .*; choose another place"):
        extract(encoder(), data(), tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "no dtype 'float8'"),
        ({"on_error": "ignore"}, "^`on_error=` must be stop or skip, got 'ignore'$"),
        ({"workers": -1}, "`workers=` must be an integer of at least 0, got -1"),
        ({"limit": 0}, "`limit=` must be an integer of at least 1, got 0"),
        ({"pooling": "max"}, "no pooling 'max'"),
    ],
)
def test_options_out_of_their_range(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        extract(encoder(), data(), tmp_path / "a.h5", **options)


def test_masked_tokens(tmp_path):
    """A model of text: padded batches, and means over what is not padding."""

    class Tokens:
        text = "one number a letter"

        def __call__(self, items):
            longest = max(map(len, items))
            ids = torch.tensor([[ord(letter) for letter in item] + [0] * (longest - len(item)) for item in items])
            return {"input_ids": ids, "attention_mask": (ids > 0).long()}

    class Embeds(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(128, 4)

        def forward(self, input_ids, attention_mask):
            return {"last": self.table(input_ids)}

    class Words:
        words = ("a", "bcd", "ef", "ghijk")

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return self.words[index]

        def batch(self, rows):
            return [self.words[row] for row in rows]

    torch.manual_seed(0)
    module = Embeds()
    given = encoder(module, prepare=Tokens(), embedding="output")
    texts = replace(data(4), inputs=Words())
    extract(given, texts, tmp_path / "a.h5", batch_size=4)
    extract(given, texts, tmp_path / "b.h5", batch_size=1)
    expected = torch.stack([module.table.weight[[ord(letter) for letter in word]].mean(0) for word in Words.words])
    for name in ("a", "b"):
        torch.testing.assert_close(features(tmp_path / f"{name}.h5"), expected.detach(), atol=1e-6, rtol=0)
    with pytest.raises(InputError, match="gives 12 values per row here, but gave 4"):
        extract(given, texts, tmp_path / "c.h5", batch_size=2, layers=["table:flatten"])


def test_model_that_needs_the_usual_order_in_memory(tmp_path):
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 3, 3), nn.Linear(3 * 16, 4)

        def forward(self, x):
            return self.fc(self.conv(x).view(len(x), -1))

    torch.manual_seed(0)
    module = Views()
    extract(encoder(module), data(shape=(2, 6, 6)), tmp_path / "a.h5", layers=["output"], batch_size=20, device="cpu")
    expected = module(torch.stack([data(shape=(2, 6, 6)).inputs[row] for row in range(20)])).detach()
    torch.testing.assert_close(features(tmp_path / "a.h5"), expected, atol=1e-6, rtol=0)


def test_layout_of_the_weights_is_put_back(tmp_path):
    seen = []

    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3)

        def forward(self, x):
            seen.append(self.conv.weight.is_contiguous(memory_format=torch.channels_last))
            return self.conv(x)

    module = Looks()
    extract(encoder(module), data(shape=(2, 6, 6)), tmp_path / "a.h5", layers=["output"], device="cpu")
    assert set(seen) == {True}
    assert module.conv.weight.is_contiguous()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_agrees_with_the_cpu(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.Flatten(), nn.Linear(32 * 36, 10)).eval()
    for device in ("cpu", "cuda"):
        extract(encoder(module), data(shape=(1, 10, 10)), tmp_path / f"{device}.h5", layers=["2", "4"], device=device)
    for layer in ("2", "4"):
        # float32 without TF32: sums of up to 1,152 products in another order.
        torch.testing.assert_close(
            features(tmp_path / "cpu.h5", layer), features(tmp_path / "cuda.h5", layer), atol=2e-5, rtol=1e-5
        )
