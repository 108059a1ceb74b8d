"""Read features: embedscope's own stores lazily, and arrays made elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import torch

from embedscope.errors import InputError, UsageError, unknown
from embedscope.records import FeatureSet
from embedscope.store.arrays import features_from_arrays
from embedscope.store.format import SCHEMA, SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence


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
        sources: each a store; a `.npz` with X (N, D) and y (N,); or `X.npy,y.npy`. `name=` gives it a name in tables.
        layers: which layers of a store, in that order; all, in the order in which they were extracted, if none is given.

    Raises:
        InputError: not there, not a store, unfinished, or labels and features that do not belong together.
        UsageError: a layer that the store does not have.
    """
    return distinct_names([features for source in sources for features in _open(source, layers)])


def distinct_names(found: Sequence[FeatureSet]) -> list[FeatureSet]:
    """Name by its path what shares its name with another: `a/features.h5` and `b/features.h5` are both `features`."""
    names = [features.name for features in found]
    return [
        replace(features, name=f"{features.source}:{features.layer}") if names.count(features.name) > 1 else features
        for features in found
    ]


def _open(source: str, layers: Sequence[str]) -> list[FeatureSet]:
    name, path = _named(source)
    first = Path(str(path).split(",")[0])
    if not first.exists():
        raise InputError(f"no such file: {first}")
    if first.is_dir():
        raise InputError(f"{first} is a folder; give a feature store (.h5), a .npz, or X.npy,y.npy")
    if first.suffix in (".npz", ".npy"):
        if layers:
            raise UsageError(f"{path} has no layers to choose from; leave out --layer")
        return [features_from_arrays(name, path)]
    return _from_store(name, path, layers)


def read_features(source: str, *, layer: str | None = None) -> FeatureSet:
    """Open one layer; a store with several needs its name, or raises UsageError with the names it has."""
    found = _open(source, [layer] if layer else [])
    if len(found) > 1:
        names = ", ".join(features.layer for features in found)
        raise UsageError(f"{source} has several layers: {names}; choose one with --layer")
    return found[0]


def _named(source: str) -> tuple[str, str]:
    name, separator, path = source.partition("=")
    if separator and name and not Path(source).exists() and "/" not in name:
        return name, path
    return Path(source.split(",")[0]).stem, source


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "unable to lock" in str(error):
            raise InputError(
                f"cannot lock {path} ({error}); on a network file system set HDF5_USE_FILE_LOCKING=FALSE"
            ) from error
        if path.suffix == ".partial":
            raise InputError(f"{path} is unfinished and was cut off; run the same extract again") from error
        raise InputError(f"{path} is not an HDF5 file, or it is cut short ({error})") from error


def _from_store(name: str, path: str, layers: Sequence[str]) -> list[FeatureSet]:
    with _opened(Path(path)) as file:
        if file.attrs.get("schema") != SCHEMA:
            raise InputError(f"{path} is HDF5 but no embedscope store; give a .npz with X and y, or run embedscope extract")
        version = int(file.attrs["schema_version"])
        if version > SCHEMA_VERSION:
            raise InputError(f"{path} has format version {version}; this embedscope reads up to {SCHEMA_VERSION}: update it")
        provenance: dict[str, Any] = json.loads(file["provenance"].asstr()[()])
        if not file.attrs["complete"]:
            command = provenance.get("run", {}).get("command", "embedscope extract ...")
            raise InputError(
                f"{path} is unfinished ({int(file['rows/done'][()])} of {len(file['labels'])} rows); run again: {command}"
            )
        recorded = [layer for layer in provenance.get("layers", {}) if layer in file["features"]]
        known = recorded + sorted(set(file["features"]) - set(recorded))
        for layer in layers:
            if layer not in known:
                raise UsageError(unknown(f"layer in {path}", layer, known))
        labels = file["labels"][:]
        class_names = tuple(file["class_names"].asstr()[:])
        if len(labels) and not -1 <= labels.min() <= labels.max() < len(class_names):
            raise InputError(f"{path}: labels run from {labels.min()} to {labels.max()} for {len(class_names)} classes")
        found = []
        for layer in layers or known:
            shape = file["features"][layer].shape
            if len(shape) != 2 or shape[0] != len(labels):
                raise InputError(f"{path}: /features/{layer} is {shape} for {len(labels)} labels")
            found.append(
                FeatureSet(
                    name=name if len(layers or known) == 1 else f"{name}:{layer}",
                    source=path,
                    layer=layer,
                    features=_rows(path, file, f"features/{layer}"),
                    labels=labels,
                    class_names=class_names,
                    ids=file["ids"].asstr()[:],
                    magnitudes=_rows(path, file, f"magnitudes/{layer}"),
                    split=file["split"].asstr()[:] if "split" in file else None,
                    provenance=provenance,
                )
            )
        return found


def _rows(path: str, file: h5py.File, name: str) -> Any:
    if name not in file:
        return None
    return StoredRows(path, name, file[name].shape, torch.from_numpy(np.empty(0, file[name].dtype)).dtype)
