"""Data sources: one file each, `foo(location, *, options) -> Dataset`; bare paths are recognized by their content."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embedscope import plugins
from embedscope.arguments import check_path
from embedscope.errors import InputError, nearest

if TYPE_CHECKING:
    from embedscope.data.dataset import Dataset


def open_dataset(location: str) -> Dataset:
    """Open labeled inputs and return a Dataset: `source:location(options)`, or a path that a source recognizes.

    Raises:
        InputError: it does not exist, no source recognizes it, or its source cannot read it.
        UsageError: an unknown option.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/data.npz", X=np.zeros((3, 8, 8), np.uint8), y=["a", "b", "b"])
        ...     open_dataset(f"{folder}/data.npz").class_names
        ('a', 'b')
    """
    location = str(check_path("the location of the data", location))
    if Path(location).exists():  # a name may hold brackets and colons of its own
        spec = plugins.Spec(location)
    else:
        spec = plugins.parse(location)
    source, separator, inner = spec.name.partition(":")
    if not (separator and plugins.canonical(source) in plugins.names("data")):
        inner = spec.name
        if not Path(inner).exists():
            near = nearest(source, plugins.names("data")) if separator and source.isidentifier() else []
            hint = f"; did you mean '{near[0]}:{spec.name.partition(':')[2]}'?" if near else ""
            raise InputError(f"no such data: {inner}{hint}")
        source = plugins.recognizing("data", Path(inner)) or ""
        if not source:
            known = ", ".join(plugins.names("data"))
            raise InputError(
                f"{inner} is not a recognized data set: give a folder of class folders, a .npz with X and y, a table "
                f"(.csv, .tsv, .jsonl, .parquet), MNIST-style idx files, or SOURCE:NAME, where SOURCE is one of {known}"
            )
    plugin = plugins.load("data", source)
    dataset: Dataset = plugin(inner, **plugins.bind(plugin, plugins.Spec(source, spec.args, spec.options)))
    return dataset
