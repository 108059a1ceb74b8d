"""Model sources: a file each, `foo(location, *args, **options) -> Encoder`; checkpoint.py fills them with weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from embedscope import plugins
from embedscope.errors import UsageError
from embedscope.models.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from embedscope.records import Encoder


def open_model(spec: str, checkpoint: str | None = None) -> Encoder:
    """Make the model of a spec and load its weights.

    `path/to/file.py:Factory` and `package.module:Factory` are Python code; `source:location` is a model source of that name.
    Options in brackets go to the factory.

    UsageError for a spec that names no source, InputError for a model that cannot be made or a checkpoint that does not fit.
    """
    parsed = plugins.parse(spec)
    source, separator, location = parsed.name.partition(":")
    if not separator:
        raise UsageError(f"cannot read the model '{spec}'; give path/to/file.py:Factory or package.module:Factory")
    if plugins.canonical(source) not in plugins.names("models"):
        source, location = "python", parsed.name
    encoder: Encoder = plugins.load("models", source)(location, *parsed.args, **parsed.options)
    encoder = replace(encoder, spec=spec)
    if checkpoint is None:
        return encoder
    loaded = load_checkpoint(encoder.module, checkpoint)
    return replace(encoder, checkpoint=checkpoint, checkpoint_sha256=loaded.sha256, matched=loaded.matched)
