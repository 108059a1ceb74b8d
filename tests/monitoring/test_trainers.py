"""The callbacks in real training loops, with gradients that accumulate: steps, losses, the end, and a training unchanged."""

import json

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from embedscope.store.trajectories import read_points

# Of the libraries, about themselves.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(96, 6, generator=generator)
    return inputs, (inputs[:, 0] > 0).long()


def weights(model):
    return torch.cat([each.detach().flatten() for each in model.parameters()])


def lightning(rows, folder, *, accumulate=1, stop_on=(), watched=True):
    """Fit two epochs of six batches; return the trainer, the weights at the end, and the loss of every batch."""
    library = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
    from lightning.pytorch.loggers import CSVLogger

    from embedscope.monitoring.lightning import MonitorCallback

    inputs, labels = rows

    class Module(library.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))
            self.losses = []

        def forward(self, inputs):
            return self.net(inputs)

        def training_step(self, batch, number):
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 0.01)

    torch.manual_seed(0)
    module = Module()
    path = folder / "monitor.jsonl"
    callback = MonitorCallback((inputs[:40], labels[:40]), ["net.4.input"], every=2, path=path, stop_on=stop_on)
    trainer = library.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=CSVLogger(folder),
        callbacks=[callback] * watched,
        accumulate_grad_batches=accumulate,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
    )
    trainer.fit(module, DataLoader(TensorDataset(inputs, labels), batch_size=16, shuffle=True))
    return trainer, weights(module), module.losses


@pytest.mark.parametrize("accumulate", [1, 3])
def test_lightning(rows, tmp_path, accumulate):
    _, after, losses = lightning(rows, tmp_path, accumulate=accumulate)
    points = read_points(tmp_path / "monitor.jsonl")
    assert [point.step for point in points] == list(range(0, 12 // accumulate + 1, 2))
    # That of the last batch of each step, not divided by the number of batches.
    assert [point.loss for point in points[1:]] == pytest.approx([losses[point.step * accumulate - 1] for point in points[1:]])
    header, *lines = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().split()
    kept = [dict(zip(header.split(","), map(float, line.split(",")), strict=True)) for line in lines]
    name = "net.4.input/silhouette"
    assert {int(each["step"]): each[name] for each in kept} == {point.step: point.metrics["silhouette"] for point in points}
    (tmp_path / "alone").mkdir()
    _, alone, _ = lightning(rows, tmp_path / "alone", accumulate=accumulate, watched=False)
    torch.testing.assert_close(after, alone, rtol=0, atol=0)


def test_lightning_stops(rows, tmp_path):
    trainer, *_ = lightning(rows, tmp_path, stop_on="silhouette<1")
    assert trainer.global_step < 12


class Sentences(Dataset):
    def __init__(self, count):
        generator = torch.Generator().manual_seed(1)
        self.ids = torch.randint(5, 50, (count, 6), generator=generator)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, row):
        return {"input_ids": self.ids[row], "attention_mask": torch.ones(6, dtype=torch.long), "labels": self.ids[row, 0] // 28}


def transformers(folder, *, accumulate=1, stop_on=(), watched=True):
    """Train two epochs of six batches; return the state of the trainer and the weights at the end."""
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed, which the Trainer of transformers needs")
    from embedscope.monitoring.transformers import MonitorCallback

    torch.manual_seed(0)
    config = library.BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    model = library.BertForSequenceClassification(config)
    probe = DataLoader(Sentences(40), batch_size=20)
    callback = MonitorCallback(probe, every=2, path=folder / "monitor.jsonl", stop_on=stop_on)
    settings = library.TrainingArguments(
        str(folder),
        num_train_epochs=2,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=accumulate,
        use_cpu=True,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        learning_rate=0.01,
    )
    trainer = library.Trainer(model, settings, train_dataset=Sentences(96), callbacks=[callback] * watched)
    trainer.train()
    return trainer.state, weights(model)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_transformers(tmp_path, accumulate):
    state, after = transformers(tmp_path, accumulate=accumulate)
    points = read_points(tmp_path / "monitor.jsonl")
    assert [point.step for point in points] == list(range(0, 12 // accumulate + 1, 2))
    logged = {each["step"]: each["loss"] for each in state.log_history if "loss" in each}
    assert [point.loss for point in points] == [logged.get(point.step - 1) for point in points]  # the one before is the last
    name = f"{points[0].layer}/silhouette"
    assert {each["step"]: each[name] for each in state.log_history if name in each} == {
        point.step: point.metrics["silhouette"] for point in points
    }
    json.dumps(state.log_history)  # as the trainer saves it
    (tmp_path / "alone").mkdir()
    _, alone = transformers(tmp_path / "alone", accumulate=accumulate, watched=False)
    torch.testing.assert_close(after, alone, rtol=0, atol=0)


def test_transformers_stops(tmp_path):
    state, _ = transformers(tmp_path, stop_on="silhouette<1")
    assert state.global_step < 12
