"""Measure saved checkpoints one after the other, into a trajectory and without stores in between."""

from __future__ import annotations

import datetime
import hashlib
import json
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope import devices, distributed
from embedscope.arguments import check_flags, check_names, check_optional_text, check_optional_whole, check_seed
from embedscope.data import open_dataset
from embedscope.data.dataset import rows_of
from embedscope.errors import InputError, OutputError, UsageError, unknown
from embedscope.evaluation import Measurement, Scores, ScoreTable, evaluate
from embedscope.evaluation.comparing import differences
from embedscope.evaluation.evaluating import bound
from embedscope.evaluation.further_findings import with_comparison
from embedscope.evaluation.intervals import check_ci
from embedscope.extraction.loading import limited
from embedscope.metrics import STANDARD
from embedscope.models import open_model
from embedscope.models._reading import sha256_of
from embedscope.monitoring.embedding import embed
from embedscope.monitoring.probe import ReadProbe
from embedscope.monitoring.stages import Stage, in_order
from embedscope.progress import Track, silent, untracked
from embedscope.store.files import check_output
from embedscope.store.trajectories import Point, append_points, read_points

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from embedscope.data.dataset import Dataset
    from embedscope.models.encoder import Encoder


def score_checkpoints(
    checkpoints: Sequence[str],
    model: str,
    data: str,
    output: Path | None = None,
    *,
    metrics: str | Sequence[str] = STANDARD,
    layers: str | Sequence[str] = (),
    split: str | None = None,
    sample: int | None = None,
    ci: str | bool = False,
    memory: int | str | None = None,
    device: str = "auto",
    seed: int = 0,
    limit: int | None = None,
    preparation: Mapping[str, Any] | None = None,
    full: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = silent,
    warn: Callable[[str], None] = silent,
    track: Track = untracked,
) -> ScoreTable:
    """Return the scores of every layer of every checkpoint, in the natural order of their names.

    A checkpoint that cannot be measured is skipped, unless it is the only one; `failed` of the table has the reason.

    Args:
        checkpoints: files of weights; `name=path` names one.
        model: takes them, as in `extract`.
        data: whose rows are measured, as in `extract`. They are prepared once, and kept in memory where they fit.
        output: a .jsonl that each checkpoint is appended to when it is measured. Where it exists, checkpoints that it holds,
            measured in the same way, are taken from it.
        metrics: as in `score`.
        layers: names or patterns, as in `extract`; by default the embedding.
        split: measure the rows of one split only; the others are not read.
        sample: as in `score`.
        ci: as in `score`.
        memory: as in `score`; the features of a checkpoint are held in memory in any case.
        device: of the model and the metrics, as in `score`.
        seed: as in `extract` and `score`.
        limit: at most this many rows, spread evenly over the data.
        preparation: options of `open_model`, such as size.
        full: measure all checkpoints again, for what the file does not hold: values by class and by sample.
        overwrite: replace an existing output.
        say: called with each message for the user.
        warn: called with each checkpoint that is skipped, and why.
        track: shows progress over checkpoints.

    Raises:
        InputError: none of the checkpoints can be read and fits, or data that cannot be used.
        OutputError: the output was begun with other settings.
    """
    chosen, wanted = check_names("`metrics=`", metrics, some=True), check_names("`layers=`", layers)
    split, sample = check_optional_text("`split=`", split), check_optional_whole("`sample=`", sample, low=1)
    limit, seed = check_optional_whole("`limit=`", limit, low=1), check_seed(seed)
    full, overwrite = check_flags(full=full, overwrite=overwrite)
    check_ci(ci)
    devices.choose(device, float64=True)
    memory = devices.memory_limit(memory)
    bound(chosen)
    if output is not None:
        check_output(output, overwrite=True)  # one that is there is continued
        if not overwrite and output.exists():
            read_points(output)
    stages = in_order(checkpoints)
    dataset = _of_split(open_dataset(data), split)
    dataset = dataset if limit is None else limited(dataset, limit)
    options: dict[str, Any] = {"sample": sample, "ci": ci, "memory": memory, "device": device, "seed": seed}
    measuring = _Measuring(
        model, preparation or {}, dataset, output, chosen, wanted, split, options, limit, full, overwrite, say
    )
    scores: list[Scores] = []
    failed: dict[str, str] = {}
    untold: list[str] = []  # until one checkpoint was measured, the fault may be the model's, the data's or the output's
    for stage in track(stages, "measuring checkpoints", len(stages)):
        try:
            scores += measuring.measure(stage)
        except InputError as error:
            failed[stage.name] = str(error)
            untold.append(f"skipping {stage.name}: {error}")
        while scores and untold:
            warn(untold.pop(0))
    if not scores and len(set(failed.values())) == 1:
        raise InputError(next(iter(failed.values())))
    for each in untold:
        warn(each)
    if not scores:
        raise InputError(f"none of the {len(stages)} checkpoints could be measured")
    gaps = differences(scores) if ci else []
    return ScoreTable(with_comparison(scores, gaps), gaps, failed=failed)


@dataclass
class _Measuring:
    """What all checkpoints are measured with; the first one that opens tells how the data are prepared."""

    model: str
    preparation: Mapping[str, Any]
    dataset: Dataset
    output: Path | None
    metrics: list[str]
    layers: list[str]
    split: str | None
    options: Mapping[str, Any]
    limit: int | None
    full: bool
    overwrite: bool
    say: Callable[[str], None]
    probe: ReadProbe | None = None
    settings: str = ""
    known: Mapping[str, Mapping[str, Point]] = field(default_factory=dict)

    def measure(self, stage: Stage) -> list[Scores]:
        """Return the scores of a checkpoint's layers, and append them to the output if it does not hold them."""
        digest = _digest(stage)
        started = time.perf_counter()
        encoder = None if self.probe is not None else self._opened(stage)
        before = self.known.get(digest, {}).values()
        if before and not (self.options["ci"] or self.full):
            self.say(f"{stage.name} was measured before; taking its values from {self.output}")
            return [_remembered(point, stage, self.metrics, len(before)) for point in before]
        encoder = encoder or self._opened(stage)
        assert self.probe is not None
        chosen = {name: self.options[name] for name in ("device", "seed")}
        embeddings = embed(encoder, self.probe, self.layers, **chosen, say=self.say)
        found = [evaluate(features, self.metrics, **self.options) for features in embeddings]
        if self.output is not None and not before:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            seconds, output = time.perf_counter() - started, self.output
            points = [_point(each, stage, now, seconds, digest, self.settings) for each in found]
            distributed.on_main(lambda: append_points(output, points))
        return [_renamed(each, stage, len(found)) for each in found]

    def _opened(self, stage: Stage) -> Encoder:
        encoder = open_model(self.model, stage.path, seed=self.options["seed"], **self.preparation)
        if self.probe is None:
            decided = [self.metrics, self.layers, self.split, self.options["sample"], self.limit, self.options["seed"]]
            self.settings = _settings(encoder, self.dataset.fingerprint, decided)
            self.known = {} if self.output is None else _known(self.output, self.settings, overwrite=self.overwrite)
            self.probe = ReadProbe(self.dataset, encoder.prepare)
        return encoder


def _digest(stage: Stage) -> str:
    try:
        return sha256_of(stage.path)
    except OSError as error:
        raise InputError(f"cannot read {stage.path}: {error.strerror or error}") from error


def _of_split(dataset: Dataset, split: str | None) -> Dataset:
    if split is None:
        return dataset
    if dataset.split is None:
        raise InputError(f"{dataset.location} has no splits; omit `split={split}`")
    if split not in dataset.split:
        raise UsageError(unknown("split", split, sorted(set(dataset.split)), place=dataset.location))
    return rows_of(dataset, np.flatnonzero(np.array(dataset.split, dtype=object) == split))


def _settings(encoder: Encoder, fingerprint: str, options: Any) -> str:
    """Hash what values depend on besides the weights; sha256 (hex), shortened."""
    decided = [encoder.spec, encoder.code_sha256, encoder.prepare.text, fingerprint, options]
    return hashlib.sha256(json.dumps(decided, default=str).encode()).hexdigest()[:16]


def _known(output: Path, settings: str, *, overwrite: bool) -> dict[str, dict[str, Point]]:
    """Read what an output holds: sha256 of the checkpoint -> layer -> point."""

    def read() -> list[Point]:
        if overwrite:
            output.unlink(missing_ok=True)
        return read_points(output) if output.exists() else []

    found: dict[str, dict[str, Point]] = {}
    for point in distributed.broadcast(read):
        if point.settings != settings:
            what = (
                "a run of Monitor" if point.settings is None else "a run with another model, data, layers, metrics or options"
            )
            raise OutputError(f"{output} was written by {what}; choose another name, or pass `overwrite=True`")
        found.setdefault(point.sha256 or "", {})[point.layer] = point
    return found


def _point(scores: Scores, stage: Stage, now: str, seconds: float, digest: str, settings: str) -> Point:
    return Point(
        step=stage.step,
        layer=scores.layer,
        metrics={key: found.value for key, found in scores.metrics.items()},
        time=now,
        seconds=seconds,
        samples=scores.samples,
        dimensions=scores.dimensions,
        classes=scores.classes,
        checkpoint=stage.path,
        sha256=digest,
        settings=settings,
    )


def _remembered(point: Point, stage: Stage, metrics: Sequence[str], layers: int) -> Scores:
    """Make the scores of a point: values, without what only the features tell."""
    measured = {}
    for each in bound(metrics):
        key = next((name for name in point.metrics if name not in measured and name.partition("(")[0] == each.name), each.name)
        value = point.metrics.get(key)
        measured[key] = Measurement(
            each.name,
            value,
            each.declared.better,
            each.declared.bounds,
            each.options,
            note=None if value is not None else f"undefined when {stage.name} was measured",
        )
    scores = Scores(
        name=point.layer,
        source=stage.path,
        layer=point.layer,
        samples=point.samples or 0,
        dimensions=point.dimensions or 0,
        classes=point.classes or 0,
        device="",
        metrics=measured,
    )
    return _renamed(scores, stage, layers)


def _renamed(scores: Scores, stage: Stage, layers: int) -> Scores:
    return replace(scores, name=stage.name if layers == 1 else f"{stage.name}:{scores.layer}", source=stage.path)
