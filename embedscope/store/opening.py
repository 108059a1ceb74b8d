"""Open the files of strangers: nothing but the file itself is read, and memory is bounded before it is taken.

HDF5 follows links into other files, reads storage that lies elsewhere, loads filters from plugins and allocates what a file
declares. A feature store needs none of that, so whatever a file declares is held against the bytes that it has.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from embedscope.errors import InputError
from embedscope.store import locks
from embedscope.store.limits import check_not_empty

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Array = np.ndarray[Any, Any]

# Everything but rows is read into memory at once: labels, and the bytes of all ids; and so long may a single text be.
BUDGET = 2 * 2**30
LONGEST = 2**20
LONGEST_PROVENANCE = 64 * 2**20

# A chunk is read whole, whatever part of it is asked for.
_CHUNK = 64 * 2**20

# So much of a file is searched for heaps that are damaged.
_START = 64 * 2**10

# Filters that are a part of HDF5 or h5py, and by how much they can make bytes more. Others are loaded from plugins.
_FILTERS = {h5py.h5z.FILTER_FLETCHER32: 1, h5py.h5z.FILTER_SHUFFLE: 1, h5py.h5z.FILTER_DEFLATE: 1100, h5py.h5z.FILTER_LZF: 300}

# Where a file system has no locks, HDF5 does without; our own lock lies beside the file.
LOCKING = "best-effort"

# What reading a damaged file raises, in HDF5, in NumPy and in what is made of it.
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError, MemoryError)

_POINTER = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])  # to a text, as HDF5 keeps it


def check_file(path: Path) -> None:
    """Raise InputError for what is not there, a folder, a pipe or a device, and for a file of 0 bytes."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # NUL in a name
        raise InputError(f"no such file: {path}: {error}") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder; give a feature store (.h5), a .npz, X.npy,y.npy, or a table (.csv, .parquet)")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is a pipe or a device, not a file; give a feature store (.h5)")
    if path.suffix != ".partial":  # which another process may be about to write
        check_not_empty(path)


def opened(path: Path) -> h5py.File:
    """Open an HDF5 file to read. InputError for anything else, and for one that is being written."""
    check_file(path)
    if path.suffix == ".partial":
        final = path.with_name(path.name.removesuffix(".partial"))
        if (holder := locks.other_writer(final)) is not None:
            raise InputError(locks.busy(final, holder))
    try:
        _check_heaps(path)
        return h5py.File(path, "r", locking=LOCKING)
    except (OSError, RuntimeError) as error:
        if is_locked(error):
            raise InputError(f"{path} is locked by another process that is writing it; wait until it is closed") from error
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EIO):
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        reason = str(error).partition("\n")[0]
        if path.suffix == ".partial":
            raise InputError(f"{path} is unfinished and truncated; run the same extract again") from error
        raise InputError(f"{path} is not an HDF5 feature store, or it is truncated ({reason})") from error


def _check_heaps(path: Path) -> None:
    """Raise InputError for a damaged heap of texts at the start of a file: HDF5 would walk through it without end.

    That is where attributes, and the names of small stores, have theirs.
    """
    with path.open("rb") as stream:
        start = stream.read(_START)
    place = -8
    while (place := start.find(b"GCOL\x01\0\0\0", place + 8)) >= 0:
        end = place + int.from_bytes(start[place + 8 : place + 16], "little")
        here = place + 16
        while here + 16 <= min(end, len(start)):
            index, size = (
                int.from_bytes(start[here : here + 2], "little"),
                int.from_bytes(start[here + 8 : here + 16], "little"),
            )
            if index == 0 and size < 16:
                raise InputError(f"{path} is damaged: the strings at byte {place:,} cannot be read")
            here += size if index == 0 else 16 + (size + 7) // 8 * 8


def opened_to_resume(path: Path) -> h5py.File:
    """Open an unfinished file to read, by the process that holds its lock; the errors are those of h5py."""
    check_file(path)
    return h5py.File(path, "r", locking=LOCKING)


def is_locked(error: BaseException) -> bool:
    """Whether HDF5 reports that another process holds a file."""
    return isinstance(error, BlockingIOError) or "unable to lock" in str(error)


def attribute(node: h5py.File | h5py.Group, name: str, kind: str) -> Any:
    """Read a small attribute of a kind of NumPy ("i", "b"), or None if there is none; ValueError for one of another kind."""
    if name not in node.attrs:
        return None
    found = node.attrs.get_id(name)
    if found.shape != () or found.dtype.kind not in kind:
        raise ValueError(f"the attribute {name} is {found.dtype} {found.shape}")
    return node.attrs[name]


def text_attribute(node: h5py.File | h5py.Group, name: str) -> str | None:
    """Read an attribute that is a short text, or None if there is none; ValueError for any other."""
    if name not in node.attrs:
        return None
    found = node.attrs.get_id(name)
    if found.shape != () or found.get_storage_size() > LONGEST or h5py.check_string_dtype(found.dtype) is None:
        raise ValueError(f"the attribute {name} is {found.dtype} {found.shape}, expected text")
    value = node.attrs[name]
    return value.decode() if isinstance(value, bytes) else str(value)


def plain(name: str) -> str:
    """Write a name as HDF5 lists it: of several slashes it takes one, and a layer of ONNX may begin with one."""
    return "/".join(key for key in name.split("/") if key)


def has(file: h5py.File, name: str) -> bool:
    """Whether anything is there; unlike `in`, this opens no other file."""
    try:
        member(file, name)
    except KeyError:
        return False
    return True


def group(file: h5py.File, name: str) -> h5py.Group:
    """Return a group of the file itself; InputError for links, KeyError if it is not there."""
    found = member(file, name)
    if not isinstance(found, h5py.Group):
        raise ValueError(f"/{name} is not a group")
    return found


def dataset(file: h5py.File, name: str, *, whole: bool = True) -> h5py.Dataset:
    """Return a data set whose bytes lie in the file itself.

    With `whole`, all of it must be there, which holds for a finished store; else rows may not be written yet.

    Raises:
        InputError: links, storage elsewhere, filters from plugins, or a shape that the bytes in the file cannot fill.
        KeyError: not there.
        ValueError: not a data set.
    """
    found = member(file, name)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"/{name} is not a data set")
    if found.is_virtual or found.external:
        raise InputError(
            f"{file.filename}: /{name} is stored in external files, which are not read; copy it into one file with h5repack"
        )
    if found.shape is None:
        raise ValueError(f"/{name} has no values")
    layout = found.id.get_create_plist()
    growth = 1
    for number in range(layout.get_nfilters()):
        code = layout.get_filter(number)[0]
        if code not in _FILTERS:
            raise InputError(
                f"{file.filename}: /{name} has the HDF5 filter {code}; supported are gzip, lzf, shuffle and fletcher32; "
                f"rewrite it with h5repack -f GZIP=4"
            )
        growth = max(growth, _FILTERS[code])
    item = found.id.get_type().get_size() if h5py.check_string_dtype(found.dtype) is None else 1
    needed, stored = math.prod(found.shape) * item, found.id.get_storage_size()
    if stored > file.id.get_filesize() or (whole and needed > stored * growth):
        shape = " x ".join(f"{each:,}" for each in found.shape)
        raise InputError(f"{file.filename}: /{name} declares {shape} values, more than its {stored:,} bytes can hold")
    chunk = math.prod(found.chunks or (0,)) * item
    if chunk > max(_CHUNK, math.prod(found.shape[1:]) * item, min(stored, BUDGET)):
        raise InputError(f"{file.filename}: /{name} has chunks of {chunk:,} bytes; rewrite it with smaller ones")
    return found


def datasets_below(file: h5py.File, name: str) -> list[str]:
    """List the data sets of a group, and of groups in it, by their names there."""
    if not has(file, name):
        return []
    seen: set[int] = set()

    def walked(prefix: str) -> Iterator[str]:
        here = group(file, f"{name}/{prefix}")
        address = h5py.h5o.get_info(here.id).addr
        if address in seen:
            raise ValueError(f"/{name} contains itself")
        seen.add(address)
        for key in here:
            found = member(file, f"{name}/{prefix}{key}")
            if isinstance(found, h5py.Group):
                yield from walked(f"{prefix}{key}/")
            else:
                yield f"{prefix}{key}"

    return list(walked(""))


def small(file: h5py.File, name: str, kind: str) -> Array:
    """Read a data set of whole numbers, of a kind of NumPy, into memory; ValueError for another kind."""
    found = dataset(file, name)
    if found.dtype.kind not in kind:
        raise ValueError(f"/{name} are {found.dtype} {found.shape}")
    _within_budget(file, name, math.prod(found.shape) * found.dtype.itemsize)
    values: Array = found[()]
    return np.asarray(values)


def texts(file: h5py.File, name: str, longest: int = LONGEST) -> Array:
    """Read texts into memory, (N,) or a single one () of type object; (N, 1) is (N,).

    ValueError for anything but UTF-8 text.
    """
    found = dataset(file, name)
    kind = h5py.check_string_dtype(found.dtype)
    if kind is None or found.shape[1:] not in ((), (1,)):
        raise ValueError(f"/{name} is {found.dtype} {found.shape}, expected text")
    if kind.length is not None:
        _within_budget(file, name, math.prod(found.shape) * kind.length, kind.length, longest)
        return np.asarray(found.asstr()[()], dtype=object).reshape(found.shape[:1])
    count, offset = math.prod(found.shape), found.id.get_offset()
    if not count:
        return np.empty(found.shape[:1], dtype=object)
    if offset is not None and found.id.get_storage_size() == count * _POINTER.itemsize:
        lengths = _pointers(file, count, offset)["length"]
        _within_budget(file, name, int(lengths.sum(dtype=np.int64)), int(lengths.max(initial=0)), longest)
        return np.asarray(found.asstr()[()], dtype=object).reshape(found.shape[:1])
    return _in_steps(file, found, name, count, longest)


def _pointers(file: h5py.File, count: int, offset: int) -> Array:
    if not hasattr(os, "pread"):  # Windows
        return np.fromfile(file.filename, _POINTER, count, offset=offset)
    size, parts = count * _POINTER.itemsize, bytearray()
    while len(parts) < size:
        part = os.pread(file.id.get_vfd_handle(), min(size - len(parts), 2**30), offset + len(parts))
        if not part:
            raise ValueError("the file ends before its strings")
        parts += part
    return np.frombuffer(parts, _POINTER)


def _in_steps(file: h5py.File, found: h5py.Dataset, name: str, count: int, longest: int) -> Array:
    """Read texts that another program laid out in its own way: no more at once than the budget holds if all were the file."""
    if count > file.id.get_filesize():
        raise InputError(f"{file.filename}: /{name} declares {count:,} texts, more than the file can hold")
    if found.ndim == 0:
        _within_budget(file, name, file.id.get_filesize())
        return np.asarray(found.asstr()[()], dtype=object)
    step = max(1, min(2**16, BUDGET // file.id.get_filesize()))
    parts, total = [], 0
    for start in range(0, count, step):
        parts.append(found.asstr()[start : start + step].reshape(-1))
        lengths = [len(text) for text in parts[-1]]
        total += sum(lengths)
        _within_budget(file, name, total, max(lengths), longest)
    return np.concatenate(parts)


def _within_budget(file: h5py.File, name: str, size: int, longest: int = 0, most: int = LONGEST) -> None:
    if longest > most:
        raise InputError(f"{file.filename}: /{name} has a text of {longest:,} bytes; at most {most:,} are read")
    if size > BUDGET:
        raise InputError(f"{file.filename}: /{name} would take {size:,} bytes; at most {BUDGET:,} are read")


def member(file: h5py.File, name: str) -> h5py.Group | h5py.Dataset:
    """Return what is hard-linked at a path of the file; InputError for other links, KeyError if nothing is there."""
    here: Any = file
    for key in plain(name).split("/"):
        link = here.get(key, None, getlink=True) if isinstance(here, h5py.Group) else None
        if link is None:
            raise KeyError(f"/{name} is missing")
        if not isinstance(link, h5py.HardLink):
            raise InputError(f"{file.filename}: /{name} is a link, which is not followed")
        here = here[key]
    return here
