"""Read features: embedscope's own stores lazily, and arrays made elsewhere."""

from __future__ import annotations

import errno
import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import torch

from embedscope.errors import EmbedscopeError, InputError, UsageError, unknown
from embedscope.store.features import FeatureSet, StoreContents, StoredLayer
from embedscope.store.files import partial_path
from embedscope.store.foreign import is_foreign, open_foreign, parse_source
from embedscope.store.foreign_hdf5 import open_hdf5
from embedscope.store.format import SCHEMA, SCHEMA_VERSION
from embedscope.text import decoded

if TYPE_CHECKING:
    from collections.abc import Sequence

# What a recorded command has to begin with, and the options that are not repeated from it.
_EXTRACT = ["embedscope", "extract"]
_NOT_REPEATED = ("--overwrite", "--trust-remote-code", "--unsafe-pickle")


@dataclass(frozen=True)
class StoredRows:
    """Rows of a dataset in a store, read when they are sliced; the file is open only while it is read.

    Nothing is kept open, so the object can be pickled, and several processes may each read their share.
    """

    path: str
    dataset: str
    shape: tuple[int, int]
    dtype: torch.dtype

    def __getitem__(self, rows: slice) -> torch.Tensor:
        with _opened(Path(self.path)) as file:
            try:
                return torch.from_numpy(file[self.dataset][rows])
            except OSError as error:
                raise InputError(f"{self.path} is damaged: rows of /{self.dataset} cannot be read ({error})") from error


def open_features(sources: Sequence[str], *, layers: Sequence[str] = ()) -> list[FeatureSet]:
    """Open each `[name=]path` and return one FeatureSet a layer, features unread where they come from a store.

    Args:
        sources: each a store; a `.npz` with X (N, D) and y (N,), or `X.npy,y.npy`; a table (.csv, .tsv, .jsonl, .parquet) with
            a column of labels; tensors (.pt, .safetensors); or HDF5 of another tool (.h5ad). Options in brackets name the
            columns or keys, as in `v.parquet(label="species", features="d*")`. `name=` gives it a name in tables.
        layers: which layers of a store, in that order; all, in the order in which they were extracted, if none is given.

    Raises:
        InputError: not there, not a store, unfinished, damaged, or labels and features that do not belong together.
        UsageError: a layer that the store does not have.
    """
    return distinct_names([features for source in sources for features in _open(source, layers)])


def resuming(command: str) -> str:
    """Write the command that resumes an interrupted one."""
    return command if "--resume" in command.split() else f"{command} --resume"


def recorded_resuming(provenance: Any) -> str:
    """Write the command that finishes a store, from the command that the store records.

    Strangers write stores: what is recorded is taken for the words of an `embedscope extract` command, each quoted, without
    the options that would let code run or replace a file; anything else is not repeated.
    """
    run = provenance.get("run") if isinstance(provenance, dict) else None
    command = run.get("command") if isinstance(run, dict) else None
    try:
        words = shlex.split(command) if isinstance(command, str) else []
    except ValueError:
        words = []
    if words[:2] != _EXTRACT:
        return resuming(" ".join([*_EXTRACT, "..."]))
    return resuming(shlex.join(word for word in words if word not in _NOT_REPEATED))


def stored_provenance(path: Path) -> tuple[int, dict[str, int], dict[str, Any]]:
    """Read of a complete store how many rows it has, how wide each layer is, and its provenance; InputError if it is none."""
    layers = _open(str(path), ())
    return len(layers[0].labels), {each.layer: each.features.shape[1] for each in layers}, dict(layers[0].provenance)


def describe(path: Path) -> StoreContents:
    """Read what a store holds, finished or not; for `NAME.h5` that is not there, what a run has begun to write of it.

    InputError for anything but a store.
    """
    if not path.exists() and partial_path(path).exists():
        path = partial_path(path)
    if not path.is_file():
        raise InputError(f"{path} is a folder; give a feature store (.h5)" if path.is_dir() else f"no such file: {path}")
    with _opened(path) as file:
        if file.attrs.get("schema") != SCHEMA:
            raise InputError(f"{path} is HDF5 but no embedscope store, which embedscope extract writes")
        try:
            return _described(path, file)
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, IndexError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{path} is damaged, or was not written by embedscope: {reason}") from error


def _described(path: Path, file: h5py.File) -> StoreContents:
    provenance: dict[str, Any] = json.loads(file["provenance"].asstr()[()])
    recorded = provenance.get("layers", {})
    complete = bool(file.attrs["complete"])
    labels, names = file["labels"][:], file["class_names"].asstr()[:]
    splits = np.unique(file["split"].asstr()[:].astype(str), return_counts=True) if "split" in file else ((), ())
    order = {layer: place for place, layer in enumerate(recorded)}
    datasets = [
        f"{group}/{layer}"
        for group in ("features", "magnitudes")
        for layer in sorted(file.get(group, ()), key=lambda layer: (order.get(layer, len(order)), layer))
    ]
    return StoreContents(
        path=path,
        schema_version=int(file.attrs["schema_version"]),
        complete=complete,
        rows=len(labels),
        done=int(file["rows/done"][()]),
        layers=[
            StoredLayer(
                name,
                file[name].shape,
                str(file[name].dtype),
                recorded.get(name.partition("/")[2], {}).get("pooling"),
                recorded.get(name.partition("/")[2], {}).get("type"),
            )
            for name in [*datasets, *["logits"] * ("logits" in file)]
        ],
        classes={str(name): int((labels == code).sum()) for code, name in enumerate(names)},
        unlabelled=int((labels < 0).sum()),
        splits={str(name): int(count) for name, count in zip(*splits, strict=True)},
        skipped=dict(zip(file["skipped/ids"].asstr()[:], file["skipped/reasons"].asstr()[:], strict=True))
        if "skipped" in file
        else {},
        resume=None if complete else recorded_resuming(provenance),
        provenance=provenance,
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
        raise UsageError(f"{source} has several layers: {names}; choose one with `layer=`")
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
        if not file.exists():
            raise InputError(f"no such file: {file}")
        if (file / "run.json").exists():
            raise InputError(f"{file} is a run of finetune; give one of its stores, such as {file / 'before.h5'}")
        if not file.is_file():
            kind = "folder" if file.is_dir() else "pipe or a device"
            raise InputError(
                f"{file} is a {kind}; give a feature store (.h5), a .npz, X.npy,y.npy, or a table (.csv, .parquet)"
            )
    if len(given.files) > 1 or is_foreign(given.files[0]):
        if layers:
            raise UsageError(f"{given.path} has no layers to choose from; leave out `layers=`")
        return [open_foreign(given)]
    with _opened(first) as file:
        try:
            if "schema" not in file.attrs:
                return open_hdf5(file, given, layers, StoredRows)
            if given.options:
                raise UsageError(f"{given.path} is a feature store, which takes no options in brackets; use `layers=`")
            return _from_store(file, decoded(given.name), given.path, layers)
        except EmbedscopeError:
            raise
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{given.path} is damaged, or was not written by embedscope: {reason}") from error


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            raise  # which says nothing of the file
        if "unable to lock" in str(error):
            raise InputError(
                f"cannot lock {path} ({error}); on a network file system set HDF5_USE_FILE_LOCKING=FALSE"
            ) from error
        if path.suffix == ".partial":
            raise InputError(f"{path} is unfinished and was cut off; run the same extract again") from error
        raise InputError(f"{path} is not an HDF5 file, as a feature store is, or it is cut short ({error})") from error


def _from_store(file: h5py.File, name: str, path: str, layers: Sequence[str]) -> list[FeatureSet]:
    if file.attrs.get("schema") != SCHEMA:
        raise InputError(f"{path} is HDF5 but no embedscope store; give a .npz with X and y, or run embedscope extract")
    version = int(file.attrs["schema_version"])
    if version > SCHEMA_VERSION:
        raise InputError(f"{path} has format version {version}; this embedscope reads up to {SCHEMA_VERSION}: update it")
    provenance: dict[str, Any] = json.loads(file["provenance"].asstr()[()])
    if not file.attrs["complete"]:
        raise InputError(
            f"{path} is unfinished ({int(file['rows/done'][()])} of {len(file['labels'])} rows); finish it with: "
            f"{recorded_resuming(provenance)} (the command that the file records)"
        )
    recorded = [layer for layer in provenance.get("layers", {}) if layer in file["features"]]
    known = recorded + sorted(set(file["features"]) - set(recorded))
    for layer in layers:
        if layer not in known:
            raise UsageError(unknown(f"layer in {path}", layer, known))
    if not known:
        raise InputError(f"{path} has no layers")
    labels = file["labels"][:]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(f"{path}: /labels are {labels.dtype} {labels.shape}, expected int64 (N,)")
    texts = {key: file[key].asstr()[:] for key in ("class_names", "ids", "split") if key in file}
    if not len(labels):
        raise InputError(f"{path} has no rows")
    if not -1 <= labels.min() <= labels.max() < len(texts["class_names"]):
        raise InputError(f"{path}: labels run from {labels.min()} to {labels.max()} for {len(texts['class_names'])} classes")
    for key in ("ids", "split"):
        if key in texts and texts[key].shape != labels.shape:
            raise InputError(f"{path}: /{key} is {texts[key].shape} for {len(labels)} labels")
    return [
        FeatureSet(
            name=name if len(layers or known) == 1 else f"{name}:{layer}",
            source=path,
            layer=layer,
            features=_rows(path, file, f"features/{layer}", len(labels)),
            labels=labels.astype(np.int64),
            class_names=tuple(texts["class_names"]),
            ids=texts["ids"],
            magnitudes=_rows(path, file, f"magnitudes/{layer}", len(labels)) if f"magnitudes/{layer}" in file else None,
            split=texts.get("split"),
            provenance=provenance,
        )
        for layer in layers or known
    ]


def _rows(path: str, file: h5py.File, name: str, count: int) -> StoredRows:
    dataset = file[name]
    if dataset.ndim != 2 or dataset.shape[0] != count or not dataset.shape[1]:
        raise InputError(f"{path}: /{name} is {dataset.shape} for {count} labels")
    if dataset.dtype.kind != "f":
        raise InputError(f"{path}: /{name} is {dataset.dtype}, expected float32 or float16")
    return StoredRows(path, name, dataset.shape, torch.from_numpy(np.empty(0, dataset.dtype)).dtype)
