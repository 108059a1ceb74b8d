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
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedscope import devices, distributed, plugins
from embedscope.errors import InterruptedRunError, UsageError, check_number, check_whole
from embedscope.finetuning.banks import place
from embedscope.finetuning.comparing import conclusions, corrected, summarised
from embedscope.finetuning.measuring import ACCURACIES
from embedscope.finetuning.optimisation import check_optimizer, check_schedule
from embedscope.finetuning.sampling import build_sampler
from embedscope.finetuning.splitting import part, read_label_map, with_classes_of
from embedscope.finetuning.training import Material, Recipe, criterion, root_mean_square
from embedscope.finetuning.trials import Trials
from embedscope.finetuning.weighting import check_weights, sample_weights
from embedscope.losses import expression
from embedscope.models.head import build_head
from embedscope.ops.blocks import limits
from embedscope.records import Candidate, FeatureSet, Finetuning, ObjectiveResult, Track, Trial, silent, untracked
from embedscope.store import check_finite, resuming, select_labelled
from embedscope.store.runs import RunWriter, check_run, directory_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from embedscope.finetuning.splitting import Parts
    from embedscope.finetuning.trials import Outcome

__all__ = ["ACCURACIES", "OBJECTIVES", "conclusions", "finetune", "read_label_map"]

OBJECTIVES = ("ce", "ce + 0.5*silhouette")

# Of the memory that is free, rows may take this share unless it is told otherwise.
MEMORY_SHARE = 0.5


def finetune(
    features: FeatureSet,
    run: Path | str,
    *,
    objectives: Sequence[str] = OBJECTIVES,
    head: str = "linear",
    trials: int = 1,
    epochs: int = 50,
    batch_size: int = 128,
    sampler: str = "shuffled",
    weights: str | None = None,
    optimizer: str = "adamw",
    learning_rate: float = 3e-3,
    weight_decay: float = 1e-4,
    schedule: str = "cosine",
    patience: int | None = None,
    select_by: str = "macro_f1",
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
    with `resume`, and comes to the same. Under torchrun, each process computes its share of every batch, and the gradient is
    that of the whole batch.

    Args:
        features: from `store.read_features`.
        run: the directory to write, laid out as `store.runs` says.
        objectives: expressions, see `losses.expression`.
        head: "linear" or "mlp(width, ...)", see `models.head`.
        trials: trainings an objective, with seeds seed, seed + 1, …
        epochs: passes over the training rows.
        batch_size: rows a step; the last, smaller batch of an epoch is used too.
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
    distributed.from_first(lambda: check_run(run, overwrite=overwrite, resume=resume))
    _check(recipe, objectives, trials, val_share, weights, tensorboard)
    where = devices.choose(device, float64=True)
    budget = int(MEMORY_SHARE * devices.free_memory(where)) // distributed.local_size() if memory is None else memory
    features, unlabelled = select_labelled(features)
    check_finite(features)
    if test is not None:
        test = with_classes_of(test, features, label_map)
        check_finite(test)
    elif label_map is not None:
        raise UsageError("a label map is for the classes of another test file; name that file too")
    parts = part(features, test_share=test_share, val_share=val_share, seed=seed, other=test)
    grids = _grids(objectives, recipe, parts)
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
        "processes": distributed.size(),
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
    writer = RunWriter(run, {**options, **data, "scale": scale}, overwrite=overwrite, resume=resume)
    results: list[ObjectiveResult] = []
    with ExitStack() as stack:
        stack.enter_context(limits(memory=budget))
        distributed.first_alone(lambda: stack.enter_context(writer))
        classes = [features.class_names[label] for label in np.unique(parts.train.labels)]
        work = Trials(
            parts,
            _material(parts, recipe, scale, weights, where, budget, run.resolve().parent, seed, say),
            recipe,
            writer,
            notes={"head": head, **_origin(features), "dim": features.features.shape[1], "classes": classes},
            provenance={
                "model": features.provenance.get("model"),
                "data": features.provenance.get("data"),
                "run": {"command": command},
            },
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
            raise InterruptedRunError(f"interrupted; the trainings that are done are kept, go on with: {again}") from error
        result = Finetuning(run, {**options, "command": command}, data, corrected(results), time.perf_counter() - started)
        distributed.first_alone(lambda: writer.finish(result))
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
    for point, folder in folders.items():
        outcomes[point] = [work.train(point, f"{folder}/trial-{number}", number) for number in range(trials)]
    candidates = [
        Candidate(point, values, float(np.mean(values)), [f"{folders[point]}/trial-{number}" for number in range(trials)])
        for point, found in outcomes.items()
        if len(values := [each.validation for each in found if each.validation is not None]) == trials
    ]
    chosen = max(candidates, key=lambda each: sign * each.mean).expression if len(folders) > 1 else next(iter(folders))
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
    check_number("learning_rate", recipe.learning_rate, above=0)
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
    schedule, _ = check_schedule(recipe.schedule)
    criterion(recipe.select_by)
    check_weights(weights)
    if recipe.patience is not None:
        check_whole("patience", recipe.patience, low=1)
    sweeps = [objective for objective in objectives if len(expression.expand(objective)) > 1]
    by_validation = {
        "patience": recipe.patience is not None,
        "the schedule plateau": schedule == "plateau",
        "a sweep": bool(sweeps),
    }
    for what, asked in by_validation.items():
        if asked and not val_share:
            raise UsageError(f"{what} goes by the validation rows, and a val_share of 0 leaves none")
    if tensorboard:
        plugins.imported("tensorboard", extra="tensorboard")


def _grids(objectives: Sequence[str], recipe: Recipe, parts: Parts) -> list[list[str]]:
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
        expression.build(point, count, width)
    return grids


def _origin(features: FeatureSet) -> dict[str, str | None]:
    """Say which layer of a model the features are of, and how it was pooled."""
    if not features.provenance.get("model"):
        return {"layer": None, "pooling": None}
    return {"layer": features.layer, "pooling": features.provenance.get("layers", {}).get(features.layer, {}).get("pooling")}


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
