"""Two processes train what one trains: the gradient is that of the full batch."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.torch import load_file

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
    # A term without the classifier, one with a state of its own, and one that starts later.
    for objective in ("ce + 0.5*silhouette@2 + 0.1*center", "silhouette"):
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
            assert other["after"] == pytest.approx(trial["after"], abs=1e-4)
            # Sums of float32 in another order: a last digit in a gradient, which AdamW's division makes a few of.
            heads = [load_file(folder / trial["directory"] / "head.safetensors") for folder in (one, two)]
            for name, tensor in heads[0].items():
                np.testing.assert_allclose(heads[1][name], tensor, rtol=0, atol=2e-5)


def test_an_error_is_said_once(store):
    codes, found = start(2, [store, "-o", store.parent / "broken", "--learning-rate", "1e30", "--device", "cpu"])
    assert codes == [1, 1]
    said = [line for _, talk in found for line in talk.splitlines() if line.startswith("embedscope:")]
    assert len(said) == 1
    assert "is not finite in epoch" in said[0]
