"""Labels of any kind as class names and indices, by one rule whatever file they come from."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Array = np.ndarray[Any, Any]
    Labels = np.ndarray[Any, np.dtype[np.int64]]

# What pandas and SQL write for "no label" where labels are numbers; among names it is a name.
_GAPS = frozenset({"nan", "NaN", "null", "NULL"})
# Numbers as programs write whole ones; 007 and 1e3 stay text, so that no two names become one.
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,14})(\.0)?")


def encode(location: str, column: str, values: Sequence[Any] | Array) -> tuple[tuple[str, ...], Labels]:
    """Turn labels of any kind into class names (K,) and int64 indices (N,); gaps and negative numbers are -1.

    Gaps are None, NaN and empty text; "nan" and "null" too if all other labels are numbers. Whole numbers are classes in the
    order of numbers, whether they are written as 1, 1.0 or text; text is in its own order. InputError for anything else.
    """
    if isinstance(values, np.ndarray):
        if values.dtype.kind in "iuf":
            return _numbers(location, values)
        if values.dtype.kind not in "USbO":
            raise _refusal(location, values.dtype, values[0])
        values = (text_rows(location, {column: values}, column) or []) if values.dtype.kind == "S" else values.tolist()
    kept = {row: value.strip() if isinstance(value, str) else value for row, value in enumerate(values) if not _gap(value)}
    for row, value in kept.items():
        if not isinstance(value, str | int | float | np.integer | np.floating | np.bool_):
            raise InputError(
                f"{location}: labels must be integers or text, but row {row} of {column} (counted from 0) holds a "
                f"{type(value).__name__}"
            )
    words = [value for value in kept.values() if isinstance(value, str)]
    if all(word in _GAPS or _is_number(word) for word in words):
        kept = {row: value for row, value in kept.items() if value not in _GAPS}
    if all(isinstance(value, bool | np.bool_) for value in kept.values()):
        kept = {row: str(value) for row, value in kept.items()}
    else:
        kept = {row: _whole(location, value) for row, value in kept.items()}
    if any(isinstance(value, str) for value in kept.values()):
        kept = {row: str(value) for row, value in kept.items()}
    _check_signs(location, set(kept.values()))
    classes = sorted(value for value in set(kept.values()) if isinstance(value, str) or value >= 0)
    place = {value: index for index, value in enumerate(classes)}
    labels = np.full(len(values), -1, dtype=np.int64)
    for row, value in kept.items():
        labels[row] = place.get(value, -1)
    return tuple(map(str, classes)), labels


def encode_labels(path: str, arrays: Mapping[str, Array]) -> tuple[tuple[str, ...], Labels]:
    """Turn the labels "y" into class names (K,) and int64 indices (N,), as `encode` does.

    Whole numbers index "class_names" if the file has them.
    """
    labels = arrays["y"]
    if "class_names" not in arrays or labels.dtype.kind not in "iuf":
        return encode(path, "y", labels)
    numbers, codes = _numbers(path, labels)
    given = arrays["class_names"]
    names = tuple(text_rows(path, arrays, "class_names") or ()) if given.ndim == 1 else ()
    if len(set(names)) != len(names) or not names:
        raise InputError(f"{path}: class_names must be distinct and one-dimensional; got {str(given)[:60]}")
    used = np.array([int(number) for number in numbers], dtype=np.int64)
    if used.max(initial=-1) >= len(names):
        raise InputError(f"{path}: label {used.max()} has no name among {len(names)} class_names")
    return names, np.append(used, -1)[codes]


def text_rows(path: str, arrays: Mapping[str, Array], name: str) -> list[str] | None:
    """Take an optional (N,) array as text: numbers as they print, bytes as UTF-8."""
    if name not in arrays:
        return None
    try:
        texts = [value.decode() if isinstance(value, bytes) else str(value) for value in arrays[name].tolist()]
        for text in texts:
            text.encode()
    except UnicodeError as error:
        raise InputError(f"{path}: {name} are not UTF-8 text: {error}") from error
    return texts


def _numbers(location: str, labels: Array) -> tuple[tuple[str, ...], Labels]:
    known = np.ones(len(labels), dtype=bool)
    if labels.dtype.kind == "f":
        known = ~np.isnan(labels)
        wrong = known & ~((np.abs(labels) < 2.0**53) & (labels == np.floor(labels)))
        if wrong.any():
            raise _refusal(location, labels.dtype, labels[wrong][0])
        labels = np.where(known, labels, -1).astype(np.int64)
    values, found = np.unique(labels, return_inverse=True)
    _check_signs(location, set((values if known.all() else np.unique(labels[known])).tolist()))
    unlabelled = int((values < 0).sum())
    codes = found.astype(np.int64) - unlabelled
    return tuple(str(value) for value in values[unlabelled:].tolist()), np.maximum(codes, -1)


def _check_signs(location: str, values: set[Any]) -> None:
    """Raise InputError for two classes that are called -1 and 1, as in a support vector machine."""
    if values == {-1, 1}:
        raise InputError(f"{location}: labels are -1 and 1, but a negative label means unlabeled; give 0 and 1, or names")


def _whole(location: str, value: Any) -> int | str:
    """Return a label as a whole number if it is one, however it is written, else as it is."""
    if isinstance(value, str):
        return int(value.removesuffix(".0")) if _WHOLE.fullmatch(value) else value
    if isinstance(value, float | np.floating) and not (math.isfinite(value) and value == math.floor(value)):
        raise _refusal(location, np.asarray(value).dtype, value)
    return int(value)


def _refusal(location: str, dtype: Any, value: Any) -> InputError:
    return InputError(f"{location}: labels must be integers or text, got {dtype} such as {value}")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _gap(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float | np.floating) and math.isnan(value))
    )
