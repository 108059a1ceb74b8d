"""Translation of library messages, which name Python arguments, to command-line flags.

A message of the library names a Python argument in backticks: "pass `overwrite=True`". Here that becomes "pass --overwrite".
Only this package knows what the flags are called.
"""

from __future__ import annotations

import re

# Arguments whose flag has another name, and functions that a flag stands for.
_OTHER_NAMES = {
    "backbone_learning_rate": "backbone-lr",
    "form": "format",
    "kinds": "kind",
    "layers": "layer",
    "metrics": "metric",
    "objectives": "objective",
    "pooling": "pool",
    "value_range": "range",
}
ARGUMENT = re.compile(r"`([a-z][a-z_]*)(?:\(\)|=(?:True|'([^'`]*)'|\"([^\"`]*)\"|([^`]*)))`")


def flag(argument: str) -> str:
    """Return the flag of a library argument: `layers` -> --layer."""
    return f"--{_OTHER_NAMES.get(argument, argument).replace('_', '-')}"


def with_flags(message: str) -> str:
    """Replace each argument in backticks by its flag.

    >>> with_flags("pass `overwrite=True`, `dtype='float16'`, `size=224` or `layers=`; `list_layers()` prints all")
    'pass --overwrite, --dtype float16, --size 224 or --layer; --list-layers prints all'
    >>> with_flags("`metrics=['gini', 'silhouette']`")
    '--metric gini --metric silhouette'
    """

    def put(match: re.Match[str]) -> str:
        value = next((text for text in match.groups()[1:] if text), "")
        each = re.findall(r"'([^']*)'", value) if value.startswith("[") else [value]
        return " ".join(f"{flag(match[1])} {one}".strip() for one in each)

    return ARGUMENT.sub(put, message)
