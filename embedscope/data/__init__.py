"""Data sources: a file each; a bare path is recognised by what it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from embedscope import plugins
from embedscope.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from embedscope.records import Dataset

F = TypeVar("F", bound=Callable[..., "Dataset"])


def data_source(*, recognises: Callable[[Path], bool]) -> Callable[[F], F]:
    """Declare `foo(location: str) -> Dataset` as a data source that `recognises` the paths it can read."""

    def declare(function: F) -> F:
        function.recognises = recognises  # type: ignore[attr-defined]
        return function

    return declare


def open_dataset(location: str) -> Dataset:
    """Open labelled inputs: a folder of class folders, or a `.npz`.

    Raises:
        InputError: nothing is there, or no source recognises it.
    """
    from pathlib import Path

    path = Path(location)
    if not path.exists():
        raise InputError(f"no such data: {location}")
    sources = [plugins.load("data", name) for name in plugins.names("data")]
    for source in sources:
        if source.recognises(path):
            dataset: Dataset = source(location)
            return dataset
    raise InputError(f"{location} is no data that embedscope knows: give a folder of class folders, or a .npz with X and y")
