"""What an open store holds, with everything but its rows read, checked and compared with its digests."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.errors import InputError
from embedscope.store import digests, opening
from embedscope.store.format import SCHEMA, SCHEMA_VERSION
from embedscope.store.provenance import Provenance
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import h5py

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Contents:
    """What a store holds beside its rows.

    Attributes:
        complete: whether all rows are there.
        done: committed rows.
        layers: names, in the order in which they were extracted.
        labels: (N,) int64.
        class_names: (K,) str.
        ids: (N,) str.
        split: (N,) str or None.
        provenance: how it was made.
        digests: None in a store of an earlier version.
    """

    complete: bool
    done: int
    layers: tuple[str, ...]
    labels: Array
    class_names: tuple[str, ...]
    ids: Array
    split: Array | None
    provenance: Provenance
    digests: digests.Digests | None


@contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Turn what a damaged file makes HDF5 and NumPy raise into an InputError of one line."""
    try:
        yield
    except opening.DAMAGE as error:
        reason = (str(error) or type(error).__name__).partition("\n")[0][:200]
        raise InputError(f"{path} is damaged, or was not written by embedscope: {reason}") from error


def check_schema(file: h5py.File, path: str, otherwise: str) -> int:
    """Return the format version; InputError for HDF5 files of other programs and of newer versions."""
    try:
        schema = opening.text_attribute(file, "schema")
    except ValueError:
        schema = None
    if schema != SCHEMA:
        raise InputError(f"{path} is HDF5 but not an embedscope store; {otherwise}")
    version = opening.attribute(file, "schema_version", "iu")
    if version is None or not version >= 1:
        raise ValueError(f"the format version is {version}")
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{path} has format version {version}; this embedscope reads up to {SCHEMA_VERSION}; update embedscope"
        )
    return int(version)


def read_provenance(file: h5py.File, path: str) -> Provenance:
    """Read how a store was made."""
    text = opening.texts(file, "provenance", opening.LONGEST_PROVENANCE)
    if text.shape != ():
        raise ValueError(f"/provenance has the shape {text.shape}")
    return Provenance.parse(str(text[()]), path)


def read_contents(file: h5py.File, path: str) -> Contents:
    """Read everything but rows; InputError, or one of DAMAGE, for what is damaged or does not belong together."""
    complete, done = opening.attribute(file, "complete", "bui"), 0
    if complete is None:
        raise ValueError("the attribute complete is missing")
    if not complete:
        done = int(opening.small(file, "rows/done", "iu"))
    provenance = read_provenance(file, path)
    labels = opening.small(file, "labels", "iuf")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(f"{path}: /labels are {labels.dtype} {labels.shape}, expected int64 (N,)")
    names = opening.texts(file, "class_names")
    ids = opening.texts(file, "ids")
    split = opening.texts(file, "split") if opening.has(file, "split") else None
    if not len(labels):
        raise InputError(f"{path} has no rows")
    if not -1 <= labels.min() <= labels.max() < len(names):
        raise InputError(f"{path}: labels run from {labels.min()} to {labels.max()} for {counted(len(names), 'class')}")
    for key, values in (("ids", ids), ("split", split)):
        if values is not None and values.shape != labels.shape:
            raise InputError(f"{path}: /{key} is {values.shape} for {counted(len(labels), 'label')}")
    stored = opening.datasets_below(file, "features")
    there = set(stored)
    recorded = [layer for layer in provenance.layers if opening.plain(layer) in there]
    rest = there - {opening.plain(layer) for layer in recorded}
    found = Contents(
        complete=bool(complete),
        done=len(labels) if complete else done,
        layers=(*recorded, *sorted(rest)),
        labels=labels.astype(np.int64),
        class_names=tuple(names),
        ids=ids,
        split=split,
        provenance=provenance,
        digests=digests.read(file) if complete else None,
    )
    _compare(file, found, path)
    return found


def _compare(file: h5py.File, found: Contents, path: str) -> None:
    """Raise InputError for what is not as it was handed over, or no longer there."""
    if found.digests is None or not found.digests.texts:
        return
    text = str(opening.texts(file, "provenance", opening.LONGEST_PROVENANCE)[()])
    now = {
        "labels": digests.of_labels(found.labels),
        "class_names": digests.of_texts(found.class_names),
        "ids": digests.of_texts(found.ids.tolist()),
        "provenance": digests.of_texts([text]),
    }
    if found.split is not None:
        now["split"] = digests.of_texts(found.split.tolist())
    for key in dict.fromkeys([*now, *found.digests.texts]):
        if now.get(key) != found.digests.texts.get(key):
            raise InputError(f"{path} is damaged: /{key} does not match its digest")
    for name in found.digests.names:
        if not opening.has(file, name):
            raise InputError(f"{path} is damaged: /{name} is missing")
