"""`embedscope finetune`."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from embedscope.cli.console import Talk, arrow, command_line, number, print_columns, print_json
from embedscope.cli.options import Device, Json, Output, Overwrite, Quiet, Seed, Verbose, listing

if TYPE_CHECKING:
    from embedscope.records import Finetuning, Summary


def finetune(
    features: Annotated[str, typer.Argument(help="A store, a .npz with X and y, or X.npy,y.npy.")],
    output: Output,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            help="As in 'ce + 0.5*silhouette@10'; any number of times. By default ce, and ce + 0.5*silhouette.",
            show_default=False,
        ),
    ] = None,
    head: Annotated[str, typer.Option(help="linear, or mlp with widths, as in 'mlp(128, 64)'.")] = "linear",
    layer: Annotated[str | None, typer.Option("--layer", "-l", help="Which layer, if the store has several.")] = None,
    trials: Annotated[int, typer.Option(help="Trainings an objective, with different seeds.", min=1)] = 1,
    epochs: Annotated[int, typer.Option(help="Passes over the training rows.", min=1)] = 50,
    batch_size: Annotated[int, typer.Option(help="Rows a step.", min=1, envvar="EMBEDSCOPE_BATCH_SIZE")] = 128,
    learning_rate: Annotated[float, typer.Option(help="At the start; falls to 0 on a cosine.")] = 3e-3,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 1e-4,
    test_share: Annotated[float, typer.Option(help="Held out of every class, without a split called test.")] = 0.25,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    listed: Annotated[bool, listing("losses")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a head on stored features with one or more objectives and compare before and after, on held-out rows."""
    from embedscope import finetuning
    from embedscope.store import read_features
    from embedscope.store.runs import as_json

    talk = Talk(quiet, verbose)
    result = finetuning.finetune(
        read_features(features, layer=layer),
        output,
        objectives=objective or finetuning.OBJECTIVES,
        head=head,
        trials=trials,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        test_share=test_share,
        device=device,
        seed=seed,
        overwrite=overwrite,
        command=command_line(),
        track=talk.track,
    )
    data = result.data
    talk.say(f"trained on {data['train']:,} rows, measured on {data['test']:,} held-out ones ({data['held_out']})")
    for done in result.objectives:
        talk.detail(f"{done.expression}: {[f'{trial.seconds:.1f} s' for trial in done.trials]}")
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
    print_columns("held-out rows", ["before", *(f"after {done.expression}" for done in result.objectives)], [rows])


def _cell(summary: Summary) -> str:
    text = number(summary.mean)
    return f"{text} ± {summary.std:.4f}" if summary.std is not None else text
