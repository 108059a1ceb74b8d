"""The layout of a feature store, format version 1.

    /features/<layer>      float32 or float16 (N, D), chunked by rows, checksummed (fletcher32)
    /magnitudes/<layer>    float32 (N, C): mean of |activation| over positions, for layers that have positions
    /labels                int64 (N,)         -1: unlabelled, otherwise an index into class_names
    /class_names           UTF-8 (K,)
    /ids                   UTF-8 (N,)         unique
    /split                 UTF-8 (N,)         where the data has splits
    /rows/done             int64              how many rows are committed
    /provenance            UTF-8 JSON: model, data, layers, transform, run
    attributes of /        schema, schema_version, complete

Written to `NAME.partial` and renamed when complete. A chunk is written once, whole: with a checksum, a chunk that is filled in
two steps is rewritten in place, and a kill in between loses the rows that were there before.

JSON is a dataset and not an attribute because an attribute holds at most 64 KiB.
"""

from __future__ import annotations

SCHEMA = "embedscope"
SCHEMA_VERSION = 1

# The middle of the 256 KiB to 1 MiB that reads fast by rows without wasting memory on a few.
CHUNK_BYTES = 512 * 2**10


def chunk_rows(width: int, itemsize: int) -> int:
    """Rows in a chunk of a dataset that has `width` columns, at least one."""
    return max(1, CHUNK_BYTES // max(1, width * itemsize))
