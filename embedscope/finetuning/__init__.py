"""Train a head on stored features with one or more objectives, and compare before and after."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import Tensor

from embedscope import devices, plugins
from embedscope.errors import UsageError, check_number
from embedscope.finetuning.head import build_head
from embedscope.finetuning.holdout import hold_out
from embedscope.finetuning.training import Plan, apply, train
from embedscope.losses import expression
from embedscope.metrics import STANDARD, measure
from embedscope.ops.statistics import holm, mean_and_std, paired_difference
from embedscope.records import FeatureSet, Finetuning, ObjectiveResult, Rows, Summary, Track, Trial, untracked
from embedscope.store import check_finite, select_labelled
from embedscope.store.runs import RunWriter, check_run, directory_names

if TYPE_CHECKING:
    from collections.abc import Sequence

OBJECTIVES = ("ce", "ce + 0.5*silhouette")

# What is measured beside the metrics of `score`; all of them are shares, higher is better.
ACCURACIES = ("knn_accuracy", "macro_f1", "accuracy")


def finetune(
    features: FeatureSet,
    run: Path | str,
    *,
    objectives: Sequence[str] = OBJECTIVES,
    head: str = "linear",
    trials: int = 1,
    epochs: int = 50,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    weight_decay: float = 1e-4,
    test_share: float = 0.25,
    device: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    command: str = "",
    track: Track = untracked,
) -> Finetuning:
    """Train a head with every objective and measure the held-out rows before and after.

    All metrics are of the rows themselves, before and after alike: Gini and KL differ from those of `score` where the layer has
    magnitudes, which a head does not carry on.

    Held out are the rows of the split "test" where the features have one, and training takes all others; without it, a share
    of every class is drawn. Every objective sees the same split and, trial by trial, the same start and batches, so that
    differences are paired. AdamW with a cosine schedule; the weights of the last epoch are kept.

    Args:
        features: from `store.read_features`.
        run: the directory to write, laid out as `store.runs` says.
        objectives: expressions, see `losses.expression`.
        head: "linear" or "mlp(width, ...)", see `finetuning.head`.
        trials: trainings an objective, with seeds seed, seed + 1, …
        epochs: passes over the training rows.
        batch_size: rows a step; the last, smaller batch of an epoch is used too.
        learning_rate: at the start; it falls to 0 on a cosine.
        weight_decay: of AdamW.
        test_share: of every class, held out where the features have no split "test".
        device: "auto", "cpu", "cuda" or "cuda:N" (measurements are in float64, which MPS lacks).
        seed: of the split and the first trial.
        overwrite: replace an earlier run; nothing else is ever replaced.
        command: recorded, so that a reader can repeat the run.
        track: shows progress over epochs.

    Raises:
        InputError: features with NaN, fewer than two classes, or an objective that stops being finite.
        UsageError: an expression, a head or a number that cannot be.
        OutputError: the directory exists.
    """
    started = time.perf_counter()
    run = Path(run)
    check_run(run, overwrite=overwrite)
    check_number("learning_rate", learning_rate, above=0)
    check_number("weight_decay", weight_decay, low=0)
    for name, value in (
        ("trials", trials),
        ("epochs", epochs),
        ("batch_size", batch_size),
        ("objectives", len(objectives)),
    ):
        if value < 1:
            raise UsageError(f"{name} has to be at least 1, got {value}")
    where = devices.choose(device, float64=True)
    features, unlabelled = select_labelled(features)
    check_finite(features)
    rest, test, split = hold_out(features, test_share, seed)
    classes, codes = np.unique(rest.labels, return_inverse=True)
    plan = Plan(
        features=rest.features[:].to(where, torch.float32),
        labels=torch.from_numpy(codes).to(where),
        num_classes=len(classes),
        head=head,
        epochs=epochs,
        batch_size=min(batch_size, len(codes)),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
    )
    dim = plan.features.shape[1]
    width = build_head(head, dim, len(classes), 1.0).classify.in_features
    for objective in objectives:  # a typo in the last one should not cost the training of the first
        for term in expression.parse(objective):
            if term.start > epochs:
                raise UsageError(
                    f"'{objective}': {term.spec} would switch on in epoch {term.start}, after the last of {epochs}"
                )
        expression.build(objective, len(classes), width)
    options = {
        "head": head,
        "trials": trials,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "test_share": test_share,
        "seed": seed,
        "device": str(where),
        "optimizer": "AdamW, cosine schedule to 0",
        "command": command,
    }
    data = {
        "name": features.name,
        "source": features.source,
        "layer": features.layer,
        "held_out": split,
        "train": len(rest.labels),
        "test": len(test.labels),
        "unlabelled": unlabelled,
        "dimensions": dim,
        "classes": len(classes),
        "measured_on": "the rows themselves, before and after alike; a layer's magnitudes, which score reads, have no after",
    }
    origin = {"model": features.provenance.get("model"), "data": features.provenance.get("data")}
    before = {
        **_measured(test.features, test, where),
        "knn_accuracy": _knn_accuracy(plan.features, codes, test.features[:], classes, test.labels),
        "macro_f1": None,
        "accuracy": None,
    }
    results: list[ObjectiveResult] = []
    with RunWriter(run, overwrite=overwrite) as writer:
        writer.write_before(test, {**origin, "run": {"command": command}})
        for objective, folder in zip(objectives, directory_names(objectives), strict=True):
            done: list[Trial] = []
            for number in range(trials):
                began = time.perf_counter()
                trained, log = train(plan, objective, seed + number, track)
                seconds = time.perf_counter() - began
                embedding, predicted = apply(trained, test.features)
                names = classes[predicted.numpy()]
                after = {
                    **_measured(embedding, test, where),
                    "knn_accuracy": _knn_accuracy(apply(trained, plan.features)[0], codes, embedding, classes, test.labels),
                    "macro_f1": float(f1_score(test.labels, names, average="macro", zero_division=0)),
                    "accuracy": float((names == test.labels).mean()),
                }
                directory = f"{folder}/trial-{number}"
                writer.write_trial(
                    directory,
                    held_out=test,
                    embedding=embedding,
                    head=trained.state_dict(),
                    log=log,
                    provenance={
                        **origin,
                        "finetune": {
                            "objective": objective,
                            "head": head,
                            "seed": seed + number,
                            "classes": [features.class_names[label] for label in classes],
                        },
                        "run": {"command": command},
                    },
                )
                done.append(Trial(seed + number, epochs, epochs, before, after, seconds, directory))
            results.append(ObjectiveResult(objective, done, _summarised(done, results[0].trials if results else None)))
        result = Finetuning(run, options, data, _corrected(results), time.perf_counter() - started)
        writer.finish(result)
    return result


def _knn_accuracy(
    known: Tensor, codes: np.ndarray[Any, Any], rows: Tensor, classes: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> float:
    """The share of rows (N, D) whose class most of the 5 nearest training rows (M, D) have, by Euclidean distance."""
    from sklearn.neighbors import KNeighborsClassifier

    nearest = KNeighborsClassifier(n_neighbors=min(5, len(codes))).fit(known.cpu().numpy(), codes)
    return float((classes[nearest.predict(rows.cpu().numpy())] == labels).mean())


def _measured(rows: Rows, test: FeatureSet, device: torch.device) -> dict[str, float | None]:
    labels = torch.from_numpy(test.labels).to(device)
    found = measure(rows[:].to(device), labels, [plugins.Spec(name) for name in STANDARD], test.class_names)
    return {entry.measurement.name: entry.measurement.value for entry in found}


def _summarised(trials: Sequence[Trial], first: Sequence[Trial] | None) -> dict[str, Summary]:
    """Summarise the trials of an objective metric by metric, paired with those of the first objective."""
    summary = {}
    for name in trials[0].after:
        values = [value for trial in trials if (value := trial.after[name]) is not None]
        if len(values) < len(trials):
            summary[name] = Summary(None, None)
            continue
        mean, std = mean_and_std(values)
        reference = [value for trial in first or () if (value := trial.after[name]) is not None]
        if len(reference) != len(values):
            summary[name] = Summary(mean, std)
            continue
        paired = paired_difference(values, reference)
        summary[name] = Summary(mean, std, paired.difference, paired.ci95, paired.p_value, wilcoxon_p=paired.wilcoxon_p)
    return summary


def _corrected(results: Sequence[ObjectiveResult]) -> list[ObjectiveResult]:
    """Correct the p-values for the number of comparisons: of every metric, of every objective with the first."""
    tested = [
        (place, name)
        for place, result in enumerate(results)
        for name, each in result.summary.items()
        if each.p_value is not None
    ]
    p_values = [p for place, name in tested if (p := results[place].summary[name].p_value) is not None]
    corrected = dict(zip(tested, holm(p_values), strict=True))
    return [
        replace(
            result,
            summary={name: replace(each, p_corrected=corrected.get((place, name))) for name, each in result.summary.items()},
        )
        for place, result in enumerate(results)
    ]


def conclusions(result: Finetuning) -> list[str]:
    """Say in a sentence an objective how it differs from the first one: by which metrics, and that the others show nothing.

    A difference counts where its corrected p-value is below 0.05.
    """
    found = []
    first, *others = result.objectives
    for other in others:
        count = len(other.trials)
        against = f"{other.expression} against {first.expression}"
        if count < 2:
            found.append(
                f"{against}: one trial shows no spread, so that no difference can be told from chance; pass --trials 5"
            )
            continue
        moved, same = [], []
        for name, each in other.summary.items():
            if each.difference is None:
                continue
            if each.p_corrected is not None and each.p_corrected < 0.05 and each.ci95 is not None:
                low, high = each.ci95
                moved.append(f"{name} {each.difference:+.4f} [{low:+.4f}, {high:+.4f}]")
            else:
                same.append(name)
        parts = ["; ".join(moved)] if moved else []
        if same:
            parts.append(f"no difference that {count} trials can show in {', '.join(same)}")
        found.append(f"{against}: {'; '.join(parts)}")
    return found
