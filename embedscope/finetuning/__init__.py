"""Train a head on stored features, or a whole network on data, with one or more objectives; compare before and after.

config.py holds the settings, with specs.py; running.py is `finetune`. splitting.py parts the rows, preparation.py looks at what
was asked for, material.py brings rows where batches are drawn, with banks.py and weighting.py, and sampling.py draws them.
networks.py, inputs.py and augmenting.py are what a whole network has in the place of stored features. training.py is the loop,
with optimization.py and validation.py; trials.py runs it trial after trial and keeps what came out, sweeping.py chooses among
the objectives of a grid, measuring.py measures, and comparing.py says what the trials show.

The names below are imported on first use, so that the settings need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedscope.finetuning.comparing import conclusions as conclusions
    from embedscope.finetuning.comparing import differences as differences
    from embedscope.finetuning.config import TrainingConfig as TrainingConfig
    from embedscope.finetuning.measuring import ACCURACIES as ACCURACIES
    from embedscope.finetuning.running import finetune as finetune
    from embedscope.finetuning.splitting import read_label_map as read_label_map

_HOMES = {
    "ACCURACIES": "measuring",
    "TrainingConfig": "config",
    "conclusions": "comparing",
    "differences": "comparing",
    "finetune": "running",
    "read_label_map": "splitting",
}

__all__ = ["ACCURACIES", "TrainingConfig", "conclusions", "differences", "finetune", "read_label_map"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
