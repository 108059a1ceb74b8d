"""The page of the Python API: the public names, and the records and decorators that they lead to."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import embedscope

from .markdown import docstring, escaped, first_line, signature, table

# Beside the names of the package: what its functions return, and what plugins and training loops are made with.
_FURTHER = (
    "embedscope.evaluation.scores.ScoreTable",
    "embedscope.evaluation.scores.Scores",
    "embedscope.evaluation.scores.Measurement",
    "embedscope.evaluation.scores.Samples",
    "embedscope.evaluation.comparing.Difference",
    "embedscope.evaluation.finding.Finding",
    "embedscope.store.results.Finetuning",
    "embedscope.store.comparison.ComparedMetric",
    "embedscope.losses.expression.build",
    "embedscope.metrics.metric",
    "embedscope.metrics.Result",
    "embedscope.losses.loss",
    "embedscope.plotting.kind",
    "embedscope.models.encoder.Encoder",
    "embedscope.data.dataset.Dataset",
)


def python() -> str:
    """Return the page of the API."""
    names = [name for name in embedscope.__all__ if name != "__version__"]
    public = {f"embedscope.{name}": getattr(embedscope, name) for name in names}
    further = {path: _found(path) for path in _FURTHER}
    text = (
        "`import embedscope` imports no torch; a name is imported on first use. Records are frozen dataclasses that print in a "
        "few lines.\n\n"
    )
    rows = [
        [f"[`{path}`](#{_anchor(path)})", escaped(first_line(each.__doc__), in_table=True)] for path, each in public.items()
    ]
    parts = [_section(path, each) for path, each in (public | further).items()]
    return text + table(["Name", ""], rows) + "\n" + "\n".join(parts)


def _found(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _anchor(path: str) -> str:
    return path.rpartition(".")[2].lower()


def _section(path: str, thing: Any) -> str:
    heading = f"## {path} {{ #{_anchor(path)} }}"
    try:
        inspect.signature(thing)
    except ValueError:  # an exception
        return f"{heading}\n\n{docstring(thing.__doc__)}"
    listed = [] if not inspect.isclass(thing) else _methods(thing)
    methods = "\n" + table(["Method", ""], listed) if listed else ""
    return f"{heading}\n\n{signature(thing, path.rpartition('.')[2])}\n{docstring(thing.__doc__)}{methods}"


def _methods(thing: type) -> list[list[str]]:
    """List the documented methods and properties of a class."""
    found = []
    for name, member in vars(thing).items():
        if name.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property)):
            continue
        shown = f"`{name}`" if isinstance(member, property) else f"`{name}()`"
        found.append([shown, escaped(first_line(member.__doc__), in_table=True)])
    return found
