"""Disks that fill up, writes that are lost, and bytes that change."""

import errno
import os
import random
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from embedscope.errors import EmbedscopeError, InputError, OutputError
from embedscope.store import Provenance, StoreWriter, describe, open_features, read_features, read_unfinished, verify
from embedscope.store import format as layout
from tests.conftest import ROOT

# More of both for a long run; these take a few seconds. See also benchmarks/store_damage.py.
EXAMPLES = int(os.environ.get("STORE_EXAMPLES", "15"))
CHANGES = int(os.environ.get("STORE_CHANGES", "60"))

linux = pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot set room aside")


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(layout, "CHUNK_BYTES", 4 * 8 * 4)
    monkeypatch.setattr(layout, "BLOCK_BYTES", 8 * 8 * 4)


def writer(path, rows=40, **options):
    texts = {"class_names": ["a"], "ids": [str(row) for row in range(rows)], "split": None}
    return StoreWriter(path, labels=np.zeros(rows), provenance=Provenance(), resumable=True, **texts, **options)


def filled(path, rows, **options):
    """Write eight rows at a time."""
    with writer(path, len(rows), **options) as store:
        for start in range(store.done, len(rows), 8):
            store.add({"x": rows[start : start + 8]})


ROWS = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)


@linux
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG])
@pytest.mark.parametrize("time", [4, 6])
def test_promise_of_what_is_kept_is_kept(tmp_path, monkeypatch, small_blocks, number, time):
    calls = []
    real = os.posix_fallocate

    def full(*arguments):
        calls.append(1)
        if len(calls) >= time:  # the first is for the file, one for the data sets, then one for each block
            raise OSError(number, os.strerror(number))
        real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        kept = 8 * (time - 3)
        with pytest.raises(
            OutputError, match=rf"{os.strerror(number)}; {kept} rows are kept; `resume=True` continues from there"
        ):
            filled(tmp_path / "a.h5", ROWS)
    filled(tmp_path / "a.h5", ROWS, resume=True)
    np.testing.assert_array_equal(read_features(str(tmp_path / "a.h5")).features[:].numpy(), ROWS)


@linux
@pytest.mark.parametrize("limit", [300, 2000, 70_000])
def test_a_store_that_has_no_room_for_its_labels(tmp_path, limit):
    """In a process of its own: HDF5 crashes at the end of one in which it could not write."""
    code = (
        "import resource, sys; from tests.store.test_faults import ROWS, filled; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); filled(sys.argv[1], ROWS)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.h5")], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (
        1,
        f"embedscope.errors.OutputError: cannot write {tmp_path / 'a.h5'}: File too large",
    )
    assert not list(tmp_path.iterdir())


@linux
def test_nothing_is_promised_of_rows_that_cannot_be_read_again(tmp_path, monkeypatch, small_blocks):
    def spoil(*arguments):
        content = bytearray((tmp_path / "a.h5.partial").read_bytes())
        content[content.index(ROWS[8:16].tobytes()[:32])] ^= 1
        (tmp_path / "a.h5.partial").write_bytes(content)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def write():
        with writer(tmp_path / "a.h5") as store:
            store.add({"x": ROWS[:24]})
            monkeypatch.setattr(os, "posix_fallocate", spoil)
            store.add({"x": ROWS[24:]})

    with pytest.raises(OutputError, match=r"Input/output error$"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_write_that_is_lost_does_not_get_the_name(tmp_path, monkeypatch, small_blocks):
    """What a disk that reports no errors may do: a block is not there when it is read back."""
    real = h5py.File.close

    def close(file):
        if "features/x" in file and file.mode == "r+":
            file["features/x"][16:24] = 0
        real(file)

    with monkeypatch.context() as patched:
        patched.setattr(h5py.File, "close", close)
        with pytest.raises(
            OutputError, match=r"was removed because it does not read back as written.* rows 16 to 23 of /features/x do not"
        ):
            filled(tmp_path / "a.h5", ROWS)
    assert list(tmp_path.iterdir()) == []


LIMITED = """
import resource, sys
import numpy as np
from pathlib import Path
from embedscope.store import Provenance, StoreWriter
from embedscope.errors import OutputError
rows = np.ones((4096, 256), np.float32)
options = {"class_names": ["a"], "ids": [str(row) for row in range(3 * 4096)], "split": None, "provenance": Provenance()}
try:
    with StoreWriter(sys.argv[1], labels=np.zeros(3 * 4096), resumable=True, **options) as store:
        for number in range(3):
            store.add({"x": rows})
            resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, 6_000_000))
except OutputError as error:
    print(error)
"""


@linux
def test_limit_on_the_size_of_files(tmp_path):
    """A real one: no crash at the end, and what is promised is there."""
    found = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "a.h5")], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "File too large; 4,096 rows are kept; `resume=True` continues from there" in found.stdout
    assert found.stderr == ""
    assert (read_unfinished(tmp_path / "a.h5").read("features/x", 4096) == 1).all()


def test_verify_says_where_a_store_is_damaged(make_store):
    path = make_store(np.arange(4000).reshape(1000, 4), np.arange(1000) % 2)
    assert verify(path) == 1
    with h5py.File(path, "r+") as file:
        file["features/embedding"][17] = 0
    with pytest.raises(InputError, match=r"rows 0 to 999 of /features/embedding do not match their digest"):
        verify(path)
    with pytest.raises(InputError, match=r"rows 0 to 999 of /features/embedding do not match their digest"):
        _ = read_features(str(path)).features[500:501]


@pytest.mark.parametrize(("name", "value"), [("labels", 1), ("ids", "other"), ("split", "other"), ("class_names", "other")])
def test_labels_and_texts_are_compared_whenever_they_are_read(make_store, name, value):
    path = make_store(np.ones((3, 2)), [0, 0, 1], split=["train"] * 3)
    with h5py.File(path, "r+") as file:
        file[name][0] = value
    with pytest.raises(InputError, match=f"is damaged: /{name} does not match its digest"):
        read_features(str(path))


def test_store_without_digests_cannot_be_verified(make_store):
    path = make_store(np.ones((3, 2)), [0, 0, 1])
    with h5py.File(path, "r+") as file:
        del file["digests"]
    assert read_features(str(path)).features[:].sum() == 6
    with pytest.raises(InputError, match="can be read completely but has no digests to verify"):
        verify(path)


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data(), count=st.integers(1, 30), width=st.integers(1, 6), dtype=st.sampled_from([np.float16, np.float32]))
def test_what_is_written_is_read(tmp_path_factory, data, count, width, dtype):
    path = tmp_path_factory.mktemp("round") / "a.h5"
    rows = data.draw(arrays(dtype, (count, width)))
    classes = data.draw(st.lists(names, max_size=4))
    labels = data.draw(arrays(np.int64, count, elements=st.integers(-1, len(classes) - 1)))
    ids = data.draw(st.lists(names, min_size=count, max_size=count, unique=True))
    split = data.draw(st.none() | st.lists(names, min_size=count, max_size=count))
    sizes = data.draw(st.lists(st.integers(1, 7), min_size=count, max_size=count))
    options = {"class_names": classes, "ids": ids, "split": split, "provenance": Provenance(extra={"note": ids[0]})}
    with StoreWriter(path, labels=labels, most_rows=data.draw(st.integers(1, 8)), **options) as store:
        for start, stop in zip(np.cumsum([0, *sizes]), np.cumsum(sizes), strict=False):
            if start < count:
                store.add({"x": rows[start:stop]})
    found = read_features(str(path))
    assert found.features[:].numpy().tobytes() == rows.tobytes()
    assert found.labels.tolist() == labels.tolist()
    assert (list(found.class_names), list(found.ids)) == (classes, ids)
    assert (None if found.split is None else list(found.split)) == split
    assert found.provenance.extra == {"note": ids[0]}


def everything(path):
    describe(path)
    return [
        (each.features[:].numpy().tobytes(), each.labels.tobytes(), each.class_names, (*each.ids,), (*each.split,), each.layer)
        for each in open_features([str(path)])
    ]


def test_a_changed_byte_is_noticed_or_harmless(make_store, tmp_path):
    path = make_store(np.arange(240).reshape(60, 4), np.arange(60) % 3, split=["train", "test"] * 30)
    whole, expected = path.read_bytes(), everything(path)
    chance = random.Random(int(os.environ.get("STORE_SEED", "0")))
    noticed = 0
    for _ in range(CHANGES):
        content = bytearray(whole)
        place = chance.randrange(len(content))
        content[place] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        try:
            found = everything(path)
        except EmbedscopeError:
            noticed += 1
        else:
            assert found == expected, f"byte {place}"
    assert noticed > CHANGES // 10
