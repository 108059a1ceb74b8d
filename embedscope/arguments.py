"""Checks of the arguments that functions take from users: each returns the value in its plain type, or raises a UsageError."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from embedscope.errors import UsageError, listed, unknown

# Characters of a value that a message shows.
_LONGEST = 60


def displayed(value: Any) -> str:
    """Return a value of any kind as a message shows what was given: text in quotes, arrays by their shape, never long.

    >>> displayed("x"), displayed(3), displayed([1, 2])
    ("'x'", '3', '[1, 2]')
    """
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    value = _plain(value)
    if isinstance(value, str | int | float | bool | list | tuple | dict | None):
        text = " ".join(repr(value).split())
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return f"an object of type {type(value).__name__}"


def check_choice(what: str, got: Any, known: Iterable[str], *, place: str = "") -> str:
    """Return `got` if it is one of the known names, else raise a UsageError that names the nearest."""
    names = list(known)
    if not isinstance(got, str):
        raise UsageError(f"{what} must be a string, got {displayed(got)}. There are: {listed(names)}")
    if got not in names:
        raise UsageError(unknown(what, got, names, place=place))
    return got


def check_text(what: str, got: Any) -> str:
    """Return `got` if it is text, else raise a UsageError."""
    if not isinstance(got, str):
        raise UsageError(f"{what} must be a string, got {displayed(got)}")
    return got


def check_path(what: str, got: Any, *, advice: str = "") -> Path:
    """Return `got`, text or a path, as a Path, else raise a UsageError that ends with the advice."""
    path = os.fspath(got) if isinstance(got, str | os.PathLike) else ""
    if not path or not isinstance(path, str):
        raise UsageError(f"{what} must be a path, got {displayed(got)}{advice and '; '}{advice}")
    return Path(path)


def check_names(what: str, got: Any, *, some: bool = False) -> list[str]:
    """Return one text, or several, as a list; UsageError for anything else, and for none of them where there must be `some`.

    None stands for none of them.

    >>> check_names("layers", "conv"), check_names("layers", ("conv", "fc"))
    (['conv'], ['conv', 'fc'])
    """
    several = isinstance(got, Iterable) and not isinstance(got, bytes | Mapping) and getattr(got, "shape", None) != ()
    names = [] if got is None else [got] if isinstance(got, str) else list(got) if several else None
    if names is None or not all(isinstance(each, str) for each in names):
        raise UsageError(f"{what} must be a string or a list of strings, got {displayed(got)}")
    if some and not names:
        raise UsageError(f"{what} is empty; name at least one, or omit it for the default")
    return names


def check_number(what: str, got: Any, *, above: float = -math.inf, low: float = -math.inf, high: float = math.inf) -> float:
    """Return `got` as a finite float if above < got and low <= got <= high, else raise a UsageError that says the range."""
    try:
        value = math.nan if isinstance(got, bool | str) else float(got)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not (above < value < math.inf and low <= value <= high):
        lowest = f" above {above:g}" if above > -math.inf else f" of at least {low:g}" if low > -math.inf else ""
        highest = f" and at most {high:g}" if high < math.inf else ""
        if low > -math.inf and high < math.inf:
            lowest, highest = f" from {low:g}", f" to {high:g}"
        raise UsageError(f"{what} must be a number{lowest}{highest}, got {displayed(got)}")
    return value


def check_flag(what: str, got: Any) -> bool:
    """Return `got` as a bool if it is True or False, of any library, else raise a UsageError."""
    plain = _plain(got)
    if not isinstance(plain, bool):
        raise UsageError(f"{what} must be True or False, got {displayed(got)}")
    return plain


def check_flags(**flags: Any) -> tuple[bool, ...]:
    """Return the values of arguments that are True or False, in the order given, else raise a UsageError.

    >>> amp, resume = check_flags(amp=True, resume=False)
    """
    return tuple(check_flag(f"`{name}=`", value) for name, value in flags.items())


def check_whole(what: str, got: Any, *, low: int, high: int | None = None) -> int:
    """Return `got` as an int if it is a whole number from `low` to `high`, of any library, else raise a UsageError."""
    try:
        value = None if isinstance(_plain(got), bool) else operator.index(got)
    except TypeError:
        value = None
    if value is None or value < low or (high is not None and value > high):
        limits = f"of at least {low:,}" if high is None else f"from {low:,} to {high:,}"
        raise UsageError(f"{what} must be an integer {limits}, got {displayed(got)}")
    return value


def check_optional_whole(what: str, got: Any, *, low: int) -> int | None:
    """Return `got` as an int, as `check_whole` does, or None for None."""
    return None if got is None else check_whole(what, got, low=low)


def check_optional_text(what: str, got: Any) -> str | None:
    """Return `got` if it is text or None, else raise a UsageError."""
    return None if got is None else check_text(what, got)


def check_seed(got: Any, what: str = "`seed=`") -> int:
    """Return a seed that every library takes, 0 to 2**32 - 1, as an int, else raise a UsageError."""
    return check_whole(what, got, low=0, high=2**32 - 1)


def _plain(got: Any) -> Any:
    """Return the number or the bool in an array without dimensions, anything else as it is."""
    return got.item() if getattr(got, "shape", None) == () and hasattr(got, "item") else got
