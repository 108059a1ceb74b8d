"""Runs that were interrupted, in every way, end in the same file as runs that were not."""

import importlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from embedscope.data.dataset import Dataset
from embedscope.errors import InputError, InterruptedRunError, OutputError
from embedscope.extraction import extract
from embedscope.models.encoder import Encoder
from embedscope.models.preparation import Pixels
from embedscope.store import format as layout
from embedscope.store import read_features, read_unfinished
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(layout, "BLOCK_BYTES", 8 * 4 * (5 + 3 + 3))  # eight rows of all that is stored
    monkeypatch.setattr(layout, "CHUNK_BYTES", 4 * 4 * 5)


class Rows:
    def __init__(self, count, broken=(), stop_at=None, action=None):
        self.count, self.broken, self.stop_at, self.action = count, broken, stop_at, action

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == self.stop_at and self.action:
            self.action()
        if index in self.broken:
            raise InputError(f"row{index} is broken")
        return torch.randn(2, 6, generator=torch.Generator().manual_seed(index))


def data(count=61, **changes):
    labels = np.arange(count) % 3
    return Dataset(Rows(count, **changes), labels, ("a", "b", "c"), [f"row{row}" for row in range(count)], None, "here", "f")


def net():
    torch.manual_seed(0)
    return Encoder(nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(12, 5)).eval(), Pixels(), "net")


LAYERS = {"layers": ["0", "2"]}


def contents(path):
    """Everything in a store but the time it was made and how."""
    found = {}

    def keep(name, item):
        if isinstance(item, h5py.Dataset) and name != "provenance":
            found[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(keep)
    return found


def assert_same(one, other):
    first, second = contents(one), contents(other)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


@pytest.fixture
def whole(tmp_path):
    extract(net(), data(), tmp_path / "whole.h5", batch_size=7, **LAYERS)
    return tmp_path / "whole.h5"


def fail():
    raise RuntimeError("a bug")


@pytest.mark.parametrize("stop_at", [20, 33, 60])
def test_run_that_failed_is_resumed(tmp_path, whole, stop_at):
    with pytest.raises(RuntimeError, match="a bug"):
        extract(net(), data(stop_at=stop_at, action=fail), tmp_path / "a.h5", batch_size=7, **LAYERS)
    left = read_unfinished(tmp_path / "a.h5")
    assert left.done == (stop_at - stop_at % 7) // 8 * 8
    done = extract(net(), data(), tmp_path / "a.h5", batch_size=7, resume=True, **LAYERS)
    assert (done.rows, done.resumed) == (61, left.done)
    assert_same(tmp_path / "a.h5", whole)
    assert not read_unfinished(tmp_path / "a.h5")


@pytest.mark.parametrize("batch_size", [1, 5, 8, 20])
def test_batches_are_those_of_an_uninterrupted_run(tmp_path, batch_size):
    extract(net(), data(), tmp_path / "whole.h5", batch_size=batch_size, **LAYERS)
    with pytest.raises(RuntimeError):
        extract(net(), data(stop_at=60, action=fail), tmp_path / "a.h5", batch_size=batch_size, **LAYERS)
    # Another batch size would round differently: the one that the run began with is kept.
    extract(net(), data(), tmp_path / "a.h5", batch_size=3, resume=True, **LAYERS)
    assert_same(tmp_path / "a.h5", tmp_path / "whole.h5")


def test_nothing_is_kept_where_no_block_was_written(tmp_path):
    with pytest.raises(RuntimeError):
        extract(net(), data(stop_at=7, action=fail), tmp_path / "a.h5", batch_size=4, **LAYERS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_finishes_the_block(tmp_path, whole, number):
    said = []
    before = signal.getsignal(number)
    interrupting = data(stop_at=30, action=lambda: os.kill(os.getpid(), number))
    with pytest.raises(
        InterruptedRunError, match=r"interrupted with 32 of 61 rows written; resume with: embedscope .* --resume"
    ):
        extract(net(), interrupting, tmp_path / "a.h5", batch_size=7, command="embedscope extract x", say=said.append, **LAYERS)
    assert said == ["finishing the current block of rows; interrupt again to stop immediately"]
    assert signal.getsignal(number) is before
    extract(net(), data(), tmp_path / "a.h5", batch_size=7, resume=True, **LAYERS)
    assert_same(tmp_path / "a.h5", whole)


def test_second_signal_stops_at_once(tmp_path, whole):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError, match="interrupted with 24 of 61 rows written"):
        extract(net(), data(stop_at=30, action=twice), tmp_path / "a.h5", batch_size=7, **LAYERS)
    extract(net(), data(), tmp_path / "a.h5", resume=True, **LAYERS)
    assert_same(tmp_path / "a.h5", whole)


def test_signal_at_the_end_lets_it_finish(tmp_path, whole):
    extract(
        net(), data(stop_at=60, action=lambda: os.kill(os.getpid(), signal.SIGINT)), tmp_path / "a.h5", batch_size=7, **LAYERS
    )
    assert_same(tmp_path / "a.h5", whole)


@pytest.mark.parametrize("stop_at", [20, 33, 60])
@pytest.mark.parametrize("broken", [(0, 1, 19, 20, 21, 40), (10,), tuple(range(24, 40))])
def test_skipped_inputs_and_resuming(tmp_path, stop_at, broken):
    options = {"batch_size": 7, "on_error": "skip", **LAYERS}
    extract(net(), data(broken=broken), tmp_path / "whole.h5", **options)
    with pytest.raises(RuntimeError):
        extract(net(), data(broken=broken, stop_at=stop_at, action=fail), tmp_path / "a.h5", **options)
    done = extract(net(), data(broken=broken), tmp_path / "a.h5", resume=True, **options)
    assert list(done.skipped) == [f"row{row}" for row in broken]
    assert_same(tmp_path / "a.h5", tmp_path / "whole.h5")


def interrupted(tmp_path, **options):
    with pytest.raises(RuntimeError):
        extract(net(), data(stop_at=40, action=fail), tmp_path / "a.h5", batch_size=8, **{**LAYERS, **options})


def test_unfinished_run_is_neither_resumed_nor_replaced_in_silence(tmp_path):
    interrupted(tmp_path)
    with pytest.raises(OutputError, match=r"a.h5.partial holds 40 of 61 rows of an unfinished run: `resume=True` continues it"):
        extract(net(), data(), tmp_path / "a.h5", **LAYERS)
    assert read_unfinished(tmp_path / "a.h5").done == 40
    extract(net(), data(), tmp_path / "a.h5", overwrite=True, **LAYERS)
    assert read_features(str(tmp_path / "a.h5"), layer="2").features.shape == (61, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ["2"]}, "different layers"),
        ({"layers": ["0:flatten", "2"]}, "different layers"),
        ({"dtype": "float16"}, "different run .dtype.: float32, now float16"),
        ({"amp": True}, "different run .autocast.: None, now bfloat16"),
        ({"limit": 30}, "started with 61 rows, and now there are 30"),
        ({"seed": 3}, "different run .seed.: 0, now 3"),
    ],
)
def test_run_is_not_resumed_with_other_settings(tmp_path, changes, message):
    interrupted(tmp_path)
    with pytest.raises(OutputError, match=message):
        extract(net(), data(), tmp_path / "a.h5", resume=True, **{**LAYERS, **changes})
    assert read_unfinished(tmp_path / "a.h5").done == 40


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda given: replace(given, fingerprint="g"), "different data .fingerprint.: f, now g"),
        (lambda given: replace(given, labels=given.labels[::-1].copy()), "different data .labels."),
    ],
)
def test_run_is_not_resumed_with_other_data(tmp_path, other, message):
    interrupted(tmp_path)
    with pytest.raises(OutputError, match=message):
        extract(net(), other(data()), tmp_path / "a.h5", resume=True, **LAYERS)


def test_run_is_not_resumed_with_other_weights(tmp_path):
    interrupted(tmp_path)
    given = net()
    nn.init.zeros_(given.module[2].weight)
    with pytest.raises(OutputError, match="different model"):
        extract(given, data(), tmp_path / "a.h5", resume=True, **LAYERS)


def test_resuming_what_is_finished_does_nothing(tmp_path, whole):
    before = whole.read_bytes()
    said = []
    done = extract(net(), data(), whole, resume=True, say=said.append, **LAYERS)
    assert (done.rows, done.resumed, dict(done.layers)) == (61, 61, {"0": 3, "2": 5})
    assert said == [f"{whole} is already complete; nothing to do"]
    assert whole.read_bytes() == before


def test_resuming_what_is_finished_with_another_model(tmp_path, whole):
    with pytest.raises(OutputError, match=r"was made with a different model .spec.: net, now other"):
        extract(replace(net(), spec="other"), data(), whole, resume=True, **LAYERS)


def test_resuming_nothing_starts(tmp_path, whole):
    extract(net(), data(), tmp_path / "a.h5", batch_size=7, resume=True, **LAYERS)
    assert_same(tmp_path / "a.h5", whole)


@pytest.mark.parametrize(
    ("broken", "step"), [((), "publish"), *(((0, 19, 60), step) for step in ("shorten", "write_texts", "publish"))]
)
def test_killed_while_it_finishes(tmp_path, monkeypatch, broken, step):
    """All rows are there, and the last steps are not: a copy of the file at that moment is what a kill leaves."""
    from embedscope.store import skeleton, writer

    options = {"batch_size": 7, "on_error": "skip", **LAYERS}
    extract(net(), data(broken=broken), tmp_path / "whole.h5", **options)
    calls = []
    home = {"shorten": skeleton.Skeleton, "write_texts": skeleton, "publish": writer}[step]
    real = getattr(home, step)

    def killed(*arguments):
        calls.append(1)
        if len(calls) == {"write_texts": 3}.get(step, 1):  # class names and ids come first, at the start
            raise SystemExit
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(home, step, killed)
        with pytest.raises(SystemExit):
            extract(net(), data(broken=broken), tmp_path / "a.h5", **options)
    assert read_unfinished(tmp_path / "a.h5").done == 61 - len(broken)
    extract(net(), data(broken=broken), tmp_path / "a.h5", resume=True, **options)
    assert_same(tmp_path / "a.h5", tmp_path / "whole.h5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ["2"]}, "different layers"),
        ({"dtype": "float16"}, "different run"),
        ({"logits": True}, "different run .logits."),
    ],
)
def test_resuming_what_is_finished_with_other_settings(tmp_path, whole, changes, message):
    with pytest.raises(OutputError, match=message):
        extract(net(), data(), whole, resume=True, **{**LAYERS, **changes})


def test_input_that_is_readable_again(tmp_path):
    """Whether an input can be read may change between runs: rows stay beside their ids."""
    options = {"batch_size": 7, "on_error": "skip", **LAYERS}
    with pytest.raises(RuntimeError):
        extract(net(), data(broken=(26,), stop_at=30, action=fail), tmp_path / "a.h5", **options)
    assert (read_unfinished(tmp_path / "a.h5").done, read_unfinished(tmp_path / "a.h5").skipped) == (24, ())
    with pytest.raises(RuntimeError):
        extract(net(), data(stop_at=50, action=fail), tmp_path / "a.h5", resume=True, **options)
    done = extract(net(), data(), tmp_path / "a.h5", resume=True, **options)
    assert dict(done.skipped) == {}
    extract(net(), data(), tmp_path / "whole.h5", **options)
    assert_same(tmp_path / "a.h5", tmp_path / "whole.h5")


def test_committed_input_that_is_no_longer_readable(tmp_path):
    options = {"batch_size": 7, "on_error": "skip", **LAYERS}
    extract(net(), data(), tmp_path / "whole.h5", **options)
    with pytest.raises(RuntimeError):
        extract(net(), data(stop_at=30, action=fail), tmp_path / "a.h5", **options)
    extract(net(), data(broken=(22,)), tmp_path / "a.h5", resume=True, **options)  # in the batch that was half committed
    first, second = contents(tmp_path / "a.h5"), contents(tmp_path / "whole.h5")
    np.testing.assert_array_equal(first["ids"], second["ids"])
    np.testing.assert_allclose(first["features/2"], second["features/2"], atol=1e-6)  # its batch was a row smaller


def test_torn_last_chunk_is_written_again(tmp_path, whole):
    """A kill while the short last chunk is written leaves bytes that fail their checksum."""
    with pytest.raises(RuntimeError):
        extract(net(), data(stop_at=60, action=fail), tmp_path / "a.h5", batch_size=7, **LAYERS)
    partial = tmp_path / "a.h5.partial"
    with h5py.File(partial, "r+") as file:
        rows = file["features/2"]
        rows[56:] = 1
        file.flush()
        where = rows.id.get_chunk_info_by_coord((60 - 60 % rows.chunks[0], 0)).byte_offset
    torn = bytearray(partial.read_bytes())
    torn[where : where + 8] = b"\xff" * 8
    partial.write_bytes(bytes(torn))
    extract(net(), data(), tmp_path / "a.h5", batch_size=7, resume=True, **LAYERS)
    assert_same(tmp_path / "a.h5", whole)


def test_model_that_draws_numbers_is_resumed_alike(tmp_path):
    class Draws(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :5] + torch.randn(len(x), 5)

    given = replace(net(), module=Draws())
    options = {"layers": ["output"], "batch_size": 7, "seed": 3}
    extract(given, data(), tmp_path / "whole.h5", **options)
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError):
        extract(given, data(stop_at=50, action=fail), tmp_path / "a.h5", **options)
    assert torch.equal(torch.random.get_rng_state(), before)
    extract(given, data(), tmp_path / "a.h5", resume=True, **options)
    assert_same(tmp_path / "a.h5", tmp_path / "whole.h5")


def test_blocks_of_a_slow_model_are_small(tmp_path, monkeypatch):
    monkeypatch.setattr("embedscope.extraction.extracting._SECONDS_IN_A_BLOCK", 1e-9)
    with pytest.raises(RuntimeError):
        extract(net(), data(stop_at=5, action=fail), tmp_path / "a.h5", batch_size=1, **LAYERS)
    assert read_unfinished(tmp_path / "a.h5").done == 5


def test_inputs_that_are_readable_again_when_all_was_written(tmp_path, monkeypatch):
    """Killed before the renaming, the last inputs left out; then they can be read."""
    from embedscope.store import writer

    options = {"batch_size": 7, "on_error": "skip", **LAYERS}

    def killed(*arguments):
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(writer, "publish", killed)
        with pytest.raises(SystemExit):
            extract(net(), data(broken=(58, 59, 60)), tmp_path / "a.h5", **options)
    extract(net(), data(), tmp_path / "a.h5", resume=True, **options)
    extract(net(), data(), tmp_path / "whole.h5", **options)
    first, second = contents(tmp_path / "a.h5"), contents(tmp_path / "whole.h5")
    assert first.keys() == second.keys()
    np.testing.assert_array_equal(first["ids"], second["ids"])
    np.testing.assert_allclose(first["features/2"], second["features/2"], atol=1e-6)


def test_damaged_unfinished_store(tmp_path):
    interrupted(tmp_path)
    partial = tmp_path / "a.h5.partial"
    partial.write_bytes(partial.read_bytes()[:1000])
    with pytest.raises(
        OutputError, match=r"is damaged and cannot be resumed .*`overwrite=True` without `resume=True` starts again"
    ):
        extract(net(), data(), tmp_path / "a.h5", resume=True, **LAYERS)
    extract(net(), data(), tmp_path / "a.h5", overwrite=True, **LAYERS)


HOLD = """
import sys, h5py
with h5py.File(sys.argv[1], "r+"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_write_one_store(tmp_path):
    interrupted(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "a.h5.partial")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputError, match=r"being written by another process|is locked by another process"):
                extract(net(), data(), tmp_path / "a.h5", **options, **LAYERS)
    finally:
        holder.communicate()
    assert read_unfinished(tmp_path / "a.h5").done == 40


RUN = """
import sys, time
import numpy as np, torch
from torch import nn
from embedscope.extraction import extract
from embedscope.models.preparation import Pixels
from embedscope.data.dataset import Dataset
from embedscope.models.encoder import Encoder
from embedscope.store import format as layout

torch.set_num_threads(1)
layout.BLOCK_BYTES, layout.CHUNK_BYTES = 8 * 4 * 11, 4 * 4 * 5

class Rows:
    def __len__(self):
        return 2000

    def __getitem__(self, index):
        time.sleep(0.001)
        return torch.randn(2, 6, generator=torch.Generator().manual_seed(index))

data = Dataset(Rows(), np.arange(2000) % 3, ("a", "b", "c"), [f"row{row}" for row in range(2000)], None, "here", "f")
torch.manual_seed(0)
net = Encoder(nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(12, 5)).eval(), Pixels(), "net")
print("started", flush=True)
extract(net, data, sys.argv[1], layers=["0", "2"], batch_size=7, resume=True, device="cpu", workers=int(sys.argv[2]))
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_again_and_again(tmp_path, workers):
    """SIGKILL at random moments, until a run gets through; at once, though worker processes outlive their parent a little."""
    extract(net(), data(2000), tmp_path / "whole.h5", batch_size=7, device="cpu", **LAYERS)
    chance = random.Random(0)
    for kills in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(tmp_path / "a.h5"), str(workers)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert process.stdout.readline() == "started\n"
        if kills < 2:
            time.sleep(chance.uniform(0.1, 0.6))
            process.kill()
        process.wait(timeout=120)
        process.stdout.close()
        if (tmp_path / "a.h5").exists():
            break
    assert kills == 2
    assert_same(tmp_path / "a.h5", tmp_path / "whole.h5")


def test_model_that_reads_other_numbers_is_not_resumed(tmp_path):
    """What no record names, such as a file that the model reads, shows in the rows that are committed."""

    class Scaled(nn.Module):
        scale = 1.0

        def forward(self, x):
            return x.flatten(1)[:, :5] * self.scale

    given = replace(net(), module=Scaled())
    options = {"layers": ["output"], "batch_size": 7}
    with pytest.raises(RuntimeError):
        extract(given, data(stop_at=50, action=fail), tmp_path / "a.h5", **options)
    given.module.scale = 1.0 + 1e-5  # as another machine rounds
    with pytest.raises(RuntimeError):
        extract(given, data(stop_at=58, action=fail), tmp_path / "a.h5", resume=True, **options)
    given.module.scale = 1.01
    with pytest.raises(OutputError, match=r"does not match the current results: output of row\d is different now"):
        extract(given, data(), tmp_path / "a.h5", resume=True, **options)
    assert read_unfinished(tmp_path / "a.h5").done >= 40


def test_source_that_changed_is_named(tmp_path, monkeypatch):
    (tmp_path / "helper_of_a_model.py").write_text("K = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("helper_of_a_model")
    try:
        interrupted(tmp_path)
        (tmp_path / "helper_of_a_model.py").write_text("K = 2\n")
        with pytest.raises(OutputError, match=r"made with a different source file .*helper_of_a_model.py"):
            extract(net(), data(), tmp_path / "a.h5", resume=True, **LAYERS)
    finally:
        del sys.modules["helper_of_a_model"]


def test_store_that_would_be_too_large_for_the_limit_on_files(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (500, resource.RLIM_INFINITY))
    with pytest.raises(OutputError, match=r"would take 0.0 MB and .* has room for 0.0 MB .*ulimit -f"):
        extract(net(), data(), tmp_path / "a.h5", **LAYERS)


def test_two_runs_at_a_time(tmp_path):
    """The lock holds whatever HDF5 thinks of locks."""

    def meanwhile():
        for options in ({"resume": True}, {"overwrite": True}, {}):
            with pytest.raises(OutputError, match=rf"a.h5 is being written by pid {os.getpid()} on "):
                extract(net(), data(), tmp_path / "a.h5", **options, **LAYERS)

    extract(net(), data(stop_at=40, action=meanwhile), tmp_path / "a.h5", **LAYERS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
