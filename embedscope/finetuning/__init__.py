"""Train a head on stored features with one or more objectives, and compare before and after.

splitting.py parts the rows, banks.py brings them where batches are drawn, sampling.py draws them; training.py is the loop, with
optimisation.py; trials.py runs it trial after trial and keeps what came out, measuring.py measures it, and comparing.py says
what it shows.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope import devices, distributed, plugins
from embedscope.errors import InputError, InterruptedRunError, UsageError, check_number, check_whole
from embedscope.finetuning.banks import place
from embedscope.finetuning.comparing import conclusions, corrected, summarised
from embedscope.finetuning.measuring import ACCURACIES
from embedscope.finetuning.optimisation import check_optimizer, check_schedule
from embedscope.finetuning.sampling import build_sampler
from embedscope.finetuning.splitting import fingerprint, part, read_label_map, with_classes_of
from embedscope.finetuning.training import Material, Recipe, criterion, root_mean_square
from embedscope.finetuning.trials import Trials
from embedscope.finetuning.weighting import check_weights, sample_weights
from embedscope.losses import expression
from embedscope.models.head import build_head
from embedscope.ops.blocks import allowance, limits, row_slices
from embedscope.progress import Track, silent, untracked
from embedscope.records import Candidate, Finetuning, ObjectiveResult, Trial
from embedscope.store import check_finite, resuming, select_labelled
from embedscope.store.provenance import FinetuneOrigin, Provenance, RunOrigin
from embedscope.store.runs import RunWriter, check_run, directory_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from embedscope.finetuning.splitting import Parts
    from embedscope.finetuning.trials import Outcome
    from embedscope.store.features import FeatureSet

__all__ = ["ACCURACIES", "OBJECTIVES", "conclusions", "finetune", "read_label_map"]

OBJECTIVES = ("ce", "ce + 0.5*silhouette")


def finetune(
    features: FeatureSet,
    run: Path | str,
    *,
    objectives: Sequence[str] = OBJECTIVES,
    head: str = Recipe.head,
    trials: int = 1,
    epochs: int = Recipe.epochs,
    batch_size: int = Recipe.batch_size,
    sampler: str = Recipe.sampler,
    weights: str | None = None,
    optimizer: str = Recipe.optimizer,
    learning_rate: float = Recipe.learning_rate,
    weight_decay: float = Recipe.weight_decay,
    schedule: str = Recipe.schedule,
    patience: int | None = Recipe.patience,
    select_by: str = Recipe.select_by,
    test_share: float = 0.25,
    val_share: float = 0.1,
    test: FeatureSet | None = None,
    label_map: Mapping[str, str] | None = None,
    memory: int | None = None,
    device: str = "auto",
    seed: int = 0,
    tensorboard: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    command: str = "",
    track: Track = untracked,
    say: Callable[[str], None] = silent,
) -> Finetuning:
    """Train a head with every objective and measure the held-out rows before and after.

    All metrics are of the rows themselves, before and after alike: Gini and KL differ from those of `score` where the layer has
    magnitudes, which a head does not carry on.

    Held out are the rows of the split "test" where the features have one, else a share of every class. The epoch whose weights
    are kept is the best on validation rows: those of the split "val", else a share of every class of the rest. Training takes
    all others. Every objective sees the same split and, trial by trial, the same start and batches, so that differences are
    paired. Where no term of an objective reaches the classifier, it learns beside it, by cross-entropy on the embedding: its
    accuracy is that of a linear probe.

    An objective with lists, `ce + [0.1, 1]*silhouette`, is a sweep: all objectives of the grid are trained, the best on the
    validation rows (mean over trials) stands for it, and it alone is measured on the held-out rows.

    Each training is kept in `RUN.partial` as it ends, and one under way every ten seconds; a run that was interrupted goes on
    with `resume`, and comes to the same; with other objectives or more trials too. An objective that stops being finite ends
    the run, but in a sweep it is left out. Under torchrun, each process computes its share of every batch, and the gradient is
    that of the whole batch.

    Args:
        features: from `store.read_features`.
        run: the directory to write, laid out as `store.runs` says.
        objectives: expressions, see `losses.expression`.
        head: "linear" or "mlp(width, ...)", see `models.head`.
        trials: trainings an objective, with seeds seed, seed + 1, …
        epochs: passes over the training rows.
        batch_size: rows a step, where the sampler does not say; the last, smaller batch of an epoch is used too.
        sampler: "shuffled", or "balanced(classes=32, samples=8)": so many classes a batch, and rows of each.
        weights: of samples, "dataset_equity(eta=1, gamma=5, clusters=10)", or None.
        optimizer: "adamw(beta1=0.9, beta2=0.999)" or "sgd(momentum=0.9, nesterov=False)".
        learning_rate: at the start.
        weight_decay: of the optimiser.
        schedule: "cosine" (to 0), "plateau(factor=0.1, patience=5)" (of the validation), or "constant".
        patience: stop after so many epochs in which the validation did not get better; None trains all of them.
        select_by: what "better" is: "macro_f1", "accuracy", or any metric with a direction, such as "silhouette", of the
            validation rows.
        test_share: of every class, held out where the features have no split "test".
        val_share: of every class of the rest, validated on where they have no split "val"; 0 keeps the last epoch.
        test: hold out these rows instead, of another data set.
        label_map: its class names -> those of the features, "" to leave a class out; equal names need none.
        memory: bytes that rows may take on the device; more are drawn from a file on the disk that the run is on. By default
            half of what is free.
        device: "auto", "cpu", "cuda" or "cuda:N" (measurements are in float64, which MPS lacks).
        seed: of the split and the first trial.
        tensorboard: write event files beside the logs.
        overwrite: replace an earlier run; nothing else is ever replaced.
        resume: go on with an interrupted run.
        command: recorded, so that a reader can repeat the run.
        track: shows progress over epochs.
        say: is told what a user should know while it runs.

    Raises:
        InputError: features with NaN, fewer than two classes, or an objective that stops being finite.
        UsageError: an expression, a head, a name or a number that cannot be.
        OutputError: the directory exists, or an unfinished run was begun with other settings.
        InterruptedRunError: Ctrl-C, with trainings done that `resume` goes on from.
    """
    started = time.perf_counter()
    run = Path(run)
    recipe = Recipe(head, epochs, batch_size, sampler, optimizer, learning_rate, weight_decay, schedule, patience, select_by)
    distributed.broadcast(lambda: check_run(run, overwrite=overwrite, resume=resume))
    _check(recipe, objectives, trials, val_share, weights, tensorboard)
    where = devices.choose(device, float64=True)
    budget = allowance(where, memory)
    features, unlabelled = select_labelled(features)
    check_finite(features)
    if test is not None:
        test = with_classes_of(test, features, label_map)
        check_finite(test)
    elif label_map is not None:
        raise UsageError("a label map is for the classes of another test file; name that file too")
    parts = part(features, test_share=test_share, val_share=val_share, seed=seed, other=test)
    if parts.validation is None:
        _refuse_without_validation(recipe, objectives, parts.validated_on)
    grids = _grids(objectives, recipe, parts, weights)
    if test is not None:
        _warn_of_overlap(parts, say)
    options = {
        "objectives": list(objectives),
        **asdict(recipe),
        "trials": trials,
        "weights": weights,
        "test_share": test_share,
        "val_share": val_share,
        "label_map": label_map,
        "seed": seed,
        "device": str(where),
        "processes": distributed.world_size(),
    }
    scale = root_mean_square(parts.train.features)
    data = {
        "name": features.name,
        "source": features.source,
        "layer": features.layer,
        "held_out": parts.held_out,
        "validated_on": parts.validated_on,
        "train": len(parts.train.labels),
        "validation": 0 if parts.validation is None else len(parts.validation.labels),
        "test": len(parts.test.labels),
        "unlabelled": unlabelled,
        "dimensions": features.features.shape[1],
        "classes": len(np.unique(parts.train.labels)),
        "measured_on": "the rows themselves, before and after alike; a layer's magnitudes, which score reads, have no after",
    }
    alike = {key: value for key, value in {**options, **data}.items() if key not in ("objectives", "trials")}
    alike["rows"] = distributed.broadcast(lambda: fingerprint(parts))
    writer = RunWriter(run, alike, overwrite=overwrite, resume=resume)
    results: list[ObjectiveResult] = []
    with ExitStack() as stack:
        stack.enter_context(limits(memory=budget))
        distributed.on_main(lambda: stack.enter_context(writer))
        classes = [features.class_names[label] for label in np.unique(parts.train.labels)]
        work = Trials(
            parts,
            _material(parts, recipe, scale, weights, where, budget, run.resolve().parent, seed, say),
            recipe,
            writer,
            origin=_origin(features, head, classes),
            provenance=Provenance(
                model=features.provenance.model, data=features.provenance.data, run=RunOrigin(command=command)
            ),
            seed=seed,
            memory=budget,
            tensorboard=tensorboard,
            track=track if distributed.rank() == 0 else untracked,
        )
        folders = iter(directory_names([point for grid in grids for point in grid]))
        try:
            before = work.before()
            for objective, grid in zip(objectives, grids, strict=True):
                named = {point: next(folders) for point in grid}
                first = results[0].trials if results else None
                results.append(_objective(work, objective, named, trials, before, first, criterion(select_by)[1]))
        except KeyboardInterrupt as error:
            if not writer.has_work:
                raise
            again = resuming(command) if command else "the same call and resume=True"
            raise InterruptedRunError(f"interrupted; what was trained is kept, go on with: {again}") from error
        result = Finetuning(run, {**options, "command": command}, data, corrected(results), time.perf_counter() - started)
        distributed.on_main(lambda: writer.finish(result))
    return result


def _objective(
    work: Trials,
    objective: str,
    folders: Mapping[str, str],
    trials: int,
    before: Mapping[str, float | None],
    first: Sequence[Trial] | None,
    sign: int,
) -> ObjectiveResult:
    """Train all objectives of a grid, choose one by the validation rows, and measure that one on the held-out rows."""
    outcomes: dict[str, list[Outcome]] = {}
    candidates = []
    for point, folder in folders.items():
        directories = [f"{folder}/trial-{number}" for number in range(trials)]
        outcomes[point] = found = []
        for number, directory in enumerate(directories):
            found.append(work.train(point, directory, number))
            if found[-1].diverged:
                break
        note = found[-1].diverged
        if note and len(folders) == 1:
            raise InputError(f"{note}; what else was trained is kept: --resume without this objective goes on with it")
        values = [] if note else [each.validation for each in found if each.validation is not None]
        mean = float(np.mean(values)) if values else None
        candidates.append(Candidate(point, values, mean, directories[: len(found)], note))
    if len(folders) == 1:
        (chosen,) = folders
    else:
        means = {each.expression: sign * each.mean for each in candidates if each.mean is not None}
        if not means:
            raise InputError(f"{objective}: no objective of the sweep stays finite; the first: {candidates[0].note}")
        chosen = max(means, key=lambda point: means[point])
    done = [
        work.measure(outcome, chosen, f"{folders[chosen]}/trial-{number}", number, before)
        for number, outcome in enumerate(outcomes[chosen])
    ]
    return ObjectiveResult(
        expression=chosen,
        trials=done,
        summary=summarised(done, first),
        sweep=objective if len(folders) > 1 else None,
        candidates=candidates if len(folders) > 1 else (),
        warnings=list(dict.fromkeys(text for outcome in outcomes[chosen] for text in outcome.warnings)),
    )


def _check(
    recipe: Recipe, objectives: Sequence[str], trials: int, val_share: float, weights: str | None, tensorboard: bool
) -> None:
    """Raise UsageError for what could never be, before anything is read."""
    check_number("learning_rate", recipe.learning_rate, above=0, high=1e30)
    check_number("weight_decay", recipe.weight_decay, low=0)
    counts = {
        "trials": trials,
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "objectives": len(objectives),
    }
    for name, value in counts.items():
        if value < 1:
            raise UsageError(f"{name} has to be at least 1, got {value}")
    check_optimizer(recipe.optimizer)
    check_schedule(recipe.schedule)
    criterion(recipe.select_by)
    check_weights(weights)
    if recipe.patience is not None:
        check_whole("patience", recipe.patience, low=1)
    if not val_share:
        _refuse_without_validation(recipe, objectives, "a val_share of 0 leaves none")
    if tensorboard:
        plugins.imported("tensorboard", extra="tensorboard")


def _refuse_without_validation(recipe: Recipe, objectives: Sequence[str], why: str) -> None:
    """Raise UsageError for whatever goes by the validation rows, where there are none."""
    asked = {
        "patience": recipe.patience is not None,
        "the schedule plateau": check_schedule(recipe.schedule)[0] == "plateau",
        f"selecting by {recipe.select_by}": recipe.select_by != Recipe.select_by,
        "a sweep": any(len(expression.expand(objective)) > 1 for objective in objectives),
    }
    for what in (what for what, wanted in asked.items() if wanted):
        raise UsageError(f"{what} goes by the validation rows, and there are none: {why}")


def _warn_of_overlap(parts: Parts, say: Callable[[str], None]) -> None:
    """Tell of test rows of another file that are rows of the training too; InputError if all are."""

    def keys(features: FeatureSet) -> np.ndarray[Any, Any]:
        # A row's product with fixed numbers tells rows apart, and is the same number for the same row wherever it stands.
        rows, width = features.features.shape
        numbers = torch.randn(width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        blocks = row_slices(rows, width * 8)
        return torch.cat([(features.features[block].double() * numbers).sum(dim=1) for block in blocks]).numpy()

    shared = int(np.isin(keys(parts.test), keys(parts.train)).sum())
    if shared == len(parts.test.labels):
        raise InputError(f"{parts.test.source}: all of its rows are rows that are trained on; give rows of another data set")
    if shared:
        say(f"warning: {shared:,} of the {len(parts.test.labels):,} rows of {parts.test.source} are trained on too")


def _grids(objectives: Sequence[str], recipe: Recipe, parts: Parts, weights: str | None) -> list[list[str]]:
    """Expand and build all objectives: a typo in the last one should not cost the training of the first."""
    count = len(np.unique(parts.train.labels))
    width = build_head(recipe.head, parts.train.features.shape[1], count, 1.0).classify.in_features
    build_sampler(recipe.sampler, np.searchsorted(np.unique(parts.train.labels), parts.train.labels), recipe.batch_size, 0)
    grids = [expression.expand(objective) for objective in objectives]
    for point in (point for grid in grids for point in grid):
        for term in expression.parse(point):
            if term.start > recipe.epochs:
                raise UsageError(
                    f"'{point}': {term.spec} would switch on in epoch {term.start}, after the last of {recipe.epochs}"
                )
        built = expression.build(point, count, width)
        if weights is not None and not any(hasattr(each, "per_sample") for each in built.losses):
            raise UsageError(
                f"'{point}' has no term with a value per sample, such as ce, that weights of samples could multiply"
            )
    return grids


def _origin(features: FeatureSet, head: str, classes: Sequence[str]) -> FinetuneOrigin:
    """Record which layer of which model a head is trained on, how that was pooled, and behind which other head, if any."""
    model = features.provenance.model
    other = None if model is None else model.head
    return FinetuneOrigin(
        head=head,
        layer=features.layer if model else None,
        pooling=features.provenance.pooling(features.layer) if model else None,
        weights=None if model is None else model.weights,
        behind=None if other is None else other.file,
        dim=features.features.shape[1],
        classes=tuple(classes),
    )


def _material(
    parts: Parts,
    recipe: Recipe,
    scale: float,
    weights: str | None,
    device: torch.device,
    memory: int,
    folder: Path,
    seed: int,
    say: Callable[[str], None],
) -> Material:
    """Bring the rows where batches are drawn from."""
    classes, codes = np.unique(parts.train.labels, return_inverse=True)
    rows = place(parts.train.features, device, memory, folder)
    taken = rows.shape[0] * rows.shape[1] * 4
    if not isinstance(rows, torch.Tensor):
        say(f"the rows take {taken / 1e9:,.2f} GB, more than the memory they may take; they are drawn from disk")
    validation = validation_labels = None
    if parts.validation is not None:
        validation = place(parts.validation.features, device, memory - taken, folder)
        validation_labels = torch.from_numpy(np.searchsorted(classes, parts.validation.labels))
    return Material(
        features=rows,
        labels=torch.from_numpy(codes).to(device),
        num_classes=len(classes),
        scale=scale,
        validation=validation,
        validation_labels=validation_labels,
        weights=None if weights is None else sample_weights(weights, rows, len(classes), seed).to(device),
    )
