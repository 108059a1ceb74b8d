"""A whole network in two processes: in float64 the same curves, gradients and BatchNorm statistics as in one, to rounding."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from embedscope.errors import UsageError
from embedscope.finetuning.networks import refuse_shared_statistics
from embedscope.models.encoder import Encoder
from embedscope.models.normalization import own_statistics
from embedscope.models.preparation import Pixels
from tests.conftest import ROOT
from tests.test_distributed import free_port

WORKER = """
import csv, datetime, json, os, pathlib, sys
import numpy as np
import torch
from torch import distributed as group, nn
from embedscope.data import open_dataset
from embedscope.finetuning import finetune
from embedscope.models.encoder import Encoder
from embedscope.models.preparation import Pixels

rank, size, port, folder, kind, optimizer = *map(int, sys.argv[1:3]), *sys.argv[3:]
torch.set_num_threads(1)
if size > 1:
    wait = datetime.timedelta(seconds=120)
    group.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=size, timeout=wait)
torch.manual_seed(0)
module = nn.Sequential(
    *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()),
    *(nn.Linear(144, 6), nn.BatchNorm1d(6, momentum=None), nn.Tanh(), nn.Linear(6, 3)),
).to(getattr(torch, kind))
found = finetune(
    Encoder(module=module, prepare=Pixels(), spec="net"),
    open_dataset(folder + "/data.npz"),
    f"{folder}/{kind}-{optimizer[:3]}-{size}",
    objectives="ce + 0.5*silhouette + 0.1*gini + 0.1*latent_boost",
    loss_layer="2",
    augment="crop(8, pad=1)",
    clip=0.5,
    epochs=3,
    batch_size=31,
    device="cpu",
    metrics="silhouette",
    optimizer=optimizer,
    learning_rate=0.01,
)
if size > 1:
    group.destroy_process_group()
if rank == 0:
    with next(pathlib.Path(found.path).rglob("log.csv")).open() as file:
        lines = [{key: float(value) for key, value in line.items()} for line in csv.DictReader(file)]
    print(json.dumps([lines, found.objectives[0].trials[0].after]), flush=True)
os._exit(0)  # threads of gloo may abort an interpreter that is shutting down, after all that is tested here
"""


def trained(folder, size, kind="float64", optimizer="adamw"):
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(size), port, str(folder), kind, optimizer],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in range(size)
    ]
    said = [process.communicate(timeout=240) for process in processes]
    assert not any(process.returncode for process in processes), said
    return json.loads(said[0][0])


@pytest.fixture
def data(tmp_path, digits):
    images, labels = digits
    keep = np.flatnonzero(labels.numpy() < 3)[:160]
    np.savez(tmp_path / "data.npz", X=(images[keep].reshape(-1, 1, 8, 8).numpy() * 15).astype(np.uint8), y=labels[keep].numpy())
    return tmp_path


def test_two_processes_train_what_one_trains(data):
    """Batches of an odd number of rows, so that shares differ.

    In float32, AdamW makes steps of a full learning rate out of gradients that are rounding errors, such as those of a bias
    before BatchNorm: training losses then agree to 1e-7 and validation, by running means that lag behind, to 3e-3 only.
    """
    (one, after), (two, other) = (trained(data, size) for size in (1, 2))
    assert len(one) == len(two) == 3
    for first, second in zip(one, two, strict=True):
        assert second == pytest.approx(first, rel=1e-9, abs=1e-9)
    assert other == pytest.approx(after, abs=1e-6)  # measured in float32


def test_batchnorm_with_a_forward_pass_of_its_own_is_refused(monkeypatch):
    class Own(nn.BatchNorm2d):
        def forward(self, inputs):
            return super().forward(inputs).relu()

    monkeypatch.setattr("embedscope.distributed.world_size", lambda: 2)
    for each, refused in ((nn.BatchNorm2d(3), False), (nn.BatchNorm2d(3, track_running_stats=False), True), (Own(3), True)):
        encoder = Encoder(module=nn.Sequential(nn.Conv2d(1, 3, 3), each), prepare=Pixels(), spec="net")
        assert own_statistics(encoder.module) == ("1" if refused else None)
        if refused:
            with pytest.raises(
                UsageError,
                match=r"1 of net is a (Own|BatchNorm2d), whose statistics would cover only the part of the batch on each",
            ):
                refuse_shared_statistics(encoder)
        else:
            refuse_shared_statistics(encoder)


def test_shared_batchnorm_is_torchs_in_one_process(monkeypatch):
    """The formula itself: the same values, gradients and running statistics as torch's, here with sums over one process."""
    from embedscope.models import normalization

    monkeypatch.setattr("embedscope.distributed.world_size", lambda: 2)
    monkeypatch.setattr("embedscope.distributed.sum_over_processes", lambda tensor: tensor)
    for made, shape in ((nn.BatchNorm2d, (6, 3, 4, 5)), (nn.BatchNorm1d, (6, 3)), (nn.BatchNorm1d, (6, 3, 4))):
        for options in ({}, {"momentum": None}, {"affine": False}):
            ours, torchs = made(3, **options).double(), made(3, **options).double()
            normalization.share_statistics(ours)
            for _ in range(2):
                rows = torch.randn(shape, dtype=torch.float64)
                one, two = rows.clone().requires_grad_(), rows.clone().requires_grad_()
                for module, given in ((ours, one), (torchs, two)):
                    (module(given) ** 3).sum().backward()
                torch.testing.assert_close(one.grad, two.grad, rtol=1e-9, atol=1e-9)
            for name, tensor in torchs.state_dict().items():
                torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(ours.eval()(rows), torchs.eval()(rows))
    with pytest.raises(ValueError, match="more than one value per channel"):
        ours.train()(torch.randn(1, 3, 1, dtype=torch.float64))
