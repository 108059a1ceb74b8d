import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from embedscope.errors import InputError, OutputError
from embedscope.store import locks, read_features


def left_behind(path, **changes):
    """The lock of this process, changed."""
    with locks.held(path):
        found = json.loads(locks.lock_path(path).read_text())
    locks.lock_path(path).write_text(json.dumps({**found, "token": "other", **changes}))
    return locks.lock_path(path)


def refused(path, message):
    with pytest.raises(OutputError, match=message), locks.held(path):
        pass


def test_one_writer_at_a_time(tmp_path):
    with locks.held(tmp_path / "a.h5"):
        refused(tmp_path / "a.h5", f"a.h5 is being written by pid {os.getpid()} on ")
    assert list(tmp_path.iterdir()) == []


def test_other_outputs_are_free(tmp_path):
    with locks.held(tmp_path / "a.h5"), locks.held(tmp_path / "b.h5"):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5.lock", "b.h5.lock"]


def test_folders_that_were_made_for_a_lock_go_with_it(tmp_path):
    with locks.held(tmp_path / "deep" / "er" / "a.h5"):
        assert (tmp_path / "deep" / "er" / "a.h5.lock").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc says which process a number means")
@pytest.mark.parametrize("changes", [{"started": 1}, {"pid": 2**22 + 1, "started": 5}])
def test_lock_of_a_process_that_ended_is_taken_over(tmp_path, changes):
    left_behind(tmp_path / "a.h5", **changes)
    assert locks.other_writer(tmp_path / "a.h5") is None
    with locks.held(tmp_path / "a.h5"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_process_that_was_killed(tmp_path):
    code = "import sys, time; from pathlib import Path; from embedscope.store.locks import held\n"
    code += "with held(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a.h5")], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    refused(tmp_path / "a.h5", f"is being written by pid {child.pid} on ")
    child.kill()
    child.wait()
    child.stdout.close()
    with locks.held(tmp_path / "a.h5"):
        pass


def test_lock_of_another_machine_is_believed_for_an_hour(tmp_path):
    lock = left_behind(tmp_path / "a.h5", host="elsewhere", where="another boot")
    refused(tmp_path / "a.h5", r"pid \d+ on elsewhere.*if that process has ended, delete .*a.h5.lock")
    os.utime(lock, (time.time() - 4000,) * 2)
    with locks.held(tmp_path / "a.h5"):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}'])
def test_lock_that_says_nothing_is_taken_over(tmp_path, text):
    lock = locks.lock_path(tmp_path / "a.h5")
    lock.write_text(text)
    os.utime(lock, (1, 1))
    with locks.held(tmp_path / "a.h5"):
        pass


def test_writer_that_lost_its_lock_stops(tmp_path):
    with locks.held(tmp_path / "a.h5") as refresh:
        refresh()
        lock = locks.lock_path(tmp_path / "a.h5")
        mine = locks._read(lock)
        lock.write_text(json.dumps(asdict(replace(mine, token="another"))))
        with pytest.raises(OutputError, match="is being written by another process, which took"):
            refresh()


def test_lock_that_was_just_replaced_is_put_back(tmp_path):
    lock = left_behind(tmp_path / "a.h5")
    locks._take_away(lock, b"what was read before")
    assert json.loads(lock.read_text())["token"] == "other"
    assert list(tmp_path.iterdir()) == [lock]


def test_reader_is_told_who_writes(tmp_path):
    (tmp_path / "a.h5.partial").write_bytes(b"")
    left_behind(tmp_path / "a.h5", host="elsewhere", where="another boot")
    with pytest.raises(InputError, match=r"a.h5 is being written by pid .* on elsewhere; wait for it"):
        read_features(str(tmp_path / "a.h5"))
