"""Model sources: a file each, `foo(location, options) -> nn.Module`; checkpoint.py fills them with weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedscope import plugins
from embedscope.errors import UsageError
from embedscope.models.checkpoint import load_checkpoint
from embedscope.models.transforms import to_input
from embedscope.records import Encoder

if TYPE_CHECKING:
    from torch import nn


def open_model(spec: str, checkpoint: str | None = None) -> Encoder:
    """Make the model of a spec, `path/to/file.py:Factory` or `package.module:Factory` with options, and load its weights.

    UsageError for a spec that names no source, InputError for a factory that is not there or a checkpoint that does not fit.
    """
    parsed = plugins.parse(spec)
    if ":" not in parsed.name:
        raise UsageError(f"cannot read the model '{spec}'; give path/to/file.py:Factory or package.module:Factory")
    module: nn.Module = plugins.load("models", "python")(parsed.name, **parsed.options)
    module.eval()
    loaded = load_checkpoint(module, checkpoint) if checkpoint else None
    return Encoder(
        module=module,
        transform=to_input,
        spec=spec,
        checkpoint=checkpoint,
        checkpoint_sha256=loaded.sha256 if loaded else None,
        matched=loaded.matched if loaded else (),
    )
