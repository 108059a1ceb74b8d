"""finetune: train a head on stored features, or a network on data, with one or more objectives; compare before and after."""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope import devices, distributed
from embedscope.arguments import check_flags, check_path, check_text, displayed
from embedscope.errors import InterruptedRunError, UsageError
from embedscope.finetuning.comparing import summarized
from embedscope.finetuning.config import TrainingConfig
from embedscope.finetuning.material import prepare
from embedscope.finetuning.measuring import primary_name
from embedscope.finetuning.networks import Given, given, is_model, opened
from embedscope.finetuning.preparation import (
    check,
    grids,
    head_notes,
    refuse_for_heads,
    refuse_for_networks,
    refuse_without_validation,
    warn_of_overlap,
)
from embedscope.finetuning.splitting import draws_test_rows, fingerprint, part, with_classes_of
from embedscope.finetuning.sweeping import run_objective
from embedscope.finetuning.trials import Trials
from embedscope.ops.blocks import allowance, limits
from embedscope.progress import Track, silent, untracked
from embedscope.store import check_finite, resuming, select_labeled
from embedscope.store.provenance import Provenance, RunOrigin
from embedscope.store.results import Finetuning, RunData
from embedscope.store.runs import RunWriter, check_run, directory_names
from embedscope.store.sources import open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedscope.finetuning.splitting import Parts
    from embedscope.store.features import FeatureSet

# Settings that change nothing in the results, and the device, which is recorded as the one that was chosen.
_IMMATERIAL = ("memory", "tensorboard", "device")

# What an unfinished run may be resumed with more or less of.
_EXTENDED = ("objectives", "trials", "splits")

# Seeds of splits are this far apart, so that the trials of one share none with those of another.
_SPLIT_SEEDS = 10_000


def finetune(
    features: Any,
    labels: Any = None,
    run: Path | str | TrainingConfig | None = None,
    config: TrainingConfig | None = None,
    *,
    layer: str | None = None,
    test: Any = None,
    label_map: Mapping[str, str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    command: str = "",
    track: Track = untracked,
    say: Callable[[str], None] = silent,
    **settings: Any,
) -> Finetuning:
    """Train a head or a network with every objective and return the metrics before and after.

    With a model and a data set, `finetune(open_model(...), open_dataset(...), run)`, the network is trained: the objective uses
    its embedding layer and its classifier, which is replaced if its number of classes differs. Everything else works as for
    heads, with the network's embedding before training as the features. A model with random weights starts from different ones
    in each trial. Each trial keeps `model.safetensors`, which `extract` accepts as a checkpoint of the same model.

    All metrics are computed on the rows themselves, before and after: Gini and KL differ from those of `score` if the layer has
    magnitudes, which a head does not propagate.

    The held-out rows are the split "test" if there is one, else a share of each class. The weights kept are those of the best
    epoch on the validation rows: the split "val", else a share of each class of the rest. All other rows are for training.
    Every objective sees the same splits and, trial by trial, the same initialization and batches, so differences are paired.
    With several splits, test and validation rows are redrawn for each, and all trials are trained on each, with their own
    seeds. If no term of an objective reaches the classifier, the classifier is trained as a linear probe on the detached
    embedding, by cross-entropy.

    An objective with lists, `ce + [0.1, 1]*silhouette`, is a sweep: all objectives of the grid are trained, the best on the
    validation rows (mean over trials) represents it, and only that one is measured on the held-out rows.

    Each training is saved in `RUN.partial` when it ends, and a running one every ten seconds; an interrupted run resumes with
    `resume`, also with other objectives, more trials or more splits, and gives identical results. An objective that becomes
    non-finite ends the run; in a sweep it is dropped. Under torchrun, each process computes its share of every batch, and the
    gradient is that of the whole batch.

    Args:
        features: an Encoder or nn.Module, with a Dataset as `labels`, to train the network. Otherwise (N, D) as an array, a
            tensor or a data frame, with `labels`; or, without, a FeatureSet, a path, or a pair (features, labels); of AnnData,
            `labels` names a column of its obs. Rows whose label is -1 are left out.
        labels: (N,) of any kind. A path or a config passed here is taken as `run` or `config`, as in `finetune("features.h5",
            "run")`.
        run: the directory to write, with the layout documented in `store.runs`. Without it, heads, embeddings of the held-out
            rows and logs are in a temporary directory, the result's `path`, which exists as long as the result.
        config: how to train; `TrainingConfig()` by default.
        layer: which layer of a store with several; for a network, the layer whose output is the embedding, as in `extract`.
        test: hold out these rows instead, of another data set: a FeatureSet, a path, or a pair (features, labels); for a
            network, a Dataset.
        label_map: class names of `test` -> class names of the features, "" to drop a class; equal names need no entry.
        overwrite: replace an earlier run; anything else is never replaced.
        resume: resume an interrupted run.
        command: recorded, so that the run can be repeated.
        track: reports progress over epochs.
        say: called with messages for the user during the run.
        **settings: fields of `TrainingConfig` by name, as in `objectives=["ce", "supcon"], trials=5`; they override `config`.

    Raises:
        InputError: features with NaN, fewer than two classes, or an objective that becomes non-finite.
        UsageError: an invalid expression, head, name or number; features without labels.
        OutputError: the directory exists, or an unfinished run was started with other settings.
        InterruptedRunError: Ctrl-C after some trainings were finished; `resume` continues from them.

    Example:
        >>> features = [[0.0, 1.0], [0.1, 1.2], [0.2, 0.9], [0.3, 1.1], [3.0, 0.0], [3.1, 0.2], [3.2, 0.1], [3.3, 0.3]]
        >>> labels = ["a"] * 4 + ["b"] * 4
        >>> run = finetune(features, labels, objectives=["ce", "ce + silhouette"], metrics="silhouette", epochs=2, device="cpu")
        >>> [(row.metric, row.objective) for row in run.comparison][:2]
        [('silhouette', 'ce'), ('silhouette', 'ce + silhouette')]
    """
    if isinstance(labels, TrainingConfig) and config is None:
        labels, config = None, labels
    elif isinstance(labels, str | Path) and is_model(features):
        raise UsageError(f"a network is trained on a data set; open it first: open_dataset({str(labels)!r})")
    elif isinstance(labels, str | Path) and not hasattr(features, "obsm"):
        if isinstance(run, str | Path):
            raise UsageError(f"two run directories are given: {labels} and {run}; labels must be an array or a list")
        labels, run, config = None, labels, run if isinstance(run, TrainingConfig) else config
    elif isinstance(run, TrainingConfig) and config is None:
        run, config = None, run
    if isinstance(run, TrainingConfig):
        raise UsageError("two configs are given; give one")
    if config is not None and not isinstance(config, TrainingConfig):
        raise UsageError(f"`config=` takes a TrainingConfig, got {displayed(config)}")
    if run is not None:
        check_path("the run directory", run)
    if layer is not None:
        check_text("`layer=`", layer)
    if label_map is not None and not isinstance(label_map, Mapping):
        raise UsageError(f"`label_map=` takes a mapping of class names to class names, got {displayed(label_map)}")
    overwrite, resume = check_flags(overwrite=overwrite, resume=resume)
    config = (config or TrainingConfig()).with_settings(**settings)
    check(config)
    if run is not None:
        distributed.broadcast(lambda: check_run(Path(run), overwrite=overwrite, resume=resume))
    elif resume:
        raise UsageError("only a run with a directory can be resumed; give the directory")
    source: FeatureSet | Given
    other: FeatureSet | Given | None = None
    if is_model(features):
        refuse_for_networks(config)
        source = given(features, labels, layer)
        other = None if test is None else source.on(test)
    else:
        refuse_for_heads(config)
        source = open_source(features, labels, layer=layer)
        other = None if test is None else open_source(test, layer=layer)
    if run is not None:
        path = Path(run)
        return _run(path, source, config, other, label_map, overwrite, resume, command, track, say, temporary=False)
    folder = distributed.broadcast(lambda: tempfile.mkdtemp(prefix="embedscope-"))
    try:
        path = Path(folder, "run")
        result = _run(path, source, config, other, label_map, overwrite, resume, command, track, say, temporary=True)
    except BaseException:
        if distributed.rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if distributed.rank() == 0:
        weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    return result


def _run(
    run: Path,
    source: FeatureSet | Given,
    config: TrainingConfig,
    other: FeatureSet | Given | None,
    label_map: Mapping[str, str] | None,
    overwrite: bool,
    resume: bool,
    command: str,
    track: Track,
    say: Callable[[str], None],
    *,
    temporary: bool,
) -> Finetuning:
    started = time.perf_counter()
    where = devices.choose(config.device, float64=True)
    budget = allowance(where, devices.memory_limit(config.memory, least=1))
    if distributed.rank():
        track = untracked
    folder = run.resolve().parent
    subject, everything = opened(source, config, where, budget // 2, track, say=say)
    held_out, test = (None, None) if other is None else opened(other, config, where, budget // 4, track, subject, say)
    features, unlabelled = select_labeled(everything)
    check_finite(features)
    if test is not None:
        test = with_classes_of(test, features, label_map)
        check_finite(test)
    elif label_map is not None:
        raise UsageError("a label map applies to the classes of a separate test file; give that file too")
    if config.splits > 1:
        _refuse_given_split(features, test)
    configs = [replace(config, seed=config.seed + _SPLIT_SEEDS * split) for split in range(config.splits)]
    splits = [
        part(features, test_share=each.test_share, val_share=each.val_share, seed=each.seed, other=test) for each in configs
    ]
    parts = splits[0]
    if parts.validation is None:
        refuse_without_validation(config, parts.validated_on)
    points = grids(config, parts, network=subject is not None)
    if test is not None:
        warn_of_overlap(parts, say)
    options = {key: value for key, value in asdict(config).items() if key not in _IMMATERIAL}
    options |= {"label_map": label_map, "device": str(where), "processes": distributed.world_size()}
    data = replace(_described(features, parts, unlabelled), drawn=test is None and draws_test_rows(features))
    alike = {key: value for key, value in {**options, **asdict(data)}.items() if key not in _EXTENDED}
    alike["rows"] = distributed.broadcast(lambda: fingerprint(parts, subject.digest if subject else ""))
    writer = RunWriter(run, alike, overwrite=overwrite, resume=resume)
    with ExitStack() as stack:
        stack.enter_context(limits(memory=budget))
        distributed.on_main(lambda: stack.enter_context(writer))
        works = [
            Trials(
                rows,
                prepare(
                    rows,
                    each,
                    where,
                    budget // (len(splits) * (2 if subject else 1)),
                    folder,
                    silent if split else say,
                    subject,
                    held_out,
                ),
                each,
                writer,
                notes=head_notes(each, features, rows, network=subject is not None),
                provenance=Provenance(
                    model=features.provenance.model,
                    data=features.provenance.data,
                    run=RunOrigin(command=command),
                ),
                memory=budget,
                track=track,
                split=split,
                temporary=temporary,
            )
            for split, (rows, each) in enumerate(zip(splits, configs, strict=True))
        ]
        folders = iter(directory_names([point for grid in points for point in grid]))
        try:
            befores = [work.before() for work in works]
            results = [
                run_objective(works, objective, {point: next(folders) for point in grid})
                for objective, grid in zip(config.objectives, points, strict=True)
            ]
            first, *others = (each.trials for each in results)
            # Further splits have other test rows: what rows do to a difference is part of what splits do to it.
            over_rows = [works[0].over_rows(trials, first) if len(works) == 1 else {} for trials in others]
        except KeyboardInterrupt as error:
            if temporary or not writer.has_work:
                raise
            again = resuming(command) if command else "the same call and resume=True"
            raise InterruptedRunError(f"interrupted; finished training is kept; resume with: {again}") from error
        options["command"] = command
        result = Finetuning(
            run,
            options,
            _over_splits(data, config),
            tuple(results),
            time.perf_counter() - started,
            _mean(befores),
            primary_name(config.primary),
            config.splits,
            tuple(befores) if len(befores) > 1 else (),
        )
        result = summarized(result, over_rows)
        distributed.on_main(lambda: writer.finish(result))
    return result


def _refuse_given_split(features: FeatureSet, test: FeatureSet | None) -> None:
    """Raise UsageError for test rows that are given, which are one split and no more."""
    if test is not None:
        raise UsageError(
            f"several splits draw their own test rows, but {test.source} is given as the test set; omit one of the two"
        )
    if not draws_test_rows(features):
        raise UsageError(
            f"several splits draw their own test rows, but {features.source} has a split 'test', which is the only one "
            f"held out; omit `splits=`, or give features without that split"
        )


def _over_splits(data: RunData, config: TrainingConfig) -> RunData:
    """Word where the rows of several splits are from."""
    if config.splits == 1:
        return data
    drawn = f"redrawn for each of {config.splits} splits"
    validated_on = f"{config.val_share:.0%} of each class of the rest, {drawn}"
    return replace(
        data,
        held_out=f"{config.test_share:.0%} of each class, {drawn}",
        validated_on=validated_on if "drawn" in data.validated_on else data.validated_on,
    )


def _mean(befores: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Average what was measured before training over splits; None if it is undefined in any."""
    found: dict[str, float | None] = {}
    for name in befores[0]:
        values = [value for each in befores if (value := each[name]) is not None]
        found[name] = float(np.mean(values)) if len(values) == len(befores) else None
    return found


def _described(features: FeatureSet, parts: Parts, unlabelled: int) -> RunData:
    return RunData(
        train=len(parts.train.labels),
        test=len(parts.test.labels),
        validation=0 if parts.validation is None else len(parts.validation.labels),
        name=features.name,
        source=features.source,
        layer=features.layer,
        held_out=parts.held_out,
        validated_on=parts.validated_on,
        unlabelled=unlabelled,
        dimensions=features.features.shape[1],
        classes=len(np.unique(parts.train.labels)),
        measured_on="the rows themselves, before and after alike; a layer's magnitudes, which score reads, have no after",
    )
