import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from embedscope.errors import InputError, OutputError, UsageError
from embedscope.finetuning import finetune
from embedscope.finetuning.banks import Chosen, DiskBank, place
from embedscope.finetuning.config import TrainingConfig
from embedscope.finetuning.material import Material, root_mean_square
from embedscope.finetuning.training import Training
from embedscope.finetuning.weighting import sample_weights
from embedscope.losses import loss
from embedscope.losses.expression import Objective, Term
from embedscope.plugins import Spec
from embedscope.progress import untracked
from embedscope.store import read_features


@pytest.fixture
def material(blobs):
    """60 rows to train on, 30 to choose by, of three classes that overlap."""
    rows, labels = torch.from_numpy(blobs[0] - 2.5 * np.eye(8, dtype=np.float32)[blobs[1]]), torch.from_numpy(blobs[1])
    chosen = torch.arange(90) < 30
    return Material(rows[~chosen], labels[~chosen], 3, 1.5, rows[chosen], labels[chosen])


def trained(material, objective="ce", *, seed=0, track=untracked, **config):
    training = Training(material, TrainingConfig(**{"epochs": 4, "batch_size": 16, **config}), objective, seed)
    training.run(track, lambda: None)
    return training


def test_a_training_is_a_plain_loop_of_torch(material):
    """The same steps by hand: the head's start, shuffled batches, cross-entropy, AdamW, cosine."""
    done = trained(material, learning_rate=0.01, weight_decay=0.1)
    start = Training(material, TrainingConfig(epochs=4, batch_size=16), "ce", 0)
    head, sampler = start.head, start._sampler
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.01, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4 * 4)
    states, losses = [], []
    for epoch in (1, 2, 3, 4):
        total = 0.0
        for batch in map(torch.from_numpy, sampler.batches(epoch)):
            value = nn.functional.cross_entropy(head(material.features[batch])[1], material.labels[batch])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            total += value.item() * len(batch) / 60
        states.append(copy.deepcopy(head.state_dict()))
        losses.append(total)
    assert [line["ce"] for line in done.log] == pytest.approx(losses, rel=1e-6)
    best = states[done.best_epoch - 1]
    for name, tensor in done.head.state_dict().items():
        torch.testing.assert_close(tensor, best[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("select_by", ["macro_f1", "silhouette", "gini"])
def test_the_best_epoch_is_kept_and_the_later_of_equals(material, select_by):
    done = trained(material, select_by=select_by, epochs=12, learning_rate=0.02)
    values = [line[f"val_{select_by}"] for line in done.log]
    best = min(values) if select_by == "gini" else max(values)
    assert done.best_value == best
    assert done.best_epoch == max(epoch for epoch, value in enumerate(values, 1) if value == best)
    assert not done.head.training


def test_without_validation_the_last_epoch_is_kept(material):
    done = trained(Material(material.features, material.labels, 3, 1.5))
    assert (done.best_epoch, done.best_value) == (4, None)
    assert list(done.log[0]) == ["epoch", "objective", "ce", "learning_rate"]


def test_patience_stops_when_nothing_gets_better(material):
    done = trained(material, epochs=50, patience=3, learning_rate=1e-9)
    assert done.epoch == 4  # the first is the best, and three after it are no better
    assert len(done.log) == 4


def test_validation_is_that_of_scikit_learn(material):
    from sklearn.metrics import f1_score, silhouette_score

    done = trained(
        Material(material.features, material.labels, 3, 1.5, material.validation, material.validation_labels), epochs=1
    )
    with torch.no_grad():
        embedding, logits = done.head(material.validation)
    line, labels = done.log[0], material.validation_labels
    assert line["val_loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-6)
    assert line["val_accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert line["val_macro_f1"] == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"))
    chosen = trained(material, epochs=1, select_by="silhouette").log[0]
    assert chosen["val_silhouette"] == pytest.approx(silhouette_score(embedding.double(), labels), abs=1e-6)  # float32 rows


@pytest.mark.parametrize(
    ("objective", "probes"),
    [("ce", False), ("silhouette", True), ("supcon + gini", True), ("silhouette + ce@3", False), ("comp_sum", False)],
)
def test_a_classifier_that_no_term_reaches_is_probed(material, objective, probes):
    if "supcon" in objective:
        pytest.importorskip("pytorch_metric_learning", exc_type=ImportError)
    done = trained(material, objective)
    assert ("probe" in done.log[0]) == probes


def test_a_probe_leaves_the_embedding_alone(material):
    """With a probe or without, the embedding learns the same; and the classifier learns, which its bias shows."""
    probed = trained(material, "silhouette", epochs=20, learning_rate=0.02)
    start = Training(material, TrainingConfig(epochs=20, batch_size=16, learning_rate=0.02), "silhouette", 0)
    start._probes = False
    start.run(untracked, lambda: None)
    assert [line["silhouette"] for line in probed.log] == pytest.approx([line["silhouette"] for line in start.log], abs=1e-6)
    assert probed.log[-1]["val_accuracy"] > 0.5
    assert probed.log[-1]["probe"] < probed.log[0]["probe"]


@pytest.mark.parametrize("at", range(1, 6))
def test_a_training_that_goes_on_is_one_that_was_not_interrupted(material, at, tmp_path):
    options = {"epochs": 6, "schedule": "plateau(patience=0)", "optimizer": "sgd", "patience": 5, "learning_rate": 0.05}
    objective = "ce + 0.5*silhouette@3 + 0.1*center"
    whole = trained(material, objective, **options)

    class StopError(Exception):
        pass

    first = Training(material, TrainingConfig(batch_size=16, **options), objective, 0)

    def stop():
        if first.epoch == at:
            torch.save(first.state_dict(), tmp_path / "state.pt")
            raise StopError

    with pytest.raises(StopError):
        first.run(untracked, stop)
    torch.manual_seed(99)
    again = Training(material, TrainingConfig(batch_size=16, **options), objective, 0)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    again.run(untracked, lambda: None)
    assert again.log == whole.log
    assert (again.best_epoch, again.best_value) == (whole.best_epoch, whole.best_value)
    for name, tensor in again.head.state_dict().items():
        assert torch.equal(tensor, whole.head.state_dict()[name])


def test_training_that_breaks_names_the_term_and_keeps_what_was_good():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.5, 0.1]])
    material = Material(rows, torch.tensor([0, 1, 0, 1]), 2, 1.0)
    training = Training(material, TrainingConfig(batch_size=4, learning_rate=1e30), "ce + silhouette", 0)
    with pytest.raises(InputError, match=r"ce \+ silhouette is not finite in epoch \d+, step 1 of 1: ce"):
        training.run(untracked, lambda: None)
    assert training.best_state is not None
    assert all(torch.isfinite(tensor).all() for tensor in training.best_state.values())


def test_a_negative_soft_minimum_is_warned_of(material):
    assert trained(material, "ce + silhouette").warnings == []
    (warning,) = trained(material, "ce + silhouette(tau_s=50)").warnings
    assert warning.startswith("b(i) of the soft silhouette was negative for 100% of the samples in the last epoch")


def test_rows_on_disk_are_drawn_like_rows_in_memory(material, tmp_path):
    on_file = place(material.features, torch.device("cpu"), 100, tmp_path)
    assert isinstance(on_file, DiskBank)
    assert (on_file.shape, on_file.dtype) == ((60, 8), torch.float32)
    assert list(tmp_path.iterdir()) == []
    torch.testing.assert_close(on_file[torch.tensor([5, 3, 5])], material.features[[5, 3, 5]], rtol=0, atol=0)
    on_disk = Material(on_file, material.labels, 3, 1.5, on_file[:30], material.labels[:30])
    in_memory = Material(material.features, material.labels, 3, 1.5, material.features[:30], material.labels[:30])
    for sampler in ("shuffled", "balanced(classes=2, samples=4)"):
        assert trained(on_disk, sampler=sampler).log == trained(in_memory, sampler=sampler).log


def test_a_run_from_disk_is_a_run_from_memory(make_store, blobs, tmp_path):
    said = []
    features = read_features(str(make_store(*blobs)))
    memory = finetune(features, tmp_path / "a", objectives=["ce"], epochs=3)
    disk = finetune(features, tmp_path / "b", objectives=["ce"], epochs=3, memory=1000, say=said.append)
    assert disk.objectives[0].trials[0].after == pytest.approx(memory.objectives[0].trials[0].after, abs=1e-6)
    assert said == ["the rows take 0.00 GB, more than the memory limit; they are read from disk"]


def test_root_mean_square(material):
    assert root_mean_square(material.features) == pytest.approx(float(material.features.square().mean().sqrt()), rel=1e-6)
    assert root_mean_square(torch.zeros(3, 2)) == 1.0


def test_weights_of_samples_multiply_the_losses_that_have_values_per_sample(material):
    @loss(reference="doi:none")
    class whole(nn.Module):  # noqa: N801
        def forward(self, features, labels, logits):
            return logits.square().mean()

    from embedscope.losses.ce import ce

    objective = Objective([Term(Spec("ce")), Term(Spec("whole"))], [ce(3, 8), whole()])
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(5, 3, generator=generator), torch.tensor([0, 1, 2, 0, 1])
    weights = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0])
    expected = (
        sum(
            float(w * nn.functional.cross_entropy(row[None], label[None]))
            for w, row, label in zip(weights, logits, labels, strict=True)
        )
        / 5
    )
    assert float(objective(logits, labels, logits, weights)) == pytest.approx(
        expected + float(logits.square().mean()), rel=1e-6
    )
    assert float(objective(logits, labels, logits)) == pytest.approx(
        float(nn.functional.cross_entropy(logits, labels) + logits.square().mean()), rel=1e-6
    )


@pytest.mark.parametrize("name", ["ce(label_smoothing=0.1)", "comp_sum", "comp_sum(tau=1)", "z_loss", "sface", "center", "ldr"])
def test_values_per_sample_are_those_of_the_sample_alone(name):
    from embedscope.losses.expression import build

    (each,) = build(name, 4, 6).losses
    generator = torch.Generator().manual_seed(0)
    rows, logits = torch.randn(9, 6, generator=generator), torch.randn(9, 4, generator=generator)
    labels = torch.arange(9) % 4
    each.eval()
    values = each.per_sample(rows, labels, logits)
    assert values.shape == (9,)
    alone = [each(rows[i : i + 1], labels[i : i + 1], logits[i : i + 1]).item() for i in range(9)]
    assert values.tolist() == pytest.approx(alone, rel=1e-4, abs=1e-6)


def test_dataset_equity_by_hand():
    rows = torch.tensor([[0.0, 0.0]] * 6 + [[9.0, 9.0]] * 2)
    found = sample_weights("dataset_equity(eta=1, gamma=2, clusters=2)", rows, 5, 0)
    common, rare = (1 + 0.25**2) / 2, (1 + 0.75**2) / 2
    assert found.tolist() == pytest.approx([common] * 6 + [rare] * 2, rel=1e-6)


def test_weights_without_a_term_that_takes_them(make_store, blobs, tmp_path):
    features = read_features(str(make_store(*blobs)))
    with pytest.raises(UsageError, match="'silhouette' has no term with per-sample values, such as ce, that sample weights"):
        finetune(features, tmp_path / "run", objectives=["silhouette"], weights="dataset_equity")


def test_the_best_epoch_has_all_terms(material):
    done = trained(material, "ce + silhouette@4", epochs=9, patience=2, learning_rate=1e-9)
    assert done.epoch == 6  # the fourth is the best that counts, and two after it are no better
    assert done.best_epoch >= 4


def test_a_term_of_weight_0_does_not_reach_the_classifier(material):
    assert "probe" in trained(material, "0*ce + silhouette").log[0]


def test_a_term_that_is_finite_only_without_its_weight_is_named(material):
    with pytest.raises(
        InputError, match=r"ce \+ 1e39\*silhouette is not finite in epoch 1, step 1 of \d+: silhouette; lower the learning rate"
    ):
        trained(material, "ce + 1e39*silhouette")


def test_weights_that_break_in_the_last_step_are_noticed(material):
    large = Material(material.features * 1e10, material.labels, 3, 1.0)
    steep = {"epochs": 1, "batch_size": 60, "optimizer": "sgd(momentum=0)", "learning_rate": 1e30, "schedule": "constant"}
    with pytest.raises(InputError, match="ce: the weights are not finite after epoch 1; lower the learning rate"):
        trained(large, **steep)


def test_a_folder_that_cannot_be_written_to(tmp_path):
    with pytest.raises(OutputError, match=r"cannot keep 0.00 GB of rows in .*nowhere: No such file"):
        place(torch.zeros(3, 2), torch.device("cpu"), 0, tmp_path / "nowhere")


@pytest.mark.parametrize("factor", [1e-40, 1e35])
def test_features_beyond_float32(material, factor):
    with pytest.raises(InputError, match=r"the features are too (large|small) to train on in float32 \(root mean square"):
        root_mean_square(material.features.double() * factor)


def test_weights_change_a_training(make_store, blobs, tmp_path):
    features = read_features(str(make_store(*blobs)))
    plain = finetune(features, tmp_path / "a", objectives=["ce"], epochs=2)
    weighted = finetune(features, tmp_path / "b", objectives=["ce"], epochs=2, weights="dataset_equity(gamma=3, clusters=5)")
    assert plain.objectives[0].trials[0].after != weighted.objectives[0].trials[0].after


def test_rows_on_disk_take_no_memory(tmp_path):
    """No page of the file is mapped, which would count as memory of the process; and it is closed with the bank."""
    bank = place(torch.randn(50, 4), torch.device("cpu"), 0, tmp_path)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not show what is mapped")
    bank[:], bank[torch.arange(50)]
    assert str(tmp_path) not in maps.read_text()
    file = bank._file
    del bank
    assert file.closed


def test_rows_that_cannot_be_read_back_are_one_error(tmp_path):
    bank = place(torch.randn(50, 4), torch.device("cpu"), 0, tmp_path)
    bank._file.truncate(100)
    with pytest.raises(OutputError, match="cannot read back the rows cached on disk: the file ends early"):
        bank[:]


def test_chosen_rows_are_read_in_blocks():
    rows = torch.randn(50, 4)
    chosen = Chosen(rows, torch.tensor([3, 7, 8, 40]))
    assert chosen.shape == (4, 4)
    torch.testing.assert_close(chosen[1:3], rows[[7, 8]], rtol=0, atol=0)
