"""The feature store: HDF5 with labels, ids and provenance beside the features; and features made elsewhere."""

from embedscope.store.reader import distinct_names, open_features, read_features
from embedscope.store.selection import check_finite, select, select_labelled, select_split
from embedscope.store.writer import StoreWriter

__all__ = [
    "StoreWriter",
    "check_finite",
    "distinct_names",
    "open_features",
    "read_features",
    "select",
    "select_labelled",
    "select_split",
]
