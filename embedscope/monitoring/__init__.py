"""Watch an embedding while it trains, or checkpoint by checkpoint afterwards.

monitor.py is `Monitor`; probe.py holds the rows that it measures, embedding.py takes their features by the code of extraction,
schedules.py says when, stopping.py and trends.py what the values mean, loggers.py where they go. lightning.py and
transformers.py are callbacks; checkpoints.py measures saved checkpoints, in the order of stages.py, into the
same kind of file.
"""

from __future__ import annotations

import importlib
from typing import Any

from embedscope.monitoring.monitor import Monitor
from embedscope.monitoring.trends import TrendFinding

__all__ = ["Monitor", "TrendFinding"]


def __getattr__(name: str) -> Any:
    if name in ("lightning", "transformers"):  # what they are callbacks for is imported when their class is asked for
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
