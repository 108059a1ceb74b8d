"""Read features: embedscope's own stores lazily, and arrays made elsewhere."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedscope.arguments import check_names, check_path
from embedscope.errors import InputError, UsageError, unknown
from embedscope.progress import Track, untracked
from embedscope.store import opening
from embedscope.store.contents import Contents, check_schema, explained, read_contents
from embedscope.store.features import FeatureSet, StoreContents, StoredLayer
from embedscope.store.files import partial_path
from embedscope.store.foreign import is_foreign, open_foreign, parse_source
from embedscope.store.foreign_hdf5 import open_hdf5
from embedscope.store.provenance import LayerOrigin
from embedscope.store.rows import StoredRows, stored_rows
from embedscope.store.skeleton import row_datasets
from embedscope.text import counted, decoded

if TYPE_CHECKING:
    from collections.abc import Sequence

    import h5py

    from embedscope.store.provenance import Provenance

# What a recorded command has to begin with, and the options that are not repeated from it.
_COMMANDS = (["embedscope", "extract"], ["embedscope", "finetune"])
_NOT_REPEATED = ("--overwrite", "--trust-remote-code", "--unsafe-pickle")


def open_features(sources: str | Path | Sequence[str | Path], *, layers: str | Sequence[str] = ()) -> list[FeatureSet]:
    """Return one FeatureSet per layer of each `[name=]path`; features in a store are read lazily.

    Args:
        sources: one or several, each a store; a `.npz` with X (N, D) and y (N,), or `X.npy,y.npy`; a table (.csv, .tsv, .jsonl,
            .parquet) with a column of labels; tensors (.pt, .safetensors); or HDF5 of another tool (.h5ad). Options in brackets
            name the columns or keys, as in `v.parquet(label="species", features="d*")`. `name=` sets the name shown in tables.
        layers: which layers of a store, in this order; by default all, in the order of extraction.

    Raises:
        InputError: the file does not exist, is not a store, is unfinished, being written or damaged, or its labels do not match
            its features.
        UsageError: an unknown layer.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "late.npz")
        ...     np.savez(path, X=np.eye(4, 2), y=["a", "a", "b", "b"])
        ...     open_features(f"first={path}")[0].class_names
        ('a', 'b')
    """
    wanted = check_names("`layers=`", layers)
    listed = [sources] if isinstance(sources, str | os.PathLike) or not isinstance(sources, Iterable) else list(sources)
    if not listed:
        raise UsageError("no features are given; name at least one file")
    for source in listed:
        check_path("a source of features", source)
    return distinct_names([features for source in listed for features in _open(os.fspath(source), wanted)])


def resuming(command: str) -> str:
    """Return the command that resumes an interrupted one."""
    return command if "--resume" in command.split() else f"{command} --resume"


def recorded_resuming(command: str) -> str:
    """Return the command that finishes a store, built from the command recorded in it.

    Stores may come from untrusted sources: the recorded text is parsed as an embedscope command with every word quoted, and
    options that allow code to run or a file to be replaced are dropped; anything else is not repeated.

    >>> recorded_resuming("embedscope extract net.py:Net data --unsafe-pickle -o a.h5; rm b.h5")
    "embedscope extract net.py:Net data -o 'a.h5;' rm b.h5 --resume"
    """
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if words[:2] not in _COMMANDS:
        return resuming(" ".join([*_COMMANDS[0], "..."]))
    return resuming(shlex.join(word for word in words if word not in _NOT_REPEATED))


def stored_provenance(path: Path) -> tuple[int, dict[str, int], Provenance]:
    """Return the number of rows of a complete store, the width of each layer, and its provenance; InputError otherwise."""
    layers = _open(str(path), ())
    return len(layers[0].labels), {each.layer: each.features.shape[1] for each in layers}, layers[0].provenance


def describe(path: Path) -> StoreContents:
    """Return the contents of a store, finished or not; if `NAME.h5` does not exist, of its unfinished file.

    InputError for anything but a store.
    """
    if not path.exists() and partial_path(path).exists():
        path = partial_path(path)
    with opening.opened(path) as file, explained(path):
        version = check_schema(file, str(path), "embedscope extract writes one")
        return _described(path, version, file, read_contents(file, str(path)))


def verify(path: Path, track: Track = untracked) -> int:
    """Verify a finished store against its digests; return its number of data sets of rows.

    InputError, naming the place, for anything that does not match; also for a store without digests, from an earlier version of
    embedscope, after reading all of it.
    """
    with opening.opened(path) as file, explained(path):
        check_schema(file, str(path), "embedscope extract writes one")
        found = read_contents(file, str(path))
        if not found.complete:
            raise InputError(_unfinished(str(path), found))
        datasets = row_datasets(file)
        for name in track(datasets, "verifying", len(datasets)):
            rows = stored_rows(file, str(path), name, len(found.labels), found.digests)
            rows.verify(file)
    if found.digests is None:
        raise InputError(
            f"{path} can be read completely but has no digests to verify, because an earlier version of embedscope wrote it"
        )
    return len(datasets)


def _described(path: Path, version: int, file: h5py.File, found: Contents) -> StoreContents:
    splits = np.unique(found.split.astype(str), return_counts=True) if found.split is not None else ((), ())
    counts = np.bincount(found.labels[found.labels >= 0], minlength=len(found.class_names))
    names = [f"features/{layer}" for layer in found.layers]
    names += [name for name in row_datasets(file) if not name.startswith("features/")]
    layers = []
    for name in names:
        dataset = opening.dataset(file, name, whole=found.complete)
        origin = found.provenance.layers.get(name.partition("/")[2], LayerOrigin())
        layers.append(StoredLayer(name, dataset.shape, str(dataset.dtype), origin.pooling, origin.type))
    skipped: dict[str, str] = {}
    if opening.has(file, "skipped"):
        pairs = zip(opening.texts(file, "skipped/ids"), opening.texts(file, "skipped/reasons"), strict=True)
        skipped = {str(name): str(reason) for name, reason in pairs}
    return StoreContents(
        path=path,
        schema_version=version,
        complete=found.complete,
        rows=len(found.labels),
        done=found.done,
        layers=layers,
        classes={str(name): int(count) for name, count in zip(found.class_names, counts, strict=True)},
        unlabelled=int((found.labels < 0).sum()),
        splits={str(name): int(count) for name, count in zip(*splits, strict=True)},
        skipped=skipped,
        resume=None if found.complete else recorded_resuming(found.provenance.command),
        provenance=found.provenance,
    )


def distinct_names(found: Sequence[FeatureSet]) -> list[FeatureSet]:
    """Name by its path what shares its name with another: `a/features.h5` and `b/features.h5` are both `features`."""
    names = [features.name for features in found]
    return [
        replace(features, name=decoded(f"{features.source}:{features.layer}")) if names.count(features.name) > 1 else features
        for features in found
    ]


def read_features(source: str, *, layer: str | None = None) -> FeatureSet:
    """Open one layer; a store with several needs its name, or raises UsageError with the names it has."""
    found = _open(source, [layer] if layer else ())
    if len(found) > 1:
        names = ", ".join(features.layer for features in found)
        raise UsageError(f"{source} has several layers: {names}; choose one with `layers=`")
    return found[0]


def named(source: str) -> tuple[str, str]:
    """Part `name=path` into name and path with its options; a path that is there is a path, whatever it looks like."""
    found = parse_source(source)
    return decoded(found.name), found.spec


def _open(source: str, layers: Sequence[str]) -> list[FeatureSet]:
    given = parse_source(source)
    first = Path(given.files[0])
    if not first.exists() and partial_path(first).exists():
        first = partial_path(first)  # which is unfinished, and says how to finish it
        given = replace(given, files=(str(first),))
    for file in map(Path, given.files):
        if (file / "run.json").exists():
            raise InputError(f"{file} is a finetune run; give one of its stores, such as {file / 'before.h5'}")
        opening.check_file(file)
    if len(given.files) > 1 or is_foreign(given.files[0]):
        if layers:
            raise UsageError(f"{given.path} has no layers to choose from; omit `layers=`")
        return [open_foreign(given)]
    with opening.opened(first) as store, explained(given.path):
        if "schema" not in store.attrs:
            return open_hdf5(store, given, layers, StoredRows)
        if given.options:
            raise UsageError(f"{given.path} is a feature store, which takes no options in brackets; use `layers=`")
        return _from_store(store, decoded(given.name), given.path, layers)


def _unfinished(path: str, found: Contents) -> str:
    command = recorded_resuming(found.provenance.command)
    return f"{path} is unfinished ({found.done:,} of {counted(len(found.labels), 'row')}); finish it with: {command}"


def _from_store(file: h5py.File, name: str, path: str, layers: Sequence[str]) -> list[FeatureSet]:
    check_schema(file, path, "give a .npz with X and y, or run embedscope extract")
    found = read_contents(file, path)
    if not found.complete:
        raise InputError(_unfinished(path, found))
    for layer in layers:
        if layer not in found.layers:
            raise UsageError(unknown("layer", layer, found.layers, place=path))
    if not found.layers:
        raise InputError(f"{path} has no layers")
    count = len(found.labels)
    chosen = layers or found.layers
    return [
        FeatureSet(
            name=name if len(chosen) == 1 else f"{name}:{layer}",
            source=path,
            layer=layer,
            features=stored_rows(file, path, f"features/{layer}", count, found.digests),
            labels=found.labels,
            class_names=found.class_names,
            ids=found.ids,
            magnitudes=stored_rows(file, path, f"magnitudes/{layer}", count, found.digests)
            if opening.has(file, f"magnitudes/{layer}")
            else None,
            logits=stored_rows(file, path, "logits", count, found.digests) if opening.has(file, "logits") else None,
            split=found.split,
            provenance=found.provenance,
        )
        for layer in chosen
    ]
