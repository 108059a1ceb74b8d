"""Features made elsewhere: arrays, tables and tensors with labels, opened to the same record as a store's.

Options in brackets say what to read of a file: `v.parquet(label="species", features="d*")`, `a.h5ad(layer="X_pca",
label="cell_type")`. A name that is there as it stands is a path, whatever it holds of brackets and commas.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope import plugins
from embedscope.errors import InputError, UsageError, unknown
from embedscope.store.arrays import check_arrays, load_arrays
from embedscope.store.columns import choose, is_number, is_table, listed, named, numbers, open_columns
from embedscope.store.features import FeatureSet
from embedscope.store.labels import encode, encode_labels, text_rows
from embedscope.store.provenance import DataOrigin, Provenance
from embedscope.store.tensors import SUFFIXES, load_tensors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from embedscope.ops.rows import Rows
    from embedscope.store.columns import Columns

    Array = np.ndarray[Any, Any]

# Options by what they name, and how the arrays of a file are called without them.
_ARRAY_OPTIONS = {"features": "X", "label": "y", "id": "ids", "split": "split", "class_names": "class_names"}
# What pandas and others call a column of row numbers.
_INDEX = re.compile(r"|index|Unnamed: \d+|__index_level_\d+__")
_NUMBERED = re.compile(r"(.*?)\d+")


@dataclass(frozen=True)
class Source:
    """What a user typed, in its parts.

    Attributes:
        name: shown in tables.
        files: one, or the file of features and that of labels.
        options: what to read of it.
        spec: files and options as they were typed.
    """

    name: str
    files: tuple[str, ...]
    options: Mapping[str, Any]
    spec: str

    @property
    def path(self) -> str:
        """The files as one text."""
        return ",".join(self.files)


def parse_source(source: str) -> Source:
    """Part `[name=]path[(options)]` and `[name=]X.npy,y.npy`; what is there as it stands is a path.

    InputError for a name that no file can have, UsageError for options that are not literals.
    """
    try:
        files, options = _parted(source)
        there = all(Path(file).exists() for file in files)
        name, separator, spec = source.partition("=")
        if separator and name and not there and not set(name) & set("/("):
            files, options = _parted(spec)
            return Source(name, files, options, spec)
    except OSError as error:
        raise InputError(f"cannot read {source[:80]}: {error.strerror}") from error
    return Source(Path(files[0]).stem, files, options, source)


def _parted(text: str) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    if Path(text).exists():
        return (text,), {}
    commas = [place for place, character in enumerate(text) if character == ","]
    for place in commas:
        pair = (text[:place], text[place + 1 :])
        if all(Path(file).exists() for file in pair):
            return pair, {}
    if text.endswith(")"):
        spec = plugins.parse(text)
        if spec.args:
            raise UsageError(f"options of {spec.name} need a name, as in {spec.name}(label='species')")
        return _parted(spec.name)[0], spec.options
    return tuple(text.split(",")) if len(commas) == 1 else (text,), {}


def is_foreign(file: str) -> bool:
    """Whether a file is read here, by its suffix; HDF5 is not."""
    return Path(file).suffix.lower() in (".npz", ".npy", *SUFFIXES) or is_table(Path(file))


def open_foreign(source: Source) -> FeatureSet:
    """Read arrays, a table or tensors with their labels, into memory.

    Raises:
        InputError: not there, damaged, larger than memory, without labels unless label=None says so, or features and labels
            that do not belong together.
        UsageError: an option that the kind of file does not have.
    """
    suffixes = {Path(file).suffix.lower() for file in source.files}
    labeled = source.options.get("label", "") is not None
    if not labeled and suffixes & set(SUFFIXES):
        raise UsageError(f"{source.path}: label=None applies to arrays and tables; give X.npy, a .npz or a table")
    if not labeled:
        source = replace(source, options={name: value for name, value in source.options.items() if name != "label"})
    if len(source.files) == 1 and is_table(Path(source.files[0])):
        return _from_table(source, labeled=labeled)
    known = _ARRAY_OPTIONS if len(source.files) == 1 else {}
    keys = {_ARRAY_OPTIONS[name]: value for name, value in check_options(source, known).items()}
    if suffixes & set(SUFFIXES):
        arrays = check_arrays(source.path, load_tensors(source.files, keys))
    else:
        arrays = load_arrays(source.files, keys=keys, labeled=labeled)
    if arrays["X"].ndim != 2:
        raise InputError(f"{source.path}: X must be numbers of shape (N, D), got {arrays['X'].dtype} {arrays['X'].shape}")
    return feature_set(
        source,
        keys.get("X", "X"),
        exact_floats(source.path, arrays["X"]),
        encode_labels(source.path, arrays),
        ids=text_rows(source.path, arrays, "ids"),
        split=text_rows(source.path, arrays, "split"),
    )


def check_options(source: Source, known: Collection[str]) -> dict[str, str]:
    """Return the options, texts all; UsageError for one that is not known, or is not text."""
    for option, value in source.options.items():
        if option not in known:
            raise UsageError(unknown("option", option, known, place=source.path))
        if not isinstance(value, str):
            raise UsageError(f"{source.path}: {option} must be a quoted name, got {value!r}")
    return dict(source.options)


def feature_set(
    source: Source,
    layer: str,
    features: Array | Rows,
    labels: tuple[tuple[str, ...], Array],
    *,
    ids: Sequence[str] | None = None,
    split: Sequence[str] | None = None,
    name: str | None = None,
) -> FeatureSet:
    """Make the record of features (N, D) with class names (K,) and labels (N,); ids are row numbers if there are none."""
    count = len(labels[1])
    rows: Any = torch.from_numpy(np.require(features, None, ["C", "W"])) if isinstance(features, np.ndarray) else features
    return FeatureSet(
        name=name or source.name,
        source=source.path,
        layer=layer,
        features=rows,
        labels=labels[1],
        class_names=labels[0],
        ids=np.array([str(row) for row in range(count)] if ids is None else list(ids), dtype=object),
        split=None if split is None else np.array(list(split), dtype=object),
        provenance=Provenance(data=DataOrigin(spec=source.spec)),
    )


def exact_floats(path: str, values: Array) -> Array:
    """Return numbers as floats of the same value: whole ones as float32 if it holds them, else as float64.

    InputError for whole numbers beyond 2**53, which would be rounded.
    """
    if values.dtype.kind == "f":
        return values
    if values.dtype.kind in "iu" and values.size and not -(2**53) <= int(values.min()) <= int(values.max()) <= 2**53:
        raise InputError(f"{path}: integers beyond 2**53 cannot be represented as floats; subtract an offset or divide them")
    return narrowed(values.astype(np.float64))


def narrowed(values: Array) -> Array:
    """Return float64 numbers as float32 if that holds every one of them, else as they are."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    return narrow if np.array_equal(narrow, values, equal_nan=True) else values


def _from_table(source: Source, *, labeled: bool) -> FeatureSet:
    path = source.path
    patterns = source.options.get("features")
    texts = {name: value for name, value in source.options.items() if name != "features" or isinstance(value, str)}
    given: dict[str, str] = check_options(
        Source(source.name, source.files, texts, source.spec), ("label", "features", "id", "split")
    )
    if isinstance(patterns, str):
        patterns = [patterns]
    elif patterns is not None and not (
        isinstance(patterns, list | tuple) and patterns and all(isinstance(each, str) for each in patterns)
    ):
        raise UsageError(f"{path}: features must be a pattern or a list of them, as in 'd*', got {patterns!r}")
    columns = open_columns(path, Path(path))
    roles = {}
    if labeled:
        roles["label"] = choose(
            path, columns.names, given={"label": given.get("label")}, candidates={"label": named(columns.names, "label")}
        )[0]
    for role in ("id", "split"):
        candidates = named(columns.names, role, taken=list(roles.values()))
        if role in given or candidates:
            roles[role] = choose(path, columns.names, given={role: given.get(role)}, candidates={role: candidates})[0]
    others = [name for name in columns.names if name not in roles.values()]
    wanted = _recognized(path, columns, others) if patterns is None else _matching(path, others, patterns)
    found = dict(zip(roles, columns.take(*roles.values()), strict=True))
    if labeled and not found["label"]:
        raise InputError(f"{path} has no rows")
    values = numbers(path, columns, wanted)
    if not len(values):
        raise InputError(f"{path} has no rows")
    labels = encode(path, roles["label"], found["label"]) if labeled else ((), np.full(len(values), -1))
    if not values.shape[1]:
        raise InputError(f"{path}: {wanted[0]} holds empty lists; expected numbers")
    ids, split = ([str(value) for value in found[role]] if role in found else None for role in ("id", "split"))
    if ids is not None and len(set(ids)) != len(ids):
        raise InputError(f"{path}: ids must be unique; {len(ids) - len(set(ids))} of {len(ids)} are repeated")
    values = narrowed(values) if values.dtype == np.float64 else exact_floats(path, values)
    return feature_set(source, wanted[0] if len(wanted) == 1 else "X", values, labels, ids=ids, split=split)


def _pattern(names: Sequence[str]) -> str:
    """Write a pattern for an example: that of the columns that are numbered, else the name of the last column."""
    found = (_NUMBERED.fullmatch(name) for name in names if not _INDEX.fullmatch(name))
    stems = Counter(match[1] for match in found if match)
    if not stems:
        return names[-1] if names else "d*"
    return f"{stems.most_common(1)[0][0] or '[0-9]'}*"


def _matching(path: str, names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Name the columns that match any of the patterns, in the table's order; InputError for a pattern without one."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(f"{path}: no feature column matches '{pattern}'; there are: {listed(names) or 'none'}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _recognized(path: str, columns: Columns, names: Sequence[str]) -> list[str]:
    """Name the columns that are features: the only one of lists, those numbered alike, or all that hold numbers.

    InputError if there are none, or some that may be and may not.
    """
    first = columns.first
    example = f"select the feature columns, as in {path}(features='{_pattern(names)}')"
    lists = [name for name in names if isinstance(first.get(name), list) and is_number(first[name])]
    if len(lists) == 1:
        return lists
    if lists:
        raise InputError(f"{path}: several columns contain lists of numbers: {listed(lists)}; {example}")
    blank = [name for name in names if first.get(name) is None or first.get(name) == ""]
    likely = {name for name in names if (name in blank or is_number(first[name])) and not _INDEX.fullmatch(name)}
    stems: dict[str, list[str]] = {}
    for name in names:
        if (match := _NUMBERED.fullmatch(name)) is not None and not _INDEX.fullmatch(name):
            stems.setdefault(match[1], []).append(name)
    # A column that is numbered like others and holds text is one of them, and its text is reported where it is read.
    alike = {stem: members for stem, members in stems.items() if len(members) > 1 and likely.intersection(members)}
    numbered = [name for members in alike.values() for name in members]
    rest = likely.difference(numbered)
    if len(alike) > 1 or (alike and rest):
        ranges = [f"{members[0]} ... {members[-1]}" for members in alike.values()]
        raise InputError(
            f"{path}: the numeric columns are {listed([*ranges, *(name for name in names if name in rest)])}; {example}"
        )
    found = numbered or [name for name in names if name in likely]
    if not found:
        raise InputError(f"{path}: no numeric column besides the label; there are: {listed(columns.names)}")
    return found
