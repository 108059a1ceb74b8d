"""Features in HDF5 files of other tools: AnnData (`.h5ad`), or data sets of features and labels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import torch

from embedscope.errors import InputError, UsageError, unknown
from embedscope.store import opening
from embedscope.store.arrays import USUAL
from embedscope.store.columns import choose, named
from embedscope.store.foreign import check_options, exact_floats, feature_set
from embedscope.store.labels import encode
from embedscope.store.limits import check_size
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from embedscope.ops.rows import Rows
    from embedscope.store.features import FeatureSet
    from embedscope.store.foreign import Source

# Data sets that are looked at to find features and labels.
_MOST_MEMBERS = 10_000


def open_hdf5(
    file: h5py.File, source: Source, layers: Sequence[str], rows: Callable[[str, str, tuple[int, int], torch.dtype], Rows]
) -> list[FeatureSet]:
    """Read the labels of an HDF5 file of another tool, and open its features: one set per layer.

    Of AnnData the layers are the arrays of obsm (all of them if none is named), and "X"; the labels a column of obs. Of any
    other file the features are the data set of a usual name, or the only one of rows; the labels likewise.

    Args:
        file: open.
        source: of the file, with the options layer or features, and label.
        layers: that the caller chose.
        rows: makes rows of a path, a data set, a shape (N, D) and a dtype; floats stay on disk by it, whole numbers do not.

    Raises:
        InputError: no features or labels that can be told from others, sparse or damaged ones, or links to other files.
        UsageError: an option that there is not, or several ways to name the layer.
    """
    given = check_options(source, ("layer", "features", "label"))
    chosen = [given[option] for option in ("layer", "features") if option in given]
    if len(chosen) + bool(layers) > 1:
        raise UsageError(f"{source.path}: select the layer once: with layer=, features= or `layers=`")
    wanted = chosen or list(layers)
    there = {name for name in ("obs", "obsm", "X") if file.get(name, getlink=True) is not None}
    if "obs" in there and len(there) > 1:
        names = {name: f"obsm/{name}" for name in (_group(file, source.path, "obsm") if "obsm" in there else ())}
        names |= {"X": "X"} if "X" in there else {}
        found = _named(source.path, "layer", wanted, names) if wanted else _arrays_of_rows(file, source.path, names)
        labels, ids = _observations(file, source.path, given.get("label"))
    else:
        sets = dict(_members(file, source.path))
        names = {name: name for name, each in sets.items() if each.ndim == 2 and each.shape[1] > 1 and each.dtype.kind in "fiu"}
        found = _named(source.path, "layer", wanted, names) if wanted else _usual(source.path, names, "X", "layer")
        flat = {name: name for name, each in sets.items() if each.shape and math.prod(each.shape) == each.shape[0]}
        label = given.get("label")
        where = _named(source.path, "label", [label], flat) if label else _usual(source.path, flat, "y", "label")
        labels, ids = _values(file, source.path, next(iter(where.values()))), None
    codes = encode(source.path, "the labels", labels)
    result = []
    for layer, name in found.items():
        each = _dataset(file, source.path, name)
        if each.ndim != 2 or each.dtype.kind not in "fiu" or not each.size:
            raise InputError(f"{source.path}: /{name} is {each.dtype} {each.shape}, expected numbers (N, D)")
        if len(each) != len(labels):
            raise InputError(
                f"{source.path}: /{name} has {counted(len(each), 'row')}, but there are {counted(len(labels), 'label')}"
            )
        features: Any
        if each.dtype.kind == "f" and each.dtype.isnative and each.dtype.itemsize <= 8:
            features = rows(source.path, name, each.shape, torch.from_numpy(np.empty(0, each.dtype)).dtype)
        else:
            check_size(source.path, f"/{name}", each.size * 8)
            features = exact_floats(source.path, each[()].astype(each.dtype.newbyteorder("=")))
        title = source.name if len(found) == 1 else f"{source.name}:{layer}"
        result.append(feature_set(source, layer, features, codes, ids=ids, name=title))
    return result


def _named(path: str, what: str, wanted: Sequence[str], names: dict[str, str]) -> dict[str, str]:
    """Choose by name, as a user knows it; InputError names the nearest of what is there."""
    for name in wanted:
        if name.strip("/") not in names:
            raise InputError(unknown(what, name, names, place=path))
    return {name.strip("/"): names[name.strip("/")] for name in wanted}


def _usual(path: str, names: dict[str, str], role: str, option: str) -> dict[str, str]:
    """Choose the data set of a usual name, or the only one; InputError for none or several."""
    found = [name for name in names if name.rpartition("/")[2].lower() in USUAL[role]] or list(names)
    what = {"layer": "features (N, D)", "label": "labels (N,)"}[option]
    if not found:
        raise InputError(f"{path} is HDF5 but not an embedscope feature store, and no data set looks like {what}")
    if len(found) > 1:
        raise InputError(
            f"{path} is HDF5 but not an embedscope feature store, and several data sets could be {what}: "
            f"{', '.join(found[:10])}; specify one, as in {path}({option}='NAME')"
        )
    return {found[0]: names[found[0]]}


def _arrays_of_rows(file: h5py.File, path: str, names: dict[str, str]) -> dict[str, str]:
    """Choose all plain arrays of obsm, or X if there are none."""
    found = {
        name: place
        for name, place in names.items()
        if name != "X" and isinstance(opening.member(file, place), h5py.Dataset) and _dataset(file, path, place).ndim == 2
    }
    if not found and "X" in names:
        return {"X": "X"}
    if not found:
        raise InputError(f"{path} has no arrays in obsm, and no X")
    return found


def _observations(file: h5py.File, path: str, label: str | None) -> tuple[Any, list[str] | None]:
    """Read the labels and the names of the rows of AnnData."""
    obs = _group(file, path, "obs")
    index = opening.text_attribute(obs, "_index") or "_index"
    columns = [name for name in obs if name not in (index, "__categories")]
    nodes = {name: opening.member(file, f"obs/{name}") for name in columns}
    categories = [name for name, node in nodes.items() if isinstance(node, h5py.Group) and "categories" in node]
    column, _ = choose(path, columns, given={"label": label}, candidates={"label": named(columns, "label") or categories})
    ids = _values(file, path, f"obs/{index}") if index in obs else None
    return _values(file, path, f"obs/{column}"), None if ids is None or len(set(ids)) < len(ids) else list(map(str, ids))


def _values(file: h5py.File, path: str, name: str) -> list[Any]:
    """Read a column (N,): an array, or AnnData's categories with codes, or its values with a mask; None is a gap."""
    node = opening.member(file, name)
    if isinstance(node, h5py.Group):
        if "categories" in node:
            return _worded(path, name, _array(file, f"{name}/categories"), _array(file, f"{name}/codes"))
        if "mask" in node:
            pairs = zip(_array(file, f"{name}/values"), _array(file, f"{name}/mask"), strict=True)
            return [None if masked else value for value, masked in pairs]
        raise InputError(f"{path}: /{name} is not a readable column; expected values, or categories with codes")
    values = _array(file, name)
    legacy = node.attrs.get("categories")
    if isinstance(legacy, h5py.Reference):
        return _worded(path, name, _array(file, file[legacy].name), values)
    return values


def _worded(path: str, name: str, words: Sequence[Any], codes: Sequence[Any]) -> list[Any]:
    """Turn codes (N,) into the words (K,) that they count; -1 is a gap."""
    if not all(isinstance(code, int) and -1 <= code < len(words) for code in codes):
        raise InputError(f"{path}: the codes of /{name} must be integers from -1 to {len(words) - 1}")
    return [None if code < 0 else words[code] for code in codes]


def _array(file: h5py.File, name: str) -> list[Any]:
    """Read numbers or texts, (N,) or (N, 1), within the bounds of memory."""
    if h5py.check_string_dtype(opening.dataset(file, name).dtype) is not None:
        texts: list[Any] = opening.texts(file, name).tolist()
        return texts
    numbers: list[Any] = opening.small(file, name, "iufb").reshape(-1).tolist()
    return numbers


def _members(file: h5py.File, path: str) -> Iterator[tuple[str, h5py.Dataset]]:
    """Give the data sets that lie in the file itself and have a dtype that NumPy knows, by their paths in it."""
    todo, seen, count = [""], set(), 0
    while todo:
        place = todo.pop()
        here = _group(file, path, place) if place else file
        address = h5py.h5o.get_info(here.id).addr
        if address in seen:
            continue
        seen.add(address)
        for key in here:
            count += 1
            if count > _MOST_MEMBERS:
                raise InputError(f"{path} holds more than {_MOST_MEMBERS:,} data sets; specify one, as in {path}(layer='NAME')")
            if not isinstance(here.get(key, getlink=True), h5py.HardLink):
                continue
            name = f"{place}/{key}" if place else key
            if here.get(key, getclass=True) is h5py.Group:
                todo.append(name)
            elif here.get(key, getclass=True) is h5py.Dataset and _is_array(here[key]):
                yield name, here[key]


def _is_array(each: h5py.Dataset) -> bool:
    """Whether a data set holds plain values: not records, and not a type that h5py has no dtype for, such as times."""
    try:
        return each.shape is not None and each.dtype.names is None
    except TypeError:
        return False


def _group(file: h5py.File, path: str, name: str) -> h5py.Group:
    found = opening.member(file, name)
    if not isinstance(found, h5py.Group):
        raise InputError(f"{path}: /{name} is not a group; it was written by AnnData before 0.7; open it and save it again")
    return found


def _dataset(file: h5py.File, path: str, name: str) -> h5py.Dataset:
    if not isinstance(opening.member(file, name), h5py.Dataset):
        raise InputError(f"{path}: /{name} is sparse or a table, not an array; save it as an array (N, D)")
    return opening.dataset(file, name)
