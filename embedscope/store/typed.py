"""JSON into frozen records: a value of another type than its field has is an InputError that names the place."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any

from embedscope.errors import InputError

_NAMES = {str: "a UTF-8 string", int: "an integer", float: "a number below 1e100", bool: "true or false"}

# Larger numbers are damage, and their squares would overflow where they are drawn.
_LARGEST = 1e100


def read(kind: Any, value: Any, where: str) -> Any:
    """Read parsed JSON as a type: a record, str, int, float, bool, `X | None`, tuple, Mapping with text as keys, or Any.

    Lists become tuples. Keys of a record that it has no field for are left out, and a missing key has the field's default.

    Raises:
        InputError: beginning with `where`, the place in the document.
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        checked: dict[type, Any] = {dict: Mapping[str, Any], list: tuple[Any, ...], str: str}
        return read(checked[type(value)], value, where) if type(value) in checked else value
    if origin in (typing.Union, UnionType):
        (inner,) = (part for part in parts if part is not NoneType)
        return None if value is None else read(inner, value, where)
    if is_dataclass(kind):
        return _record(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list) or (parts[-1] is not Ellipsis and len(value) != len(parts)):
            raise _mismatch(where, "a list" if parts[-1] is Ellipsis else f"a list of {len(parts)}", value)
        kinds = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
        return tuple(read(part, each, f"{where}[{i}]") for i, (part, each) in enumerate(zip(kinds, value, strict=True)))
    if origin is Mapping:
        if not isinstance(value, dict):
            raise _mismatch(where, "an object", value)
        return {
            read(str, key, f"a key of {where}"): read(parts[1], each, f"{where}{_below(key)}") for key, each in value.items()
        }
    if kind is float:
        return _number(value, where)
    if type(value) is not kind or (kind is str and not _is_plain(value)):
        raise _mismatch(where, _NAMES[kind], value)
    return value


def _record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _mismatch(where, "an object", value)
    kinds, found = typing.get_type_hints(kind), {}
    for each in fields(kind):
        if each.name in value:
            found[each.name] = read(kinds[each.name], value[each.name], f"{where}.{each.name}")
        elif each.default is MISSING and each.default_factory is MISSING:
            raise InputError(f"{where} lacks '{each.name}'")
    return kind(**found)


def _is_plain(text: str) -> bool:
    """Whether a text can be written and drawn: JSON can hold half of a surrogate pair, and NUL."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _below(key: str) -> str:
    return f".{key}" if key.isidentifier() else f"[{key[:40]!r}]"


def _number(value: Any, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, OverflowError):
        number = math.nan
    if not abs(number) < _LARGEST:
        raise _mismatch(where, _NAMES[float], value)
    return number


def _mismatch(where: str, wanted: str, value: Any) -> InputError:
    return InputError(f"{where} must be {wanted}, got {str(value)[:40]!a}")
