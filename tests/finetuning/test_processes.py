"""Two processes train what one trains: the gradient is that of the full batch."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.test_distributed import free_port


def start(size, arguments):
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "embedscope", "finetune", *map(str, arguments)]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    found = [process.communicate(timeout=300) for process in processes]
    return [process.returncode for process in processes], found


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.arange(101) % 4)
    path = tmp_path_factory.mktemp("processes") / "data.npz"
    np.savez(path, X=generator.normal(size=(101, 6)) + generator.normal(size=(4, 6))[labels], y=labels)
    return path


def test_two_processes_train_what_one_trains(store):
    options = [store, "--batch-size", "15", "--epochs", "3", "--head", "mlp(8, 5)", "--device", "cpu", "--trials", "2"]
    for objective in ("ce + 0.5*silhouette@2 + 0.1*center + 0.02*sface", "silhouette"):
        options += ["--objective", objective]
    for size in (1, 2):
        codes, found = start(size, [*options, "-o", store.parent / f"run{size}", "--json"])
        assert codes == [0] * size, found
        assert all(not out for out, _ in found[1:])
        assert json.loads(found[0][0])["options"]["processes"] == size
    one, two = (store.parent / f"run{size}" for size in (1, 2))
    documents = [json.loads((folder / "run.json").read_text())["objectives"] for folder in (one, two)]
    for first, second in zip(*documents, strict=True):
        for trial, other in zip(first["trials"], second["trials"], strict=True):
            assert trial["best_epoch"] == other["best_epoch"]
            assert other["after"] == pytest.approx(trial["after"], abs=1e-3)  # float32


WORKER = """
import os
import datetime, json, sys
import torch
from torch import distributed as group
from embedscope.finetuning.config import TrainingConfig
from embedscope.finetuning.material import Material
from embedscope.finetuning.training import Training
from embedscope.progress import untracked

rank, size, port = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
group.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=size, timeout=datetime.timedelta(seconds=60))
generator = torch.Generator().manual_seed(0)
labels = torch.arange(101) % 4
rows = torch.randn(101, 6, generator=generator) + torch.randn(4, 6, generator=generator)[labels]
config = TrainingConfig(head="mlp(8, 5)", epochs=3, batch_size=15, optimizer="sgd(momentum=0.5)", learning_rate=0.05)
found = []
for objective in ("ce + 0.5*silhouette@2 + 0.1*center + 0.02*sface", "silhouette"):
    training = Training(Material(rows, labels, 4, 1.3), config, objective, 0)
    training.head.double(), training.criterion.double()
    training.run(untracked, lambda: None)
    tensors = [*training.head.state_dict().values(), *training.criterion.state_dict().values()]
    found.append(torch.cat([tensor.flatten() for tensor in tensors]).tolist())
group.destroy_process_group()
print(json.dumps(found), flush=True)
os._exit(0)  # see embedscope/__main__.py
"""


def test_the_gradient_is_that_of_the_full_batch():
    """In float64 with SGD, whose steps are as long as the gradient: parameters and a state of the objective, a probe."""

    def trained(size):
        port = str(free_port())
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, str(rank), str(size), port], stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
            for rank in range(size)
        ]
        return [json.loads(process.communicate(timeout=120)[0]) for process in processes]

    (alone,) = trained(1)
    for found in trained(2):
        for one, other in zip(alone, found, strict=True):
            # Sums in another order, 20 steps of a temperature of 0.1 later.
            np.testing.assert_allclose(other, one, rtol=1e-8, atol=1e-10)


def test_an_error_is_said_once(store):
    codes, found = start(2, [store, "-o", store.parent / "broken", "--objective", "1e39*ce@2 + gini", "--device", "cpu"])
    assert codes == [1, 1]
    said = [line for _, talk in found for line in talk.splitlines() if line.startswith("embedscope:")]
    assert len(said) == 1
    assert "is not finite in epoch" in said[0]
