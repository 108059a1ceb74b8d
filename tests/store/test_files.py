"""Outputs take their name when they are complete, each writer by a temporary name of its own."""

import os

import pytest

from embedscope.errors import OutputError
from embedscope.store.files import check_output, finished


def test_two_writers_do_not_mix(tmp_path):
    path = tmp_path / "a.csv"
    with finished(path) as first:
        first.write_text("first")
        with finished(path) as second:
            assert first != second
            second.write_text("second")
        assert path.read_text() == "second"
        assert first.read_text() == "first"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_nothing(tmp_path):
    def write():
        with finished(tmp_path / "a.csv") as partial:
            partial.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_long_name_can_be_written(tmp_path):
    path = tmp_path / ("a" * 250)
    with finished(path) as partial:
        partial.write_text("x")
    assert path.read_text() == "x"


def test_a_folder_that_goes_away_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")

    def write():
        with finished(tmp_path / "file" / "a.csv"):
            pass

    with pytest.raises(OutputError, match="cannot write"):
        write()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="pipe is a pipe or a device; give a file name"):
        check_output(tmp_path / "pipe", overwrite=True)
