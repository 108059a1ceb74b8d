"""numba and matplotlib get a place for their caches only if they have none."""

import os
import tempfile
from pathlib import Path

import pytest

from embedscope.errors import OutputError
from embedscope.plotting import caches


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(caches.os, "environ", dict(os.environ))
    caches.provide_caches.cache_clear()
    yield
    caches.provide_caches.cache_clear()


@pytest.fixture
def container(monkeypatch):
    """Nothing but the temporary directory can be written."""
    real = tempfile.TemporaryFile

    def refused(dir=None, **options):
        if dir is not None:
            raise OSError(30, "Read-only file system")
        return real(**options)

    monkeypatch.setattr(caches.tempfile, "TemporaryFile", refused)


def test_a_container_without_a_home(container, monkeypatch, tmp_path):
    monkeypatch.setattr(caches.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    caches.provide_caches()
    assert {caches.os.environ[name] for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR")} == {str(tmp_path)}


def test_a_home_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(caches.Path, "home", lambda: tmp_path)
    caches.provide_caches()
    assert not {"NUMBA_CACHE_DIR", "MPLCONFIGDIR"} & set(caches.os.environ)


def test_what_is_set_stays(container, monkeypatch):
    caches.os.environ.update(NUMBA_CACHE_DIR="mine", MPLCONFIGDIR="mine too")
    caches.provide_caches()
    assert caches.os.environ["NUMBA_CACHE_DIR"] == "mine"


def test_packages_that_can_be_written_need_no_other_place(monkeypatch):
    def nobody():
        raise RuntimeError("no home")

    monkeypatch.setattr(caches.Path, "home", nobody)
    monkeypatch.setattr(caches, "_writable", lambda folder: folder.name in ("umap", "pynndescent"))
    caches.provide_caches()
    assert "NUMBA_CACHE_DIR" not in caches.os.environ
    assert Path(caches.os.environ["MPLCONFIGDIR"]).is_dir()


def test_no_place_at_all_is_one_error(container, monkeypatch):
    def refused(prefix):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(caches.tempfile, "mkdtemp", refused)
    with pytest.raises(OutputError, match=r"no writable temporary directory .*TMPDIR"):
        caches.provide_caches()
