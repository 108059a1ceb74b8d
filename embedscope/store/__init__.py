"""The feature store: HDF5 with labels, ids and provenance beside the features; and features made elsewhere."""

from embedscope.store.provenance import Provenance
from embedscope.store.reader import describe, distinct_names, open_features, read_features, resuming, stored_provenance, verify
from embedscope.store.selection import check_finite, select, select_labeled, select_split
from embedscope.store.unfinished import Unfinished, read_unfinished
from embedscope.store.writer import StoreWriter

__all__ = [
    "Provenance",
    "StoreWriter",
    "Unfinished",
    "check_finite",
    "describe",
    "distinct_names",
    "open_features",
    "read_features",
    "read_unfinished",
    "resuming",
    "select",
    "select_labeled",
    "select_split",
    "stored_provenance",
    "verify",
]
