"""Where values go besides the run file: any logger, or one of a few by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from embedscope import plugins
from embedscope.errors import MissingExtraError, UsageError, explained

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Log = Callable[[Mapping[str, float], int], None]

# The step of the training in a run of wandb, over which the values are drawn there.
_STEP = "monitor/step"

# What MLflow does not take in the name of a metric.
_OTHER = re.compile(r"[^\w\-. :/]")

_KNOWN = {"tensorboard": {"folder": None}, "wandb": {}, "trackio": {}, "mlflow": {}}


def opened(given: Any) -> Log | None:
    """Return a function of (values, step) for a logger; None for None.

    A logger is one with `log(values, step)`, as a run of wandb has it, or with `log_metrics(values, step)`, as Lightning's
    loggers have it, or the name of one: "tensorboard", "wandb", "trackio" or "mlflow", whose run is started if none is.
    MissingExtraError, with the pip line, for one that is not installed, UsageError for anything else.
    """
    if given is None:
        return None
    if isinstance(given, str):
        name, options = plugins.choose("logger", given, _KNOWN)
        openers: dict[str, Callable[..., Log]] = {
            "tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio, "mlflow": _mlflow
        }  # fmt: skip
        return openers[name](**options)
    if type(given).__module__.partition(".")[0] == "wandb" and hasattr(given, "define_metric"):
        return _to_runs(lambda: given)
    for method in ("log", "log_metrics"):
        if callable(found := getattr(given, method, None)):
            return lambda values, step: found(dict(values), step)
    raise UsageError(f"`log=` takes a logger with log(values, step), or one of {', '.join(_KNOWN)}; got {type(given).__name__}")


def _imported(module: str) -> Any:
    import importlib

    package = module.partition(".")[0]
    with explained(f"{package} is installed but cannot be imported", f"reinstall it: pip install {package}"):
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise MissingExtraError(f"{package} is not installed; pip install {package}") from error


def _tensorboard(folder: str | None) -> Log:
    plugins.imported("tensorboard", extra="tensorboard")
    writer = plugins.imported("torch.utils.tensorboard", extra="tensorboard").SummaryWriter(folder)

    def log(values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return log


def _wandb() -> Log:
    wandb = _imported("wandb")
    return _to_runs(lambda: wandb.run or wandb.init())


def _to_runs(find: Callable[[], Any]) -> Log:
    """Log to the run of wandb that a function finds."""
    defined: set[tuple[str, str]] = set()

    def log(values: Mapping[str, float], step: int) -> None:
        run = find()
        for name in values:
            if (run.id, name) not in defined:
                run.define_metric(name, step_metric=_STEP)
                defined.add((run.id, name))
        # A run counts its own calls of log, and drops what is of an earlier step than the current one.
        run.log({**values, _STEP: step}, step=max(step, run.step))

    return log


def _trackio() -> Log:
    trackio = _imported("trackio")

    def log(values: Mapping[str, float], step: int) -> None:
        try:
            trackio.log(dict(values), step=step)
        except RuntimeError:  # what it raises before init
            trackio.init(project="embedscope")
            trackio.log(dict(values), step=step)

    return log


def _mlflow() -> Log:
    mlflow = _imported("mlflow")
    # It refuses names with brackets or commas, as a metric with options has them.
    return lambda values, step: mlflow.log_metrics({_OTHER.sub("_", name): value for name, value in values.items()}, step=step)
