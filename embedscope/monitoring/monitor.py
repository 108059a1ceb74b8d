"""Monitor: measure a probe while a model trains."""

from __future__ import annotations

import datetime
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from embedscope import devices, distributed
from embedscope.arguments import (
    check_choice,
    check_flag,
    check_names,
    check_optional_whole,
    check_path,
    check_seed,
    check_whole,
    displayed,
)
from embedscope.errors import UsageError
from embedscope.evaluation import evaluate
from embedscope.evaluation.evaluating import bound
from embedscope.extraction.borrowing import borrowed, unwrapped
from embedscope.models.encoder import Encoder
from embedscope.models.pooling import POOLINGS
from embedscope.monitoring.embedding import embed
from embedscope.monitoring.loggers import opened
from embedscope.monitoring.probe import Probe, check_probe, open_probe, prepared
from embedscope.monitoring.schedules import schedule
from embedscope.monitoring.stopping import conditions
from embedscope.monitoring.trends import TrendFinding, Trends
from embedscope.progress import silent
from embedscope.store.files import check_output
from embedscope.store.trajectories import Point, append_points, read_points
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import nn

    from embedscope.store.features import FeatureSet


class Monitor:
    """Measures layers of a model in training on a fixed probe, every N steps.

    Call it with the model and the step, in every step: where nothing is due, that costs a comparison of two numbers. Features
    are taken by the code of `extract` and measured by that of `score`, on the device of the model, so that a value equals what
    these two say of a checkpoint of the step. Left as they were are the mode of every module, buffers, gradients, hooks,
    device, and the states of random numbers. A model may be wrapped by DistributedDataParallel, DataParallel or torch.compile.
    In a process group, every process makes the same calls: they share the batches, and process 0 writes and logs.

    Attributes:
        should_stop: whether a condition of `stop_on` was met.
        findings: what was found in the curves so far.
        points: what was measured so far, and before in the run file.
        logs: whether there is a logger.

    Args:
        probe: (location, rows): a data source of `extract`, of which a stratified sample is drawn; a location or a Dataset, for
            all of its labeled rows; a data set of torch, (X, y) tensors, either also with a number of rows as in
            ((X, y), 2000); or a loader, an iterable of (inputs, labels), which is read once. Its classes need not be those of
            the training.
        layers: names or patterns, as in `extract`; by default the embedding.
        metrics: one spec or several, as in `score`.
        every: a number of steps, or the share of the time that measuring may take, as in "2%". The first call is then
            measured in any case; the share holds from the second on.
        path: of the run file, .jsonl: a line per layer and step is appended. An existing file is continued.
        log: a logger with log(values, step), or "tensorboard", "wandb", "trackio" or "mlflow".
        stop_on: conditions such as "silhouette<0" that set `should_stop`.
        on_finding: is called with each TrendFinding, in process 0.
        prepare: for a data source: an encoder of `open_model`, whose preparation and embedding are those of the model too, or a
            transform of one item; by default images become [0, 1].
        pooling: of layers that name none, as in `extract`.
        batch_size: rows in a forward pass.
        device: to compute on, by default the model's own.
        amp: run the forward passes in half precision.
        workers: processes that read the inputs of a data source; by default as many as help.
        seed: of the sample.
        say: called with each message for the user.

    Raises:
        UsageError: an unknown metric, layer or option; a probe of another kind.
        InputError: a probe that cannot be read, a run file that is something else.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> monitor = Monitor((torch.eye(2).repeat(4, 1), torch.arange(8) % 2), metrics="silhouette", every=100)
        >>> [sorted(monitor(model, step) or ()) for step in (0, 1, 100)]
        [['2.input/silhouette'], [], ['2.input/silhouette']]
    """

    def __init__(
        self,
        probe: Any,
        layers: str | Sequence[str] = (),
        metrics: str | Sequence[str] = ("silhouette", "effective_rank"),
        every: int | str = 500,
        *,
        path: Path | str | None = None,
        log: Any = None,
        stop_on: str | Sequence[str] = (),
        on_finding: Callable[[TrendFinding], Any] | None = None,
        prepare: Any = None,
        pooling: str = "auto",
        batch_size: int = 256,
        device: str = "auto",
        amp: bool = False,
        workers: int | None = None,
        seed: int = 0,
        say: Callable[[str], None] = silent,
    ) -> None:
        # Whatever could never work is refused here, before a training has begun.
        self._given, self._prepare = check_probe(probe, prepare), prepare
        self._layers = check_names("`layers=`", layers)
        self._metrics = check_names("`metrics=`", metrics, some=True)
        devices.choose(device, float64=True)
        check_choice("pooling", pooling, POOLINGS)
        self._options = {"pooling": pooling, "amp": check_flag("`amp=`", amp)}
        self._batch_size = check_whole("`batch_size=`", batch_size, low=1)
        self._workers = check_optional_whole("`workers=`", workers, low=0)
        self._device, self._seed, self._say = device, check_seed(seed), say
        if on_finding is not None and not callable(on_finding):
            raise UsageError(f"`on_finding=` takes a function of a finding, got {displayed(on_finding)}")
        self._names = [each.name for each in bound(self._metrics)]
        self._schedule = schedule(every)
        self._conditions = conditions(check_names("`stop_on=`", stop_on), self._names)
        self._on_finding = on_finding
        self._path = None if path is None else check_path("`path=`", path)
        if self._path is not None:
            check_output(self._path, overwrite=True)  # an existing one is continued
        self.logs = log is not None
        self._log = opened(log) if distributed.rank() == 0 else None
        self._probe: Probe | None = None
        self._trends = Trends()
        self.should_stop = False
        self.findings: list[TrendFinding] = []
        self.points: list[Point] = self._continued()
        self._due = 0

    def __call__(self, model: nn.Module, step: int, *, loss: Any = None) -> dict[str, float | None] | None:
        """Measure the model if that is due at a step, else return None; see `measure`."""
        try:
            if step < self._due:
                return None
        except TypeError as error:
            raise UsageError(f"a monitor is called with the model and the step; got {displayed(step)} for the step") from error
        agreed = self._schedule.agrees(step)
        self._due = self._schedule.due
        return self.measure(model, step, loss=loss) if agreed else None

    def measure(self, model: nn.Module, step: int, *, loss: Any = None) -> dict[str, float | None]:
        """Measure the model at a step, due or not: "layer/metric" -> value, None where a metric is undefined.

        `loss`, a number or a tensor with one, is written beside the values in the run file, and tells findings whether it fell.
        """
        started = time.perf_counter()
        if not isinstance(model, torch.nn.Module):
            raise UsageError(f"a monitor is called with the model and the step; got {type(model).__name__} for the model")
        told = None if loss is None else _number(loss)
        measured = self._measured(unwrapped(model))
        seconds = time.perf_counter() - started
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        points, found = [], []
        for features, metrics, problem in measured:
            classes = len(set(features.labels[features.labels >= 0].tolist()))
            new = self._trends.take(step, features.layer, metrics, loss=told, classes=classes)
            if problem:
                new.append(TrendFinding("not finite", step, features.layer, "", problem))
            rows, width = features.features.shape
            texts = tuple(each.text for each in new)
            points.append(Point(step, features.layer, metrics, told, now, seconds, texts, rows, width, classes))
            found += new
        values = {f"{point.layer}/{name}": value for point in points for name, value in point.metrics.items()}
        self.should_stop = self.should_stop or any(each.holds(values) for each in self._conditions)
        self.points += points
        self.findings += found
        distributed.on_main(lambda: self._told(step, points, values, found))
        self._schedule.measured(step, time.perf_counter() - started)
        self._due = self._schedule.due
        return values

    def _measured(self, module: nn.Module) -> list[tuple[FeatureSet, dict[str, float | None], str]]:
        """Return the features of each layer with its values, or why there are none."""
        with borrowed(module) as where, torch.no_grad():
            if self._probe is None:
                self._probe = open_probe(
                    self._given,
                    module,
                    prepare=self._prepare,
                    size=self._batch_size,
                    seed=self._seed,
                    workers=self._workers,
                )
            device = str(where) if self._device == "auto" else self._device
            made = self._prepare if isinstance(self._prepare, Encoder) else Encoder(module, prepared(self._prepare), "")
            encoder = replace(made, module=module, weights=None, spec=type(module).__name__)
            found = embed(
                encoder,
                self._probe,
                self._layers,
                device=device,
                live=True,
                say=self._say,
                **self._options,  # type: ignore[arg-type]
            )
            return [(features, *self._values(features, "cpu" if device == "mps" else device)) for features in found]

    def _values(self, features: FeatureSet, device: str) -> tuple[dict[str, float | None], str]:
        wrong = int((~torch.isfinite(features.features[:]).all(dim=1)).sum())
        if wrong:  # a training that diverged is reported, and not ended
            which = counted(wrong, "holds", "hold", of=counted(len(features.labels), "row"))
            return dict.fromkeys(self._names), f"{which} NaN or infinite values"
        scores = evaluate(features, self._metrics, device=device, seed=self._seed)
        return {key: found.value for key, found in scores.metrics.items()}, ""

    def _told(self, step: int, points: Sequence[Point], values: dict[str, float | None], found: Sequence[TrendFinding]) -> None:
        if self._path is not None:
            append_points(self._path, points)
        there = {name: value for name, value in values.items() if value is not None}
        if self._log is not None and there:
            self._log(there, step)
        for each in found:
            self._say(str(each))
            if self._on_finding is not None:
                self._on_finding(each)

    def _continued(self) -> list[Point]:
        """Read the points of an existing run file, from which findings continue."""
        if self._path is None:
            return []
        path = self._path
        points = distributed.broadcast(lambda: read_points(path) if path.exists() else [])
        for point in points:
            self._trends.take(point.step, point.layer, point.metrics, loss=point.loss, classes=point.classes or 0)
        return points

    def __repr__(self) -> str:
        steps = len({point.step for point in self.points})
        return (
            f"Monitor of {', '.join(self._names)}: {counted(steps, 'step')} measured, {counted(len(self.findings), 'finding')}"
        )


def _number(loss: Any) -> float:
    try:
        return float(loss.detach() if isinstance(loss, torch.Tensor) else loss)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"`loss=` takes a number or a tensor with one, got {displayed(loss)}") from error


def monitor_of(*args: Any, **options: Any) -> Monitor:
    """Return the Monitor that is given, or make one of what is given."""
    if len(args) == 1 and isinstance(args[0], Monitor) and not options:
        return args[0]
    return Monitor(*args, **options)
