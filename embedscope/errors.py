"""Every error that embedscope raises on purpose.

    EmbedscopeError            exit code 1: something that was given cannot be used
    ├── UsageError             exit code 2: what was typed could never work (a name, an option, an expression)
    ├── InputError             a file, a model or data that cannot be used as it is
    │   └── UndefinedError     a metric has no value on these data (one class, say); reports show it as null
    ├── OutputError            the output exists, or cannot be written
    ├── MissingExtraError      an optional dependency is not installed
    ├── ThresholdError         exit code 3: a value is on the wrong side of the limit given for it
    └── InterruptedRunError    exit code 130: stopped by a signal, with what was done so far kept

A message is one line: what was wrong, what was found, what is allowed, what to do next. Anything else that is raised is a
bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Of many names, such as the columns of a wide table: how many are compared with what was typed, and how many are listed.
_COMPARED = 5_000
_LISTED = 100


class EmbedscopeError(Exception):
    """Root of the tree.

    Attributes:
        exit_code: what the command line ends with.
        repeated: of several processes another one has the same to say; None outside of a process group.

    Example:
        >>> from embedscope import score
        >>> try:
        ...     score("nothing-here.h5")
        ... except EmbedscopeError as error:
        ...     print(error)
        no such file: nothing-here.h5
    """

    exit_code = 1
    repeated: bool | None = None


class UsageError(EmbedscopeError):
    """A name, an option or an expression that no input could make right."""

    exit_code = 2


class InputError(EmbedscopeError):
    """A file, a model or data that cannot be used as it is."""


class UndefinedError(InputError):
    """A metric that has no value on the data it was given."""


class OutputError(EmbedscopeError):
    """An output that exists already or cannot be written."""


class MissingExtraError(EmbedscopeError):
    """An optional dependency that is not installed."""


class ThresholdError(EmbedscopeError):
    """A value on the wrong side of the limit that was given for it."""

    exit_code = 3


class InterruptedRunError(EmbedscopeError):
    """A run that a signal stopped after its work so far was committed; the message says how to go on."""

    exit_code = 130


@contextmanager
def explained(problem: str, advice: str = "") -> Iterator[None]:
    """Turn whatever a stranger's code raises into an InputError of one line: the problem, its reason, the advice.

    SystemExit too, which would end the program in silence. Errors of embedscope stay as they are.
    """
    try:
        yield
    except EmbedscopeError:
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".strip().partition("\n")[0][:200]
        raise InputError(f"{problem} ({reason}); {advice}" if advice else f"{problem}: {reason}") from error


def unknown(what: str, got: str, known: Iterable[str]) -> str:
    """Word the message for a name that is not among the known ones, with the nearest of them.

    >>> unknown("metric", "siluette", ["gini", "silhouette"])
    "no metric 'siluette'; did you mean 'silhouette'? There are: gini, silhouette"
    """
    names = list(known)
    near = difflib.get_close_matches(got, names[:_COMPARED], n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return f"no {what} '{got}'{hint} There are: {', '.join(names[:_LISTED]) or 'none'}{more}"


def check_choice(what: str, got: Any, known: Iterable[str]) -> str:
    """Return `got` if it is one of the known names, else raise a UsageError that names the nearest."""
    names = list(known)
    if got not in names:
        raise UsageError(unknown(what, str(got), names))
    return str(got)


def check_number(what: str, got: Any, *, above: float = -math.inf, low: float = -math.inf, high: float = math.inf) -> float:
    """Return `got` as a finite float if above < got and low <= got <= high, else raise a UsageError that says the range."""
    try:
        value = math.nan if isinstance(got, bool | str) else float(got)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not (above < value < math.inf and low <= value <= high):
        lowest = f" above {above:g}" if above > -math.inf else f" from {low:g}" if low > -math.inf else ""
        highest = "" if high == math.inf else f" to {high:g}" if low > -math.inf else f" and at most {high:g}"
        raise UsageError(f"{what} must be a number{lowest}{highest}, got {str(got)[:40]}")
    return value


def check_flag(what: str, got: Any) -> bool:
    """Return `got` if it is True or False, else raise a UsageError."""
    if not isinstance(got, bool):
        raise UsageError(f"{what} must be True or False, got {str(got)[:40]!r}")
    return got


def check_whole(what: str, got: Any, *, low: int) -> int:
    """Return `got` if it is a whole number of at least `low`, else raise a UsageError."""
    if type(got) is not int or got < low:
        raise UsageError(f"{what} must be a whole number from {low}, got {str(got)[:40]!r}")
    return got
