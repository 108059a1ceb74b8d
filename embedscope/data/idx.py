"""MNIST-style idx files, gzipped or not: `train-images-idx3-ubyte.gz` beside `train-labels-idx1-ubyte.gz`."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from embedscope.data.arrays import ArrayRows
from embedscope.data.columns import fingerprint, gaps, number_rows
from embedscope.data.dataset import Dataset
from embedscope.errors import InputError
from embedscope.plugins import recognises
from embedscope.store.labels import encode_labels
from embedscope.store.limits import DEFLATE, check_not_empty, check_size
from embedscope.text import counted, decoded

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

# The third byte of a file says what its numbers are, all of them with the highest byte first.
_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_NAME = re.compile(r"(?P<prefix>.*?)[-._]?(?P<what>images|labels)[-._]idx\d[-._]\w+?(\.gz)?", re.IGNORECASE)
_SPLIT = re.compile(r"(?:.*[-._])?(train|test|t10k|val\w*)", re.IGNORECASE)
# Images have four dimensions at most; NumPy takes no more than 64, and a header may say 255.
_MOST_DIMENSIONS = 8


def holds_idx(path: Path) -> bool:
    """Return whether a folder contains idx image files, by their names."""
    return path.is_dir() and any(_part(file) == "images" for file in path.iterdir())


@recognises(lambda path: _part(path) is not None or holds_idx(path))
def idx(location: str) -> Dataset:
    """Open MNIST-style idx files: a folder, or an image file next to its label file.

    Images are found by their names, as in train-images-idx3-ubyte.gz; train comes first, and t10k is called test. Images of
    (N, H, W) bytes are given as (1, H, W); anything else as it is. InputError for files that are cut short, no idx, or do not
    belong together.
    """
    images: list[Array] = []
    labels: list[Array] = []
    counts: dict[str, int] = {}
    for split, file in _image_files(Path(location)).items():
        images.append(_read(file))
        labels.append(_read(beside := _labels_of(file)))
        counts[split] = len(images[-1])
        if labels[-1].ndim != 1 or images[-1].ndim < 2 or not images[-1].size:
            raise InputError(
                f"{file} has the shape {images[-1].shape} and {beside.name} has {labels[-1].shape}; expected images "
                "(N, H, W) and labels (N,), N > 0"
            )
        if len(labels[-1]) != len(images[-1]):
            raise InputError(
                f"{file} holds {counted(len(images[-1]), 'image')}, but {beside.name} {counted(len(labels[-1]), 'label')}"
            )
        if images[-1].shape[1:] != images[0].shape[1:] or images[-1].dtype != images[0].dtype:
            raise InputError(
                f"{location}: images differ between the files: {images[0].shape[1:]} {images[0].dtype} and "
                f"{images[-1].shape[1:]} {images[-1].dtype}; give one of the files"
            )
    rows = np.concatenate(images) if len(images) > 1 else images[0]
    class_names, codes = encode_labels(location, {"y": np.concatenate(labels)})
    ids, names = number_rows(counts)
    return Dataset(
        inputs=ArrayRows(rows[:, None] if rows.ndim == 3 and rows.dtype == np.uint8 else rows),
        labels=codes,
        class_names=class_names,
        ids=ids,
        split=names,
        location=location,
        fingerprint=fingerprint([str(rows.dtype), str(rows.shape), rows]),
        notes=gaps(codes),
    )


def _part(file: Path) -> str | None:
    """Return whether a file has images or labels, by its name; None for neither."""
    match = _NAME.fullmatch(file.name)
    return match["what"].lower() if match and file.is_file() else None


def _image_files(path: Path) -> dict[str, Path]:
    """Return the image files by split: train, test, then others; the unpacked file is preferred over its .gz."""
    if _part(path) == "labels":
        raise InputError(f"{path} contains labels; give the image file next to it, or their folder")
    if path.is_file():
        return {"": path}
    if not holds_idx(path):
        raise InputError(f"{path} contains no idx images; expected files such as train-images-idx3-ubyte.gz")
    found: dict[str, Path] = {}
    for file in sorted(path.iterdir()):  # "x" comes before "x.gz"
        match = _NAME.fullmatch(file.name)
        if match is None or _part(file) != "images":
            continue
        known = _SPLIT.fullmatch(match["prefix"])
        split = known[1].lower().replace("t10k", "test") if known else decoded(match["prefix"]).lower()
        other = found.setdefault(split, file)
        if other.name != file.name.removesuffix(".gz") and other != file:
            raise InputError(
                f"{path} contains several sets of images named {split}: {other.name}, {file.name}; give one of the files"
            )
    order = ("train", "test")
    return dict(sorted(found.items(), key=lambda entry: order.index(entry[0]) if entry[0] in order else len(order)))


def _labels_of(images: Path) -> Path:
    """Return the label file of an image file, gzipped or not; its name differs in one word and in the rank."""
    match = _NAME.fullmatch(images.name)
    if match is None:
        raise InputError(
            f"{images} is not named like train-images-idx3-ubyte, so its labels cannot be found; rename both files"
        )
    beside = [
        file
        for file in sorted(images.parent.iterdir())
        if _part(file) == "labels" and (other := _NAME.fullmatch(file.name)) and other["prefix"] == match["prefix"]
    ]
    if not beside:
        expected = images.name.replace("images", "labels").replace("idx3", "idx1")
        raise InputError(f"{images} has no labels next to it; expected a file such as {images.with_name(expected)}")
    return beside[0]


def _read(path: Path) -> Array:
    """Read an idx file, with the shape (d0, d1, ...) of its header, in native byte order."""
    check_not_empty(path)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            limit = path.stat().st_size * (DEFLATE if packed else 1)
            if packed:
                with gzip.open(file) as unpacked:
                    return _parse(path, unpacked, limit)
            return _parse(path, file, limit)
    except (EOFError, zlib.error, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}; it is truncated or damaged; download it again") from error


def _parse(path: Path, file: IO[bytes] | gzip.GzipFile, limit: int) -> Array:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES or not magic[3]:
        raise InputError(
            f"{path} is not an idx file: it begins with {magic.hex(' ') or 'nothing'}, expected a start such as 00 00 08 03"
        )
    dtype, rank = np.dtype(_DTYPES[magic[2]]), magic[3]
    if rank > _MOST_DIMENSIONS:
        raise InputError(f"{path} declares {rank} dimensions, more than images have; it is damaged; download it again")
    dims = file.read(4 * rank)
    shape = tuple(int(dim) for dim in np.frombuffer(dims, dtype=">u4")) if len(dims) == 4 * rank else (0,)
    size = math.prod(shape) * dtype.itemsize
    if size <= limit:
        check_size(str(path), "what it holds", size, packed=path.stat().st_size)
    buffer = bytearray(size if size <= limit else 0)
    if len(dims) < 4 * rank or size > limit or _fill(file, buffer) < size:
        raise InputError(f"{path} is truncated: its header declares the shape {shape}, {size:,} bytes; download it again")
    if file.read(1):
        raise InputError(
            f"{path} has more than the {size:,} bytes of shape {shape} that its header declares; download it again"
        )
    array = np.frombuffer(buffer, dtype=dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _fill(file: IO[bytes] | gzip.GzipFile, buffer: bytearray) -> int:
    """Read into the buffer until it is full or the file ends; return the number of bytes read."""
    view, filled = memoryview(buffer), 0
    while filled < len(buffer) and (count := file.readinto(view[filled:])):  # type: ignore[union-attr]
        filled += count
    return filled
