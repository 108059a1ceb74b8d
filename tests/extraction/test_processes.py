"""Several processes write the file that one process writes, on gloo, as torchrun starts them."""

import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.conftest import ROOT
from tests.extraction.test_resuming import contents
from tests.test_distributed import free_port

NET = """
import time, torch
from torch import nn

def Net(wait=0.0):
    class Waits(nn.Module):
        def forward(self, x):
            time.sleep(wait)
            return x
    torch.manual_seed(0)
    return nn.Sequential(Waits(), nn.Conv2d(1, 512, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512 * 36, 10))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("processes")
    (root / "net.py").write_text(NET)
    generator = np.random.default_rng(0)
    for row in range(101):  # no share of batches equals another on 2 or 3 processes
        file = root / "images" / "abc"[row % 3] / f"{row:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(file)
    for row in (0, 50, 100):
        (root / "images" / "abc"[row % 3] / f"{row:03}.png").write_bytes(b"no image")
    return root


def command(folder, output, *options, wait=0.0):
    return [
        *(sys.executable, "-m", "embedscope", "extract", f"{folder / 'net.py'}:Net(wait={wait})", str(folder / "images")),
        *("-o", str(output), "-l", "1:flatten", "-l", "4", "--batch-size", "4", "--device", "cpu", *options),
    ]


def start(size, arguments):
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            arguments,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in range(size)
    ]


def end(processes):
    return [(process.returncode, *output) for process in processes for output in [process.communicate(timeout=120)]]


@pytest.fixture(scope="module")
def alone(folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command(folder, folder / "alone.h5", "--on-error", "skip"), check=True, cwd=ROOT, env=environment)
    return contents(folder / "alone.h5")


def assert_same(path, expected):
    found = contents(path)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("size", [2, 3])
def test_same_file_in_the_same_order(folder, alone, size):
    found = end(start(size, command(folder, folder / f"{size}.h5", "--on-error", "skip")))
    assert [code for code, _, _ in found] == [0] * size, found[0][2]
    assert "98 rows of 1:flatten (18432), 4 (10)" in found[0][2]
    assert "3 inputs were skipped" in found[0][2]
    assert [stdout + stderr for _, stdout, stderr in found[1:]] == [""] * (size - 1)
    assert_same(folder / f"{size}.h5", alone)


def test_error_of_one_process_ends_all(folder):
    found = end(start(2, command(folder, folder / "error.h5")))
    assert [code for code, _, _ in found] == [1, 1]
    assert sum(stderr.count("cannot read the image") for _, _, stderr in found) == 1
    assert not (folder / "error.h5").exists()


def test_signal_to_one_process_stops_all_and_one_process_goes_on(folder, alone):
    output = folder / "stopped.h5"
    processes = start(2, command(folder, output, "--on-error", "skip", wait=0.05))
    partial = folder / "stopped.h5.partial"
    deadline = time.monotonic() + 60
    while not partial.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    found = end(processes)
    assert [code for code, _, _ in found] == [130, 130], found
    assert sum(stderr.count("resume with: embedscope extract") for _, _, stderr in found) == 1
    with h5py.File(partial) as file:
        assert 0 < file["rows/done"][()] < 98
    resume = [*command(folder, output, "--on-error", "skip", wait=0.05), "--resume"]
    # Products of one thread and of several may round differently.
    subprocess.run(resume, check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert_same(output, alone)


def test_module_is_what_the_file_says():
    namespace = {}
    exec(NET, namespace)
    assert isinstance(namespace["Net"]()[1], nn.Conv2d)
    assert namespace["Net"]()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
