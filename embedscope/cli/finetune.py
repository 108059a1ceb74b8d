"""`embedscope finetune`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from embedscope.cli.console import BEST, Talk, arrow, command_line, number, print_columns, print_json
from embedscope.cli.options import Device, Json, Output, Overwrite, Quiet, Seed, Verbose, listing
from embedscope.records import Summary

if TYPE_CHECKING:
    from embedscope.records import Finetuning, ObjectiveResult


_TRAINING, _ROWS = "Training", "Rows"


def finetune(
    features: Annotated[
        str,
        typer.Argument(
            help="A feature store, or features made elsewhere: .npz, X.npy,y.npy, a table, .pt or .h5ad, as in score."
        ),
    ],
    output: Output,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            help="As in 'ce + 0.5*silhouette@10'; any number of times. A list, 'ce + [0.1,1]*gini', makes a sweep. By default "
            "ce, and ce + 0.5*silhouette.",
            show_default=False,
        ),
    ] = None,
    head: Annotated[str, typer.Option(help="linear, or mlp with widths, as in 'mlp(128, 64)'.")] = "linear",
    layer: Annotated[
        str | None, typer.Option("--layer", "-l", help="Which layer, if the store has several.", rich_help_panel=_ROWS)
    ] = None,
    trials: Annotated[int, typer.Option(help="Trainings an objective, with different seeds.", min=1)] = 1,
    epochs: Annotated[int, typer.Option(help="Passes over the training rows.", min=1, rich_help_panel=_TRAINING)] = 50,
    batch_size: Annotated[
        int,
        typer.Option(
            help="Rows a step, where the sampler does not say.",
            min=1,
            envvar="EMBEDSCOPE_BATCH_SIZE",
            rich_help_panel=_TRAINING,
        ),
    ] = 128,
    sampler: Annotated[
        str,
        typer.Option(
            help="shuffled, or 'balanced(classes=32, samples=8)': so many classes a batch, and rows of each.",
            rich_help_panel=_TRAINING,
        ),
    ] = "shuffled",
    sample_weights: Annotated[
        str | None,
        typer.Option(
            help="'dataset_equity(eta=1, gamma=5)': rare samples count more.", show_default=False, rich_help_panel=_TRAINING
        ),
    ] = None,
    optimizer: Annotated[
        str, typer.Option(help="adamw, or 'sgd(momentum=0.9, nesterov=True)'.", rich_help_panel=_TRAINING)
    ] = "adamw",
    learning_rate: Annotated[float, typer.Option(help="At the start.", rich_help_panel=_TRAINING)] = 3e-3,
    weight_decay: Annotated[float, typer.Option(help="Of the optimizer.", rich_help_panel=_TRAINING)] = 1e-4,
    schedule: Annotated[
        str,
        typer.Option(
            help="Of the rate: cosine (to 0), 'plateau(factor=0.1, patience=5)', or constant.", rich_help_panel=_TRAINING
        ),
    ] = "cosine",
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after so many epochs without a better validation.", min=1, show_default=False, rich_help_panel=_TRAINING
        ),
    ] = None,
    select_by: Annotated[
        str,
        typer.Option(
            help="What is best on the validation rows: macro_f1, accuracy, or a metric such as silhouette.",
            rich_help_panel=_TRAINING,
        ),
    ] = "macro_f1",
    test: Annotated[
        str | None,
        typer.Option(
            help="Hold out the rows of this file instead, of another data set.", show_default=False, rich_help_panel=_ROWS
        ),
    ] = None,
    label_map: Annotated[
        Path | None,
        typer.Option(
            help="CSV of its classes and ours, a pair a line; nothing after the comma leaves one out.",
            show_default=False,
            rich_help_panel=_ROWS,
        ),
    ] = None,
    test_share: Annotated[
        float, typer.Option(help="Held out of every class, without a split called test.", rich_help_panel=_ROWS)
    ] = 0.25,
    val_share: Annotated[
        float,
        typer.Option(
            help="Of the rest, to choose the epoch by, without a split called val; 0 keeps the last epoch.",
            rich_help_panel=_ROWS,
        ),
    ] = 0.1,
    memory: Annotated[
        str | None,
        typer.Option(
            help="What rows may take, as in 4GB; more are drawn from disk. Half of what is free.",
            envvar="EMBEDSCOPE_MEMORY",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard's event files too.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
    listed: Annotated[bool, listing("losses")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a head on stored features with one or more objectives and compare before and after, on held-out rows.

    Under torchrun, the processes share each batch.
    """
    from embedscope import distributed, finetuning
    from embedscope.devices import parse_bytes
    from embedscope.store import read_features
    from embedscope.store.runs import as_json

    with distributed.process_group():
        talk = Talk(quiet or distributed.rank() > 0, verbose)
        result = finetuning.finetune(
            read_features(features, layer=layer),
            output,
            objectives=objective or finetuning.OBJECTIVES,
            head=head,
            trials=trials,
            epochs=epochs,
            batch_size=batch_size,
            sampler=sampler,
            weights=sample_weights,
            optimizer=optimizer,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            schedule=schedule,
            patience=patience,
            select_by=select_by,
            test_share=test_share,
            val_share=val_share,
            test=None if test is None else read_features(test, layer=layer),
            label_map=None if label_map is None else finetuning.read_label_map(label_map),
            memory=None if memory is None else parse_bytes(memory),
            device=device,
            seed=seed,
            tensorboard=tensorboard,
            overwrite=overwrite,
            resume=resume,
            command=command_line(),
            track=talk.track,
            say=talk.say,
        )
        if distributed.rank() > 0:
            return
    data = result.data
    chosen = f"chosen by {data['validation']:,} ({data['validated_on']}), " if data["validation"] else ""
    talk.say(f"trained on {data['train']:,} rows, {chosen}measured on {data['test']:,} held-out ones ({data['held_out']})")
    for done in result.objectives:
        talk.detail(f"{done.expression}: {[f'{trial.seconds:.1f} s' for trial in done.trials]}")
        for warning in done.warnings:
            talk.warn(f"{done.expression}: {warning}")
    if json:
        print_json(as_json(result))
    else:
        _print(result)
    for sentence in finetuning.conclusions(result):
        talk.say(sentence)
    talk.say(f"{result.seconds:.1f} s; next: embedscope plot {quote(str(output))} -o {quote(f'{output}.png')}")


def _print(result: Finetuning) -> None:
    from embedscope import finetuning, plugins
    from embedscope.metrics import declaration

    before = result.objectives[0].trials[0].before
    rows = []
    for name in before:
        better = "higher" if name in finetuning.ACCURACIES else declaration(plugins.load("metrics", name)).better
        cells = [number(before[name]), *(_cell(done.summary[name]) for done in result.objectives)]
        rows.append((f"{name}{arrow(better)}", cells))
    for done in result.objectives:
        if done.sweep:
            _print_sweep(result, done)
    print_columns("held-out rows", ["before", *(f"after {done.expression}" for done in result.objectives)], [rows])


def _print_sweep(result: Finetuning, done: ObjectiveResult) -> None:
    from embedscope.ops.statistics import mean_and_std

    criterion = f"validation {result.options['select_by']}"
    rows = []
    for candidate in done.candidates:
        mean, std = mean_and_std(candidate.validation) if candidate.validation else (None, None)
        rows.append(
            (candidate.expression, [_cell(Summary(mean, std)) + (BEST if candidate.expression == done.expression else "")])
        )
    print_columns(f"sweep {done.sweep}", [criterion], [rows])


def _cell(summary: Summary) -> str:
    text = number(summary.mean)
    return f"{text} ± {summary.std:.4f}" if summary.std is not None else text
