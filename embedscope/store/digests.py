"""Digests of what a store holds, computed from what was handed over and compared with what is read: sha256.

Rows have one per layer and block of rows, so that part of a layer can be checked without the rest; labels and texts have one
each. Format.py says where they lie.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.store import opening

if TYPE_CHECKING:
    from collections.abc import Sequence

    import h5py

    Array = np.ndarray[Any, Any]

GROUP = "digests"
NAMES = "digests/names"
STOPS = "digests/stops"
BLOCKS = "digests/blocks"
SIZE = 32  # bytes of one


def of_texts(values: Sequence[str]) -> str:
    """Hash UTF-8 texts without NUL; hex."""
    digest = hashlib.sha256()
    step = 2**16
    for start in range(0, len(values), step):
        digest.update("".join(f"{value}\0" for value in values[start : start + step]).encode())
    return digest.hexdigest()


def of_labels(labels: Array) -> str:
    """Hash labels (N,) as int64; hex."""
    return hashlib.sha256(np.ascontiguousarray(labels, dtype="<i8").tobytes()).hexdigest()


def of_rows(name: str, rows: Array) -> bytes:
    """Hash rows (B, D) of a data set, with its name, type and width."""
    little = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{name} {little.dtype.str} {rows.shape[1]}\0".encode())
    digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.digest()


@dataclass(frozen=True)
class Digests:
    """The digests in a store. L data sets of rows, B blocks.

    Attributes:
        texts: "labels", "ids", "split", "class_names", "provenance" -> hex; empty in an unfinished store.
        names: (L,) such as "features/conv1".
        stops: (B,) the row that each block ends before, ascending.
        blocks: (B, L, 32) uint8.
    """

    texts: dict[str, str]
    names: tuple[str, ...]
    stops: Array
    blocks: Array

    def of(self, name: str) -> Array | None:
        """Those of one data set: (B, 32) uint8, or None if it has none."""
        return self.blocks[:, self.names.index(name)] if name in self.names else None


def read(file: h5py.File, done: int | None = None) -> Digests | None:
    """Read the digests of a store, of an unfinished one for the `done` rows that are committed; None for an earlier version.

    ValueError for what makes no sense.
    """
    if not opening.has(file, GROUP):
        return None
    group = opening.group(file, GROUP)
    texts = {key: opening.text_attribute(group, key) or "" for key in group.attrs}
    if not opening.has(file, NAMES):
        return Digests(texts, (), np.empty(0, np.int64), np.empty((0, 0, SIZE), np.uint8))
    names = tuple(opening.texts(file, NAMES).tolist())
    stops, blocks = opening.small(file, STOPS, "i"), opening.small(file, BLOCKS, "u")
    if done is not None:  # what lies beyond belongs to a block that was not committed
        known = 0 if not done else 1 + stops.tolist().index(done)
        stops, blocks = stops[:known], blocks[:known]
    if blocks.shape != (len(stops), len(names), SIZE) or (np.diff(stops, prepend=0) <= 0).any():
        raise ValueError(f"/{BLOCKS} are {blocks.shape} for {len(stops)} blocks of {len(names)} data sets")
    return Digests(texts, names, stops, blocks)
