"""embedscope: how good is an embedding, which checkpoint is better, what is wrong with it, would another loss improve it?

The names below are imported on first use: `import embedscope` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from embedscope._version import __version__

if TYPE_CHECKING:
    from embedscope.data import open_dataset as open_dataset
    from embedscope.errors import EmbedscopeError as EmbedscopeError
    from embedscope.evaluation import score as score
    from embedscope.extraction import extract as extract
    from embedscope.extraction import list_layers as list_layers
    from embedscope.finetuning import TrainingConfig as TrainingConfig
    from embedscope.finetuning import finetune as finetune
    from embedscope.models import open_model as open_model
    from embedscope.monitoring import Monitor as Monitor
    from embedscope.plotting import plot as plot
    from embedscope.store import open_features as open_features

_HOMES = {
    "EmbedscopeError": "errors",
    "Monitor": "monitoring",
    "TrainingConfig": "finetuning",
    "extract": "extraction",
    "finetune": "finetuning",
    "list_layers": "extraction",
    "open_dataset": "data",
    "open_features": "store",
    "open_model": "models",
    "plot": "plotting",
    "score": "evaluation",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name == "monitoring":  # a package that users name, for its callbacks
        return importlib.import_module("embedscope.monitoring")
    if name not in _HOMES:
        raise AttributeError(f"module 'embedscope' has no attribute '{name}'")
    return getattr(importlib.import_module(f"embedscope.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
