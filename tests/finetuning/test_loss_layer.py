"""A loss layer: what gini, class_kl and latent_boost read of a convolution, their gradient there, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from embedscope.data import open_dataset
from embedscope.errors import UsageError
from embedscope.finetuning import finetune
from embedscope.losses import READS, loss
from embedscope.losses.expression import build, reads
from embedscope.models.encoder import Encoder
from embedscope.models.network import Network, plan
from embedscope.models.preparation import Pixels


def network(loss_layer, *, layer=None, inplace=False, seed=0):
    torch.manual_seed(seed)
    module = nn.Sequential(
        *(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=inplace), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(27, 5), nn.Tanh(), nn.Linear(5, 4)),
    ).double()
    encoder = Encoder(module=module, prepare=Pixels(), spec="net")
    images = torch.randn(12, 1, 8, 8, dtype=torch.float64)
    return Network(encoder, plan(encoder, images[:1], layer, loss_layer), 4), images, torch.arange(12) % 4


def gini_by_hand(maps, labels):
    """Equations 1 to 3 of arXiv:2202.07073 in loops, with the absolute value inside of the pooling."""
    total = 0.0
    for channel in range(maps.shape[1]):
        means = []
        for each in labels.unique():
            rows = [row for row in range(len(maps)) if labels[row] == each]
            means.append(sum(maps[row, channel].abs().mean() for row in rows) / len(rows))
        total = total + 1 - sum((mean / sum(means)) ** 2 for mean in means)
    return total / maps.shape[1]


def kl_by_hand(maps, labels):
    """KL of the labels' histogram to that of the channels, as the authors' code has it."""
    classes, mass = labels.unique(), []
    for each in classes:
        share = 0.0
        for channel in range(maps.shape[1]):
            means = [maps[labels == one, channel].abs().mean() for one in classes]
            share = share + means[classes.tolist().index(each)] / sum(means)
        mass.append(share)
    counts = [(labels == each).double().mean() for each in classes]
    return sum(count * (count / (one / sum(mass))).log() for count, one in zip(counts, mass, strict=True))


@pytest.mark.parametrize("place", ["0", "1", "2"])
@pytest.mark.parametrize("inplace", [False, True])
def test_gradients_are_those_of_loops_over_the_maps(place, inplace):
    """An in-place ReLU after the layer changes neither; cross-entropy and the silhouette read logits and embedding still."""
    ours, images, labels = network(place, inplace=inplace)
    criterion = build("ce + 0.5*gini + 0.7*class_kl + 0.3*silhouette", 4, 5, ours.loss_widths)
    embedding, logits = ours(images)
    value = criterion(embedding, labels, logits, None, ours.loss_rows)
    value.backward()

    other, _, _ = network(place)
    seen, rows = {}, images
    for name, each in other.module.named_children():
        rows = seen[name] = each(rows)
    maps = seen[place]
    silhouette = build("silhouette", 4, 5)(seen["6"], labels, rows)
    wanted = nn.functional.cross_entropy(rows, labels) + 0.5 * gini_by_hand(maps, labels) + 0.7 * kl_by_hand(maps, labels)
    wanted = wanted + 0.3 * silhouette
    wanted.backward()
    torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-9)  # their code adds 1e-10 to a mass
    for (name, one), two in zip(ours.module.named_parameters(), other.module.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-8, atol=1e-9, msg=name)


def test_latent_boost_reads_the_rows_of_the_layer_as_they_are_pooled():
    for pooling, width, pooled in (("", 3, lambda maps: maps.mean((2, 3))), (":flatten", 27, lambda maps: maps.flatten(1))):
        ours, images, labels = network(f"3{pooling}")
        assert ours.loss_widths == (width, 3)
        embedding, logits = ours(images)
        value = build("latent_boost", 4, 5, ours.loss_widths)(embedding, labels, logits, None, ours.loss_rows)
        rows = pooled(ours.module[:4](images))
        torch.testing.assert_close(value, build("latent_boost", 4, width)(rows, labels, logits), rtol=1e-9, atol=1e-9)


def test_a_layer_without_positions_and_the_embedding_itself_can_be_read():
    ours, images, labels = network("5")
    embedding, logits = ours(images)
    linear = ours.module[:6](images)
    for one in ours.loss_rows:
        torch.testing.assert_close(one, linear)
    same, images, labels = network("6")
    embedding, logits = same(images)
    read = build("gini + latent_boost", 4, 5, same.loss_widths)(embedding, labels, logits, None, same.loss_rows)
    torch.testing.assert_close(read, build("gini + latent_boost", 4, 5)(embedding, labels, logits))


def test_there_is_one_forward_pass():
    ours, images, _ = network("0")
    calls = []
    ours.module[0].register_forward_hook(lambda *_: calls.append(1))
    ours(images)
    assert calls == [1]


def test_what_a_loss_reads_is_declared_beside_it():
    found = {name: reads(__import__(f"embedscope.losses.{name}", fromlist=[name]).__dict__[name]) for name in ("ce", "gini")}
    assert found == {"ce": "embedding", "gini": "magnitudes"}
    assert READS[0] == "embedding"
    with pytest.raises(ValueError, match="the `reads` of a loss must be one of embedding, layer, magnitudes, got rows"):
        loss(reference="doi:none", reads="rows")


@pytest.fixture
def data(tmp_path, digits):
    images, labels = digits
    keep = np.flatnonzero(labels.numpy() < 3)[:120]
    np.savez(tmp_path / "data.npz", X=(images[keep].reshape(-1, 1, 8, 8).numpy() * 15).astype(np.uint8), y=labels[keep].numpy())
    return open_dataset(str(tmp_path / "data.npz"))


def encoder():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6), nn.Tanh(), nn.Linear(6, 3))
    return Encoder(module=module, prepare=Pixels(), spec="net")


SETTINGS = {"epochs": 2, "batch_size": 32, "device": "cpu", "metrics": "silhouette"}


def test_a_training_with_a_loss_layer_moves_the_convolution_otherwise(tmp_path, data):
    after = {}
    for layer in (None, "1"):
        result = finetune(
            encoder(), data, tmp_path / f"run-{layer}", objectives="ce + gini", loss_layer=layer, weight_decay=0, **SETTINGS
        )
        after[layer] = result.objectives[0].trials[0].after["silhouette"]
        assert result.options["loss_layer"] == layer
    assert after[None] != after["1"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objectives": "ce"}, "`loss_layer=` is only used by class_kl, gini, latent_boost, and no objective has any"),
        ({"loss_layer": "conv"}, "no layer 'conv'"),
        ({"loss_layer": "*"}, r"only one layer is read by the losses, but '\*' is a pattern"),
        ({"loss_layer": "5"}, "before the classifier"),
        ({"loss_layer": "output"}, "before the classifier"),
        ({"train": "head"}, "with train='head' no layer up to `loss_layer=0`"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, data, settings, message):
    settings = {"objectives": "ce + gini", "loss_layer": "0", **SETTINGS, **settings}
    with pytest.raises(UsageError, match=message):
        finetune(encoder(), data, tmp_path / "run", **settings)


def test_a_head_has_no_loss_layer(tmp_path, blobs):
    with pytest.raises(UsageError, match="`loss_layer=` applies to networks"):
        finetune(*blobs, tmp_path / "run", objectives="gini", loss_layer="0")


def test_in_bfloat16_the_losses_read_float32_and_gradients_reach_the_layer():
    ours, images, labels = network("0")
    ours.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedding, logits = ours(images)
    assert {each.dtype for each in (embedding, logits, *ours.loss_rows)} == {torch.float32}
    build("gini + class_kl", 4, 5, ours.loss_widths)(embedding, labels, logits, None, ours.loss_rows).backward()
    assert ours.module[0].weight.grad.abs().sum() > 0
    assert ours.module[5].weight.grad.abs().sum() == 0  # what comes after the layer has no part in them
