"""A callback for Lightning's Trainer."""

from __future__ import annotations

import functools
import sys
from typing import Any

from embedscope.errors import MissingExtraError, explained
from embedscope.monitoring.monitor import Monitor, monitor_of

# The package by its two names; classes of one are not those of the other.
_NAMES = ("lightning.pytorch", "pytorch_lightning")


@functools.cache
def _callback() -> type:
    base: Any = _library().Callback

    class MonitorCallback(base):  # type: ignore[misc]
        """Measures a probe while a Trainer fits; a condition of `stop_on` ends the training.

        Takes what `Monitor` takes, or a Monitor. Steps are the trainer's `global_step`; layers are those of the
        LightningModule, such as "net.fc.input". Without a logger of its own, values go to the loggers of the trainer.

        Attributes:
            monitor: the Monitor.
        """

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__()
            self.monitor: Monitor = monitor_of(*args, **options)
            self._logs = not self.monitor.logs

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            """Measure the model as it starts."""
            self._at(trainer, pl_module, None)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            """Measure the model if that is due; batches that only accumulate gradients do not count as steps."""
            self._at(trainer, pl_module, outputs)

        def _at(self, trainer: Any, module: Any, outputs: Any) -> None:
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            if loss is not None:  # which the trainer has divided, for gradients that accumulate
                loss = loss * getattr(trainer, "accumulate_grad_batches", 1)
            values = self.monitor(module, trainer.global_step, loss=loss)
            if values is None:
                return
            if self._logs and trainer.is_global_zero:
                there = {name: value for name, value in values.items() if value is not None}
                for logger in trainer.loggers:
                    logger.log_metrics(there, step=trainer.global_step)
            trainer.should_stop = trainer.should_stop or self.monitor.should_stop

    return MonitorCallback


def _library() -> Any:
    """Import Lightning by the name that the program uses."""
    import importlib

    names = sorted(_NAMES, key=lambda name: name not in sys.modules)
    with explained("lightning is installed but cannot be imported", "install compatible versions"):
        for name in names:
            try:
                return importlib.import_module(name)
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] != name.partition(".")[0]:
                    raise
        raise MissingExtraError("lightning is not installed; pip install lightning")


def __getattr__(name: str) -> Any:
    if name == "MonitorCallback":  # made on first use: its base class needs the library
        return _callback()
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
