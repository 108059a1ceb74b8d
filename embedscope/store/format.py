"""The layout of a feature store, format version 1.

    /features/<layer>      float32 or float16 (N, D), chunked by rows, checksummed (fletcher32);
                           float64 in a run's before.h5 if finetune was given float64
    /magnitudes/<layer>    float32 (N, C): mean of |activation| over positions, for layers that have positions
    /logits                float32 (N, K)     the classifier's output, where it was asked for
    /labels                int64 (N,)         -1: unlabeled, otherwise an index into class_names
    /class_names           UTF-8 (K,)
    /ids                   UTF-8 (N,)         unique
    /split                 UTF-8 (N,)         where the data has splits
    /rows/done             int64              how many rows are committed
    /rows/announced        int64              how many inputs there are
    /rows/committed        int64 (2,)         /rows/done again, and the position of the first input after those rows
    /rows/skipped          int64 (M,)         positions, among all inputs, of those that could not be read and have no row
    /skipped/ids           UTF-8 (M,)         their ids, written last, if any
    /skipped/reasons       UTF-8 (M,)         why
    /provenance            UTF-8 JSON: model, data, layers, transform, run; see provenance.py
    /digests/names         UTF-8 (L,)         the data sets of rows that have digests, such as features/conv1
    /digests/stops         int64 (B,)         rows are hashed in blocks; each ends before this row
    /digests/blocks        uint8 (B, L, 32)   sha256 of a block of a data set, from the rows as they were handed over
    attributes of /digests labels, ids, split, class_names, provenance: sha256 (hex) of each, in a finished store
    attributes of /        schema, schema_version, complete

Written to `NAME.partial` and renamed when complete, after all of it was read back and compared with the digests. Rows are
committed by blocks, which are whole chunks of every layer: the rows, a flush, the counter, a flush. A chunk is written once,
whole: with a checksum, a chunk that is filled in two steps is rewritten in place, and a kill in between loses the rows that
were there before. Up to /rows/done, an unfinished store is as good as a finished one, and a run can resume from there.

Before a block is written, space for it is reserved. HDF5 cannot recover from a write that fails: it loses what it held, and
may crash when the program ends. This way a full disk is noticed while nothing is half written.

Structure is written as HDF5 1.8 has it: its object headers, links and superblock are checksummed, any HDF5 since 2008 reads it,
and a file that was killed opens again. The still newer format (1.10) also protects the index of chunks, but marks a file as
open for writing, and after a kill nothing opens it; the digests cover that index, and labels and texts, which no format
protects. /digests came later than the rest; a store without it is read without these checks.

JSON is a dataset rather than an attribute, because an attribute holds at most 64 KiB.
"""

from __future__ import annotations

SCHEMA = "embedscope"
SCHEMA_VERSION = 1

# The oldest and the newest version of HDF5 whose structures are written.
LIBVER = ("v108", "v108")

# The middle of the 256 KiB to 1 MiB that reads fast by rows without wasting memory on a few.
CHUNK_BYTES = 512 * 2**10

# Rows of all layers that are committed at once: what a kill costs at most, beside the batch that was being computed.
BLOCK_BYTES = 2 * 2**20


def chunk_rows(width: int, itemsize: int) -> int:
    """Rows in a chunk of a dataset that has `width` columns: a power of two, at least one."""
    return _power_of_two(CHUNK_BYTES // max(1, width * itemsize))


def block_rows(row_bytes: int, most: int | None = None) -> int:
    """Rows that are committed at once, where a row of all layers has `row_bytes` bytes: a power of two, at least one."""
    rows = BLOCK_BYTES // max(1, row_bytes)
    return _power_of_two(rows if most is None else min(rows, most))


def _power_of_two(at_most: int) -> int:
    return 1 << (max(at_most, 1).bit_length() - 1)
