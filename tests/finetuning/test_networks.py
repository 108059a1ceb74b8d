"""Whole networks in training: the same steps by hand, and what is frozen, resized, measured and kept."""

import copy
import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from embedscope.cli import main
from embedscope.data import open_dataset
from embedscope.errors import InputError, UsageError
from embedscope.evaluation import evaluate
from embedscope.extraction import extract
from embedscope.finetuning import finetune
from embedscope.finetuning.config import TrainingConfig
from embedscope.finetuning.inputs import Coded, InputBank, Live, prepare_inputs
from embedscope.finetuning.sampling import Shuffled
from embedscope.models import open_model
from embedscope.models.encoder import Encoder
from embedscope.models.head import open_head
from embedscope.models.network import Network, blocks_of, plan
from embedscope.models.preparation import Pixels
from embedscope.progress import untracked
from embedscope.store import read_features
from embedscope.store.runs import RunWriter

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=4, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.embed = nn.Linear(4 * 36, 6)
        self.drop = nn.Dropout(0.1 if norm else 0.0)
        self.classify = nn.Linear(6, classes)

    def forward(self, images):
        maps = torch.relu(self.norm(self.conv(images)))
        return self.classify(self.drop(torch.tanh(self.embed(maps.flatten(1)))))

class Encode(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3)

    def forward(self, images):
        return torch.relu(self.conv(images))
"""


@pytest.fixture
def data(tmp_path, digits):
    """240 digits of three classes, 60 of them in the split test."""
    images, labels = digits
    keep = np.flatnonzero(labels.numpy() < 3)[:240]
    path = tmp_path / "data.npz"
    split = np.where(np.arange(240) % 4 == 3, "test", "train")
    shade = (images[keep].reshape(-1, 1, 8, 8).numpy() * 15).astype(np.uint8)
    np.savez(path, X=shade, y=labels[keep].numpy(), split=split)
    return path


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "network_in_training.py"
    path.write_text(CODE)
    return f"{path}:Net"


@pytest.fixture
def small(code, data):
    """An encoder of a network for four classes, and data of three."""
    return open_model(code), open_dataset(str(data))


SETTINGS = {"epochs": 2, "batch_size": 32, "device": "cpu", "metrics": "silhouette", "objectives": "ce"}


def log_of(run, trial="ce/trial-0"):
    with (run / trial / "log.csv").open() as file:
        return [{key: float(value) for key, value in line.items()} for line in csv.DictReader(file)]


def weights_of(run, trial="ce/trial-0"):
    return safetensors.torch.load_file(run / trial / "model.safetensors")


@pytest.mark.parametrize("optimizer", ["adamw", "sgd(momentum=0.9)"])
def test_a_training_is_a_plain_loop_of_torch(tmp_path, data, code, optimizer):
    """The same steps by hand in float64: start, new classifier, batches, BatchNorm and dropout, clipping, two rates, cosine."""
    encoder, dataset = open_model(code), open_dataset(str(data))
    weights = copy.deepcopy(encoder.module).double()
    encoder = Encoder(module=copy.deepcopy(weights), prepare=encoder.prepare, spec="net")
    settings = {"optimizer": optimizer, "learning_rate": 0.01, "backbone_learning_rate": 0.002, "clip": 0.5, "val_share": 0}
    finetune(encoder, dataset, tmp_path / "run", **{**SETTINGS, "epochs": 3, **settings})

    labels = torch.from_numpy(dataset.labels)
    rows = np.flatnonzero(np.array(dataset.split) == "train")
    inputs = encoder.prepare(dataset.inputs.batch(rows.tolist())).double()
    labels = labels[rows]
    torch.manual_seed(0)
    weights.classify = nn.Linear(6, 3).double()
    weights.train()
    head = list(weights.classify.parameters())
    before = [each for name, each in weights.named_parameters() if not name.startswith("classify")]
    groups = [{"params": head, "lr": 0.01}, {"params": before, "lr": 0.002}]
    if optimizer == "adamw":
        steps = torch.optim.AdamW(groups, weight_decay=1e-4)
    else:
        steps = torch.optim.SGD(groups, momentum=0.9, weight_decay=1e-4)
    sampler = Shuffled(len(rows), 32, 0)
    count = len(list(sampler.batches(1)))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(steps, T_max=3 * count)
    losses = []
    for epoch in (1, 2, 3):
        total = 0.0
        for batch in map(torch.from_numpy, sampler.batches(epoch)):
            loss = nn.functional.cross_entropy(weights(inputs[batch]), labels[batch])
            steps.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights.parameters(), 0.5)
            steps.step()
            schedule.step()
            total += loss.item() * len(batch) / len(rows)
        losses.append(total)
    assert [line["ce"] for line in log_of(tmp_path / "run")] == pytest.approx(losses, rel=1e-9)
    for name, tensor in weights_of(tmp_path / "run").items():
        torch.testing.assert_close(tensor, weights.state_dict()[name], rtol=1e-7, atol=1e-9)


def test_before_and_after_are_extract_and_score(tmp_path, data, code, monkeypatch):
    assert main(["finetune", code, str(data), "-o", str(tmp_path / "run"), "--epochs", "2", "-q"]) == 0
    found = json.loads((tmp_path / "run" / "run.json").read_text())
    trial = tmp_path / "run" / "ce" / "trial-0"
    for name, checkpoint in (("before", None), ("after", str(trial / "model.safetensors"))):
        spec = code if checkpoint is None else f"{code}(classes=3)"
        encoder = open_model(spec, checkpoint)
        assert checkpoint is None or not (encoder.weights.missing or encoder.weights.left_over)
        extract(encoder, open_dataset(str(data)), tmp_path / f"{name}.h5", device="cpu")
        features = read_features(str(tmp_path / f"{name}.h5"))
        held_out = features.split == "test"
        stored = read_features(str((tmp_path / "run" if name == "before" else trial) / f"{name}.h5"))
        assert list(stored.ids) == list(features.ids[held_out])
        # Convolutions with the channels last, as extract runs them, round otherwise.
        torch.testing.assert_close(stored.features[:], features.features[:][held_out], rtol=1e-4, atol=1e-5)
        scores = evaluate((stored.features[:], stored.labels), ["silhouette"])
        values = found["before"] if name == "before" else found["objectives"][0]["trials"][0]["after"]
        assert values["silhouette"] == pytest.approx(scores.metrics["silhouette"].value, abs=1e-9)


def test_the_saved_network_predicts_what_was_written(tmp_path, small):
    encoder, dataset = small
    finetune(encoder, dataset, tmp_path / "run", **SETTINGS)
    fresh = open_model(f"{encoder.spec}(classes=3)", str(tmp_path / "run" / "ce" / "trial-0" / "model.safetensors"))
    test = np.flatnonzero(np.array(dataset.split) == "test").tolist()
    with torch.no_grad():
        predicted = fresh.module(fresh.prepare(dataset.inputs.batch(test))).argmax(1)
    with (tmp_path / "run" / "ce" / "trial-0" / "predictions.csv").open() as file:
        written = [dataset.class_names.index(line["predicted"]) for line in csv.DictReader(file)]
    assert predicted.tolist() == written


def test_a_network_is_not_a_head(tmp_path, small):
    finetune(*small, tmp_path / "run", **{**SETTINGS, "epochs": 1})
    with pytest.raises(InputError, match="is a network trained by finetune; pass it as `checkpoint=`"):
        open_head(tmp_path / "run" / "ce" / "trial-0" / "model.safetensors")


def test_random_weights_are_others_in_each_trial_and_loaded_ones_the_same(tmp_path, small):
    encoder, dataset = small
    settings = {**SETTINGS, "trials": 2, "learning_rate": 1e-9, "weight_decay": 0, "epochs": 1}
    finetune(encoder, dataset, tmp_path / "random", **settings)
    first, second = (weights_of(tmp_path / "random", f"ce/trial-{number}")["conv.weight"] for number in (0, 1))
    assert (first - second).abs().max() > 0.01
    torch.testing.assert_close(first, encoder.module.conv.weight.detach(), rtol=0, atol=1e-6)
    safetensors.torch.save_file(encoder.module.state_dict(), tmp_path / "start.safetensors")
    loaded = open_model(encoder.spec, str(tmp_path / "start.safetensors"), seed=9)
    finetune(loaded, dataset, tmp_path / "loaded", **settings)
    for number in (0, 1):
        found = weights_of(tmp_path / "loaded", f"ce/trial-{number}")["conv.weight"]
        torch.testing.assert_close(found, encoder.module.conv.weight.detach(), rtol=0, atol=1e-6)


def test_the_given_module_is_left_as_it_was(tmp_path, small):
    encoder, dataset = small
    encoder.module.train()
    encoder.module.drop.eval()
    before = copy.deepcopy(encoder.module.state_dict())
    finetune(encoder, dataset, tmp_path / "run", **SETTINGS)
    for name, tensor in encoder.module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not encoder.module.conv._forward_hooks
    assert encoder.module.training
    assert not encoder.module.drop.training


@pytest.mark.parametrize(
    ("train", "moves"),
    [("head", {"classify"}), ("last:1", {"classify", "embed"}), ("last:2", {"classify", "embed", "norm"})],
)
def test_what_is_frozen_does_not_move(tmp_path, small, train, moves):
    encoder, dataset = small
    safetensors.torch.save_file(encoder.module.state_dict(), tmp_path / "start.safetensors")
    loaded = open_model(encoder.spec, str(tmp_path / "start.safetensors"))
    finetune(loaded, dataset, tmp_path / "run", **{**SETTINGS, "train": train, "weight_decay": 0.1})
    after, before = weights_of(tmp_path / "run"), loaded.module.state_dict()
    assert set(after) == set(before)
    changed = {
        name.partition(".")[0]
        for name, tensor in after.items()
        if tensor.shape != before[name].shape or not torch.equal(tensor, before[name])
    }
    assert changed == moves  # the statistics of a frozen BatchNorm too


def test_blocks_are_those_of_rows_of_blocks():
    def block():
        return nn.Sequential(nn.Linear(2, 2))

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.down = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([Layer(), Layer(), Layer()])
            self.norm = nn.LayerNorm(2)

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.tower, self.act, self.end = nn.Linear(2, 2), Tower(), nn.ReLU(), block()

    whole = Whole()
    assert blocks_of(whole) == [whole.stem, *whole.tower.layers, whole.tower.norm, whole.end[0]]


def test_a_classifier_is_made_where_the_network_has_none(tmp_path, data, code):
    encoder = open_model(code.replace(":Net", ":Encode"))
    with pytest.raises(UsageError, match="name a layer with `layer=`: conv, output"):
        finetune(encoder, open_dataset(str(data)), tmp_path / "run", **SETTINGS)
    finetune(encoder, open_dataset(str(data)), tmp_path / "run", layer="conv", **SETTINGS)
    found = weights_of(tmp_path / "run")
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        "conv.weight": (5, 1, 3, 3),
        "conv.bias": (5,),
        "embedscope_classifier.weight": (3, 5),
        "embedscope_classifier.bias": (3,),
    }
    again = open_model(encoder.spec, str(tmp_path / "run" / "ce" / "trial-0" / "model.safetensors"))
    assert again.weights.missing == ()
    assert len(again.weights.left_over) == 2


def test_an_inner_layer_gets_the_gradient_of_the_objective_and_the_classifier_stays_the_networks_own():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    encoder, rows = Encoder(module=module, prepare=Pixels(), spec="net"), torch.randn(6, 4)
    network = Network(encoder, plan(encoder, rows[:1], "1"), 2)
    embedding, logits = network(rows)
    torch.testing.assert_close(embedding, module[:2](rows))
    torch.testing.assert_close(logits, module(rows))
    torch.testing.assert_close(network.probe(embedding), module(rows))
    (embedding.sum() + network.probe(embedding).sum()).backward()
    moved = {name for name, each in network.module.named_parameters() if each.grad is not None and each.grad.abs().sum() > 0}
    assert moved == {"0.weight", "0.bias", "4.weight", "4.bias"}


def test_averaged_weights_are_the_average_of_those_of_each_step(small, monkeypatch, tmp_path):
    """By hand on one tensor; the decay grows from 0.1 to what was asked for, so that the random start is soon forgotten."""
    encoder, dataset = replace(small[0], remake=None), small[1]
    seen, step = [], torch.optim.AdamW.step

    def watched(self, *args):
        step(self, *args)
        (bias,) = (each for group in self.param_groups for each in group["params"] if each.shape == (6,))
        seen.append(bias.detach().clone())

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    finetune(encoder, dataset, tmp_path / "run", **{**SETTINGS, "val_share": 0, "ema": 0.3, "schedule": "constant"})
    average = encoder.module.embed.bias.detach()
    for number, each in enumerate(seen, 1):
        decay = min(0.3, number / (9 + number))
        average = decay * average + (1 - decay) * each
    found = weights_of(tmp_path / "run")["embed.bias"]
    torch.testing.assert_close(found, average, rtol=1e-5, atol=1e-7)
    assert (found - seen[-1]).abs().max() > 1e-4


class KilledError(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adamw", "sgd(momentum=0.9)"])
def test_a_killed_run_resumes_to_the_same_values(tmp_path, small, monkeypatch, optimizer):
    settings = {
        **SETTINGS,
        "epochs": 4,
        "trials": 2,
        "objectives": ["ce", "ce + 0.5*silhouette"],
        "optimizer": optimizer,
        "augment": "crop(8, pad=1) + erase(p=0.5)",
        "schedule": "plateau(patience=0)",
        "ema": 0.9 if optimizer == "adamw" else None,
    }
    whole = finetune(*small, tmp_path / "whole", **settings)
    monkeypatch.setattr("embedscope.finetuning.trials._SECONDS_BETWEEN_STATES", 0.0)
    save, saved = RunWriter.save_state, 0

    def save_and_die(self, directory, state):
        nonlocal saved
        save(self, directory, state)
        saved += 1
        if saved in (2, 11):  # within the first training of each objective
            raise KilledError

    monkeypatch.setattr(RunWriter, "save_state", save_and_die)
    for resume in (False, True):
        with pytest.raises(KilledError):
            finetune(*small, tmp_path / "cut", resume=resume, **settings)
    done = finetune(*small, tmp_path / "cut", resume=True, **settings)
    assert done.before == whole.before
    for one, other in zip(whole.objectives, done.objectives, strict=True):
        assert [trial.after for trial in one.trials] == [trial.after for trial in other.trials]
        for trial in one.trials:
            assert log_of(tmp_path / "cut", trial.directory) == log_of(tmp_path / "whole", trial.directory)
            for name, tensor in weights_of(tmp_path / "cut", trial.directory).items():
                assert torch.equal(tensor, weights_of(tmp_path / "whole", trial.directory)[name])


def test_a_run_resumes_only_with_the_same_network(tmp_path, small, monkeypatch):
    encoder, dataset = small

    def die(*_):
        raise KilledError

    monkeypatch.setattr("embedscope.finetuning.trials.Trials._after", die)
    with pytest.raises(KilledError):
        finetune(encoder, dataset, tmp_path / "run", **SETTINGS)
    other = open_model(encoder.spec, seed=1)
    with pytest.raises(Exception, match="started with a different rows"):
        finetune(other, dataset, tmp_path / "run", resume=True, **SETTINGS)


@pytest.mark.parametrize(("memory", "kept"), [(40_000, Coded), (20_000, Live)])
def test_inputs_in_8_bits_and_those_that_are_read_anew_give_the_same(tmp_path, small, memory, kept):
    encoder, dataset = small
    said = []
    assert isinstance(prepare_inputs(dataset, encoder.prepare, torch.device("cpu"), memory // 2, untracked), kept)
    held = finetune(encoder, dataset, tmp_path / "held", **SETTINGS)
    other = finetune(encoder, dataset, tmp_path / "other", memory=memory, say=said.append, **SETTINGS)
    assert held.objectives[0].trials[0].after == other.objectives[0].trials[0].after
    assert log_of(tmp_path / "held") == log_of(tmp_path / "other")
    assert any("read again for every batch" in line for line in said) == (kept is Live)


def test_8_bits_are_exact_for_any_256_values_per_channel_and_nothing_else(small):
    generator = torch.Generator().manual_seed(0)
    shades = torch.randn(3, 256, generator=generator)
    codes = torch.randint(0, 256, (300, 3, 5, 4), generator=generator)
    images = shades.gather(1, codes.transpose(0, 1).flatten(1)).view(3, 300, 5, 4).transpose(0, 1).contiguous()
    for broken in (None, 7.0, torch.nan):
        if broken is not None:
            images[299, 1, 2, 3] = broken
        given = replace(small[1], inputs=list(images), labels=np.zeros(300, dtype=np.int64))
        found = prepare_inputs(given, torch.stack, torch.device("cpu"), images.nbytes // 2, untracked)
        assert isinstance(found, Live if broken else Coded)
        positions = torch.tensor([299, 0, 17])
        torch.testing.assert_close(found[positions], images[positions], rtol=0, atol=0, equal_nan=True)


def test_image_files_are_read_ahead_in_order_and_their_errors_come_through(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for number in range(30):
        path = tmp_path / "data" / f"class-{number % 3}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(np.full((4, 4), number, dtype=np.uint8)).save(path)
    dataset = open_dataset(str(tmp_path / "data"))
    found = prepare_inputs(dataset, Pixels(), torch.device("cpu"), 1, untracked)
    parts = [torch.arange(start, start + 3) for start in range(0, 30, 3)]
    bank = InputBank(found, torch.arange(30).flip(0))
    for part, (read, images) in zip(parts, bank.read(parts, lambda part: part), strict=True):
        assert read is part
        shades = [int(dataset.ids[29 - row][-6:-4]) for row in part.tolist()]
        assert (images[:, 0, 0, 0] * 255).round().int().tolist() == shades
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot read the image"):
        list(bank.read(parts, lambda part: part))


def test_other_data_can_be_held_out(tmp_path, small, data):
    encoder, dataset = small
    other = tmp_path / "other.npz"
    with np.load(data) as arrays:
        np.savez(other, X=arrays["X"][::-1][:50] // 2, y=arrays["y"][::-1][:50])
    result = finetune(encoder, dataset, tmp_path / "run", test=open_dataset(str(other)), **SETTINGS)
    assert result.data.test == 50
    stored = read_features(str(tmp_path / "run" / "before.h5")).features[:]
    with torch.no_grad():
        images = encoder.prepare(open_dataset(str(other)).inputs.batch(range(50)))
        maps = torch.relu(encoder.module.norm(encoder.module.conv(images)))
        wanted = torch.tanh(encoder.module.embed(maps.flatten(1)))
    torch.testing.assert_close(stored, wanted, rtol=1e-5, atol=1e-6)


def test_an_objective_without_logits_trains_the_classifier_as_a_probe(tmp_path, small):
    finetune(*small, tmp_path / "run", **{**SETTINGS, "objectives": "silhouette", "epochs": 6})
    log = log_of(tmp_path / "run", "silhouette/trial-0")
    assert log[-1]["probe"] < log[0]["probe"]


def test_a_step_that_is_not_finite_is_named_with_its_term(tmp_path, small):
    encoder, dataset = small
    with pytest.raises(InputError, match=r"not finite in epoch \d, step \d+ of \d: ce(, silhouette)?; lower"):
        finetune(encoder, dataset, tmp_path / "run", **{**SETTINGS, "objectives": "ce + silhouette", "learning_rate": 1e25})


def test_numbers_for_networks_are_refused_for_heads_and_the_other_way_round(tmp_path, small, blobs):
    for setting in ({"train": "head"}, {"augment": "flip"}, {"amp": True}, {"backbone_learning_rate": 0.1}):
        with pytest.raises(UsageError, match=f"`{next(iter(setting))}=` applies to networks"):
            finetune(*blobs, tmp_path / "run", **setting)
    with pytest.raises(UsageError, match="a network has its own classifier; omit `head=`"):
        finetune(*small, tmp_path / "run", head="mlp(4)")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": "embd"}, "unknown layer 'embd'|no layer.*embd"),
        ({"layer": "*"}, "is a pattern"),
        ({"train": "last:7"}, "has 3 blocks before its classifier"),
        ({"train": "most"}, "cannot read 'most' as the part to train"),
        ({"augment": "flop"}, "flop"),
        ({"augment": "crop"}, "a crop needs its size"),
        ({"augment": "flip(p=2)"}, "p of flip must be from 0 to 1"),
        ({"clip": 0}, "clip"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, small, settings, message):
    with pytest.raises(UsageError, match=message):
        finetune(*small, tmp_path / "run", **{**SETTINGS, **settings})
    assert not (tmp_path / "run").exists()


def test_data_that_cannot_be_trained_on(tmp_path, small, data):
    encoder, _ = small
    with np.load(data) as arrays:
        images = arrays["X"]
    np.savez(tmp_path / "one.npz", X=images, y=np.zeros(240, dtype=int))
    with pytest.raises(InputError, match="have 1 class; a comparison needs at least 2"):
        finetune(encoder, open_dataset(str(tmp_path / "one.npz")), tmp_path / "run", **SETTINGS)
    np.savez(tmp_path / "none.npz", X=images, y=np.full(240, -1))
    with pytest.raises(InputError, match="none of them labeled"):
        finetune(encoder, open_dataset(str(tmp_path / "none.npz")), tmp_path / "run", **SETTINGS)
    with pytest.raises(UsageError, match="a network is trained on a data set"):
        finetune(encoder, images, tmp_path / "run", **SETTINGS)


def test_a_frozen_program_is_refused(tmp_path, data):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    encoder = Encoder(module=module, prepare=Pixels(), spec="scripted.pt", outputs_only="its layers are compiled")
    with pytest.raises(InputError, match=r"scripted\.pt cannot be trained: its layers are compiled; give the model as Python"):
        finetune(encoder, open_dataset(str(data)), tmp_path / "run", **SETTINGS)


def test_without_data_its_options_are_refused(tmp_path, data, capsys):
    assert main(["finetune", str(data), "-o", str(tmp_path / "run"), "--checkpoint", "a.pt"]) == 2
    assert "--checkpoint requires a network: give MODEL and DATA" in capsys.readouterr().err


def test_settings_are_options():
    assert TrainingConfig(train="last:2", augment="crop(8, pad=1)+flip", clip=1).clip == 1


def test_a_model_without_data_is_told_what_is_missing(tmp_path, code, capsys):
    assert main(["finetune", code, "-o", str(tmp_path / "run")]) == 2
    assert "is a model; also give the data to train it on: MODEL DATA" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "blocks"), [("test_resnet", 11), ("test_vit", 9)])
def test_networks_of_timm(tmp_path, name, blocks):
    pytest.importorskip("timm")
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", X=generator.integers(0, 256, (24, 40, 40, 3), dtype=np.uint8), y=np.arange(24) % 3)
    encoder = open_model(f"timm:{name}(pretrained=False)", size=(32, 32))
    assert len(blocks_of(encoder.module)) == blocks
    settings = {**SETTINGS, "epochs": 1, "batch_size": 8, "augment": "crop(32, pad=2) + flip"}
    finetune(encoder, open_dataset(str(tmp_path / "data.npz")), tmp_path / "run", train="last:2", **settings)
    again = open_model(
        f"timm:{name}(pretrained=False, num_classes=3)", str(tmp_path / "run" / "ce" / "trial-0" / "model.safetensors")
    )
    assert again.weights.missing == again.weights.left_over == ()


def test_networks_of_text_read_their_inputs_anew(tmp_path):
    """Padding goes to the longest text of a batch, so that inputs cannot be kept; features do not depend on it."""
    transformers = pytest.importorskip("transformers")
    from tests.models.test_hf import SMALL, WORDS, make_tokenizer, save

    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=12, **SMALL)
    torch.manual_seed(0)
    model = save(tmp_path / "bert", transformers.BertModel(config), make_tokenizer())
    generator = np.random.default_rng(0)
    kinds = (["good film", "the good film was good"], ["bad film", "the film was bad bad bad"])
    lines = [f"{generator.choice(kinds[row % 2])},{'ab'[row % 2]}" for row in range(60)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    encoder, dataset = open_model(f"hf:{model}"), open_dataset(str(tmp_path / "texts.csv"))
    result = finetune(encoder, dataset, tmp_path / "run", **{**SETTINGS, "epochs": 8, "learning_rate": 0.03})
    assert result.objectives[0].trials[0].after["accuracy"] > 0.9
    stored = read_features(str(tmp_path / "run" / "ce" / "trial-0" / "after.h5"))
    again = open_model(f"hf:{model}", str(tmp_path / "run" / "ce" / "trial-0" / "model.safetensors"))
    assert again.weights.missing == ()
    extract(again, dataset, tmp_path / "after.h5", device="cpu")
    features = read_features(str(tmp_path / "after.h5"))
    places = [list(features.ids).index(name) for name in stored.ids]
    torch.testing.assert_close(stored.features[:], features.features[:][places], rtol=1e-4, atol=1e-5)


def test_half_precision_trains_and_does_not_measure(tmp_path, small):
    encoder, dataset = small
    losses = []
    for amp in (False, True):
        finetune(encoder, dataset, tmp_path / f"amp-{amp}", amp=amp, **{**SETTINGS, "epochs": 3, "learning_rate": 0.01})
        losses.append([line["ce"] for line in log_of(tmp_path / f"amp-{amp}")])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # bfloat16 has 8 bits
    before = [read_features(str(tmp_path / f"amp-{amp}" / "before.h5")).features[:] for amp in (False, True)]
    assert torch.equal(*before)
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in weights_of(tmp_path / "amp-True").values())
