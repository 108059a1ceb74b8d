"""A callback for the Trainer of transformers."""

from __future__ import annotations

import functools
from typing import Any

from embedscope.monitoring.monitor import Monitor, monitor_of
from embedscope.plugins import imported


@functools.cache
def _callback() -> type:
    base: Any = imported("transformers", extra="text").TrainerCallback

    class MonitorCallback(base):  # type: ignore[misc]
        """Measures a probe while a Trainer trains; a condition of `stop_on` ends the training.

        Takes what `Monitor` takes, or a Monitor. Values go into the log history of the trainer, with the names of `Monitor`.

        Attributes:
            monitor: the Monitor.
        """

        def __init__(self, *args: Any, **options: Any) -> None:
            self.monitor: Monitor = monitor_of(*args, **options)
            self._loss: float | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            """Measure the model as it starts."""
            self._at(model, state, control)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            """Remember the last loss."""
            self._loss = (logs or {}).get("loss", self._loss)

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            """Measure the model if that is due."""
            self._at(model, state, control)

        def _at(self, model: Any, state: Any, control: Any) -> None:
            values = self.monitor(model, state.global_step, loss=self._loss)
            if values is not None:
                state.log_history.append({**values, "step": state.global_step})
                control.should_training_stop = control.should_training_stop or self.monitor.should_stop

    return MonitorCallback


def __getattr__(name: str) -> Any:
    if name == "MonitorCallback":  # made on first use: its base class needs the library
        return _callback()
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
