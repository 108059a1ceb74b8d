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
import itertools
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

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
    """A value that misses its threshold."""

    exit_code = 3


class InterruptedRunError(EmbedscopeError):
    """A run stopped by a signal after its work so far was committed; the message gives the command to resume."""

    exit_code = 130


@contextmanager
def explained(problem: str, advice: str = "") -> Iterator[None]:
    """Turn any exception from third-party code into a one-line InputError: the problem, its reason, the advice.

    Also SystemExit, which would end the program silently. Errors of embedscope pass unchanged.
    """
    try:
        yield
    except EmbedscopeError:
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".strip().partition("\n")[0][:200]
        raise InputError(f"{problem} ({reason}); {advice}" if advice else f"{problem}: {reason}") from error


def unknown(what: str, got: Any, known: Iterable[str], *, place: str = "") -> str:
    """Return the message for an unknown name, with the nearest known one; `place` is what lacks it, such as a file.

    >>> unknown("metric", "siluette", ["gini", "silhouette"])
    "no metric 'siluette'; did you mean 'silhouette'? There are: gini, silhouette"
    >>> unknown("split", "x", ["test", "train"], place="late.h5")
    "late.h5 has no split 'x'; it has: test, train"
    """
    names = [str(name) for name in known]
    near = nearest(str(got), names)
    if not place:
        hint = f"; did you mean '{near[0]}'?" if near else "."
        return f"no {what} '{got}'{hint} There are: {listed(names)}"
    hint = f"; did you mean '{near[0]}'? It has: " if near else "; it has: "
    return f"{place} has no {what} '{got}'{hint}{listed(names)}"


def listed(names: Sequence[str]) -> str:
    """Return names as a message lists them: of many, the first ones and how many more there are.

    >>> listed(["gini", "silhouette"]), listed([])
    ('gini, silhouette', 'none')
    """
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED]) or 'none'}{more}"


def nearest(got: str, known: Iterable[str], *, count: int = 1) -> list[str]:
    """Return up to `count` known names that were probably meant, the most likely first; none if nothing is near.

    Near is what has nearly the same letters, what has the text as one of its words, and what begins with it or has it inside.

    >>> nearest("knn", ["gini", "knn_accuracy"]), nearest("fixd", ["drawn", "fixed"]), nearest("zzz", ["gini"])
    (['knn_accuracy'], ['fixed'], [])
    """
    plain: dict[str, str] = {}  # text as it is compared -> name
    for name in itertools.islice(known, _COMPARED):
        plain.setdefault(_plain(name), name)
    text = _plain(got)
    if not text.strip("_"):
        return []
    if text.isdecimal():  # 10 is not 100 misspelled, but may be the end of layer.10
        plain = {each: name for each, name in plain.items() if not each.isdecimal()}
    ways = (
        difflib.get_close_matches(text, plain, n=count, cutoff=0.75),
        [name for name in plain if f"_{text}_" in f"_{name}_"],
        difflib.get_close_matches(text, plain, n=count),
        [name for name in plain if len(text) > 1 and f"_{text}" in f"_{name}"],
        [name for name in plain if len(text) > 2 and text in name],
    )
    return [plain[name] for name in list(dict.fromkeys(itertools.chain(*ways)))[:count]]


def _plain(name: str) -> str:
    """Return a name as it is compared: in lower case, its words separated by underscores."""
    return re.sub(r"[^\w]+", "_", name.strip().lower())
