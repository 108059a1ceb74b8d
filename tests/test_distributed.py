"""Several processes measure the same as one, on gloo, with shares of unequal size."""

import subprocess
import sys

import numpy as np
import pytest
from torch import distributed as group

from embedscope import distributed
from embedscope.errors import EmbedscopeError
from tests.conftest import ROOT

WORKER = """
import os
import json, sys, datetime
from dataclasses import replace
import numpy as np, torch
from torch import distributed as group
from embedscope.evaluation import evaluate
from embedscope.store.in_memory import feature_set

rank, size, port, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
group.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=size, timeout=datetime.timedelta(seconds=60))
data = np.load(path)
features, labels = torch.from_numpy(data["X"]), torch.from_numpy(data["y"])
specs = ["silhouette", "silhouette(distance='cosine')", "silhouette(distance='sqeuclidean')",
         "soft_silhouette(softmin='weighted')", "gini", "class_kl", "explained_variance", "rankme", "effective_rank",
         "calinski_harabasz", "davies_bouldin", "lda_rank", "alignment", "uniformity", "anisotropy",
         "anisotropy(centered=True)", "collapse_std", "two_nn", "linear_probe(C=0.1)", "neural_collapse",
         "knn_accuracy", "recall_at_k(distance='euclidean')", "map_at_r", "mrr", "hubness"]
given = feature_set(features, labels)
given = replace(given, logits=features[:, : len(given.class_names)])  # a classifier that reads one channel for each class
found = evaluate(given, specs, device="cpu")
values = [entry.value for entry in found.metrics.values()]
samples = [values.tolist() for values in found.table.values.values()]
curve = found.metrics["explained_variance"].arrays["curve"]
group.destroy_process_group()
print(json.dumps([values, samples, curve]), flush=True)
os._exit(0)  # see embedscope/__main__.py
"""


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(size, path):
    import json

    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(size), port, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for rank in range(size)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return [json.loads(output) for output in outputs]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    generator = np.random.default_rng(0)
    labels = (generator.random(101) ** 2 * 6).astype(int)  # 101 rows: no share equals another on 2 or 3 ranks
    features = generator.normal(size=(101, 9)) + generator.normal(size=(7, 9))[labels] + 10
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, X=features, y=labels)
    return path


@pytest.fixture(scope="module")
def alone(data):
    return run(1, data)[0]


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_measure_the_same_as_one_process(size, data, alone):
    for values, samples, curve in run(size, data):
        np.testing.assert_allclose(values, alone[0], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(samples, alone[1], rtol=0, atol=1e-12)
        np.testing.assert_allclose(curve, alone[2], rtol=0, atol=1e-12)


def test_torchrun_prints_once(data):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())),
            *("-m", "embedscope", "score", str(data), "--json", "-q", "--device", "cpu"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("embedscope.score/1") == 1


def test_error_is_said_once(tmp_path):
    np.savez(tmp_path / "nan.npz", X=np.full((8, 2), np.nan), y=np.arange(8) % 2)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())),
            *("-m", "embedscope", "score", str(tmp_path / "nan.npz"), "--device", "cpu"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("8 of 8 rows hold NaN or infinite values") == 1


def test_one_process_is_the_ordinary_case():
    with distributed.process_group():
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        assert distributed.share(7) == slice(0, 7)
        assert distributed.all_reduce_object([1], lambda a, b: a + b) == [1]


@pytest.mark.parametrize(
    "text", ["[../gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer", "Connection closed"]
)
def test_a_process_that_is_gone_is_one_sentence(monkeypatch, text):
    def lost(*_):
        raise (RuntimeError if "gloo" in text else group.DistNetworkError)(text)

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(group, "all_gather_object", lost)
    with pytest.raises(EmbedscopeError, match="another process of this run ended, and this one cannot continue without it"):
        distributed.barrier()


def test_another_error_of_a_collective_stays(monkeypatch):
    def bug(*_):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(group, "all_gather_object", bug)
    with pytest.raises(RuntimeError, match="shapes differ"):
        distributed.barrier()
