"""`embedscope finetune`."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args, get_type_hints

import typer

from embedscope import plugins
from embedscope.cli.console import BEST, Talk, arrow, command_line, number, print_columns, print_json
from embedscope.cli.extract import print_layers, say_what_was_opened, stdout_to_stderr
from embedscope.cli.help import DATA, EXECUTION, GENERAL, OUTPUT, TRAINING
from embedscope.cli.options import Device, Json, Overwrite, Quiet, Seed, Verbose, listing, preparation
from embedscope.errors import UsageError
from embedscope.finetuning.config import TrainingConfig
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedscope.data.dataset import Dataset
    from embedscope.models.encoder import Encoder
    from embedscope.store.results import Finetuning, ObjectiveResult, Summary

_VERDICT, _NETWORK = "Verdict", "Network (with DATA)"
_PANELS = {
    **dict.fromkeys(("objectives", "head", "epochs", "batch_size", "sampler", "weights", "optimizer"), TRAINING),
    **dict.fromkeys(("learning_rate", "weight_decay", "schedule", "patience", "select_by", "clip", "ema"), TRAINING),
    **dict.fromkeys(("trials", "splits", "primary", "metrics"), _VERDICT),
    **dict.fromkeys(("test_share", "val_share"), DATA),
    **dict.fromkeys(("train", "backbone_learning_rate", "loss_layer", "augment", "amp"), _NETWORK),
    "memory": EXECUTION,
    "tensorboard": OUTPUT,
}
# In the order in which a help shows them.
_ORDER = (TRAINING, _VERDICT, DATA, _NETWORK, OUTPUT, EXECUTION, GENERAL)
_METAVARS = {str: "SPEC", int: "N", float: "X"}
_OTHER_METAVARS = {"memory": "SIZE", "loss_layer": "NAME", "train": "PART", "primary": "NAME", "select_by": "NAME"}
# Settings whose option may be repeated.
_LISTS = ("objectives", "metrics")
# Settings whose option is not named after them alone.
_FLAGS = {
    "objectives": ("--objective",),
    "metrics": ("--metric", "-m"),
    "weights": ("--sample-weights",),
    "test_share": ("--test-share", "--test-size"),
    "tensorboard": ("--tensorboard",),
    "amp": ("--amp",),
    "backbone_learning_rate": ("--backbone-lr",),
}
_VARIABLES = {"batch_size": "EMBEDSCOPE_FINETUNE_BATCH_SIZE", "memory": "EMBEDSCOPE_MEMORY"}
_SHARED = {"device": Device, "seed": Seed}


def _options() -> Iterator[inspect.Parameter]:
    """Return one option per setting, with its default, help and limit."""
    kinds = get_type_hints(TrainingConfig) | dict.fromkeys(_LISTS, list[str] | None) | {"memory": str | None}
    for each in fields(TrainingConfig):
        meaning, default = each.metadata["help"], cast("Any", each.default)
        if each.name in _LISTS:
            meaning, default = f"{meaning} Repeatable; by default {', '.join(map(_quoted, default))}.", None
        option = typer.Option(
            *_FLAGS.get(each.name, ()),
            help=meaning,
            metavar=_OTHER_METAVARS.get(each.name, _metavar(kinds[each.name])),
            min=None if each.name == "memory" else each.metadata["low"],
            envvar=_VARIABLES.get(each.name),
            show_default=default is not None and default is not False,
            rich_help_panel=_PANELS.get(each.name),
        )
        kind = _SHARED.get(each.name, Annotated[kinds[each.name], option])
        yield inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _quoted(spec: str) -> str:
    return f"'{spec}'" if " " in spec else spec


def _metavar(kind: Any) -> str:
    """Return the metavar of a type, also for lists and optional types."""
    inner = [each for each in get_args(kind) if each is not type(None)]
    return _metavar(inner[0]) if inner else _METAVARS.get(kind, "")


def finetune(
    features: Annotated[
        str,
        typer.Argument(
            help="Feature store, or features made elsewhere, as in score: .npz, X.npy,y.npy, a table, .pt or .h5ad. With DATA, "
            "a model, as in extract.",
            metavar="FEATURES|MODEL",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Run directory to write.", metavar="PATH", show_default=False, rich_help_panel=OUTPUT
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="Data to train the network MODEL on, as in extract.", show_default=False),
    ] = None,
    *,
    listed: Annotated[bool, listing("losses", "losses for objectives", TRAINING)] = False,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            "-l",
            help="Layer to use, if the store has several; with DATA, the network's embedding layer, as in extract.",
            metavar="NAME",
            rich_help_panel=DATA,
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            help="Hold out these rows instead, of another data set: features, or with DATA, a data set.",
            metavar="PATH",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    label_map: Annotated[
        Path | None,
        typer.Option(
            help="CSV file that maps class names of --test to those of FEATURES, one pair per line; an empty second name drops "
            "a class.",
            metavar="PATH",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Initial weights of the network, e.g. net.safetensors.",
            metavar="PATH",
            show_default=False,
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    weights_of: Annotated[str | None, preparation("weights", _NETWORK)] = None,
    unsafe_pickle: Annotated[bool, preparation("unsafe-pickle", _NETWORK)] = False,
    size: Annotated[str | None, preparation("size", _NETWORK)] = None,
    mean: Annotated[str | None, preparation("mean", _NETWORK)] = None,
    std: Annotated[str | None, preparation("std", _NETWORK)] = None,
    channels: Annotated[int | None, preparation("channels", _NETWORK)] = None,
    list_layers: Annotated[bool, preparation("list-layers", _NETWORK)] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.", rich_help_panel=OUTPUT)] = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    **settings: Any,
) -> None:
    """Train with one or more objectives and compare before and after.

    Before and after are compared on held-out rows. With FEATURES, a head is trained on them; with MODEL and DATA, the network
    itself, whole or in part. Under torchrun, each batch is shared among the processes.
    """
    from embedscope import distributed, finetuning
    from embedscope.data import open_dataset
    from embedscope.store import read_features
    from embedscope.store.results import as_json
    from embedscope.store.runs import check_run

    if list_layers and data is None:
        raise UsageError("--list-layers requires a network: give MODEL and DATA")
    if output is None and not list_layers:
        raise UsageError("no output given; pass -o RUN")
    opening: dict[str, Any] = {"checkpoint": checkpoint, "weights": weights_of, "unsafe_pickle": unsafe_pickle}
    opening |= {"size": size, "mean": mean, "std": std, "channels": channels}
    with distributed.process_group():
        talk = Talk(quiet or distributed.rank() > 0, verbose)
        config = _config(settings)
        if data is None:
            _refuse_without_data(features, opening)
            subject: tuple[Any, Any] = (read_features(features, layer=layer), None)
        else:
            if output is not None and not list_layers:  # before a model is opened, which may take minutes
                distributed.broadcast(lambda: check_run(output, overwrite=overwrite, resume=resume))
            subject = _opened(features, data, opening, config.seed, talk)
            if list_layers:
                _print_layers(*subject, config.device, json)
                return
        result = finetuning.finetune(
            *subject,
            run=output,
            config=config,
            layer=layer if data else None,
            test=None if test is None else open_dataset(test) if data else read_features(test, layer=layer),
            label_map=None if label_map is None else finetuning.read_label_map(label_map),
            overwrite=overwrite,
            resume=resume,
            command=command_line(),
            track=talk.track,
            say=talk.say,
        )
        if distributed.rank() > 0:
            return
    _tell(result, talk)
    if json:
        print_json(as_json(result))
    else:
        _print(result, config.select_by)
    for sentence in finetuning.conclusions(result):
        talk.say(sentence)
    talk.say(f"{result.seconds:.1f} s; next: embedscope plot {quote(str(output))} -o {quote(f'{output}.png')}")


def _config(settings: dict[str, Any]) -> TrainingConfig:
    """Make the config of the options; those that may be repeated keep their default if they are not given."""
    return TrainingConfig(**{name: value for name, value in settings.items() if value or name not in _LISTS})


def _tell(result: Finetuning, talk: Talk) -> None:
    """Say what was trained and measured on, and every warning."""
    rows = result.data
    chosen = f"chosen by {rows.validation:,} ({rows.validated_on}), " if rows.validation else ""
    talk.say(
        f"trained on {counted(rows.train, 'row')}, {chosen}evaluated on {counted(rows.test, 'held-out row')} ({rows.held_out})"
    )
    for done in result.objectives:
        talk.detail(f"{done.expression}: {[f'{trial.seconds:.1f} s' for trial in done.trials]}")
        for warning in done.warnings:
            talk.warn(f"{done.expression}: {warning}")


def _print_layers(encoder: Encoder, dataset: Dataset, device: str, json: bool) -> None:
    from embedscope import distributed
    from embedscope.extraction import list_layers

    with stdout_to_stderr():
        lines = list_layers(encoder, dataset, device=device)
    if distributed.rank() == 0:
        print_layers(lines, json)


def _opened(model: str, data: str, opening: dict[str, Any], seed: int, talk: Talk) -> tuple[Encoder, Dataset]:
    """Open the network to train and its data, and print a summary."""
    from embedscope.data import open_dataset
    from embedscope.models import open_model
    from embedscope.models.preparation import parse_numbers, parse_size

    size, mean, std = (opening[name] for name in ("size", "mean", "std"))
    opening |= {
        "size": None if size is None else parse_size(size),
        "mean": None if mean is None else parse_numbers("mean", mean),
        "std": None if std is None else parse_numbers("std", std),
    }
    with stdout_to_stderr():
        encoder = open_model(model, **opening, seed=seed)
        dataset = open_dataset(data)
    say_what_was_opened(talk, encoder, dataset, training=True)
    return encoder, dataset


def _refuse_without_data(features: str, given: dict[str, Any]) -> None:
    """Raise UsageError for a model, or model options, without data to train on."""
    if not Path(features).exists() and (features.partition(":")[0] in plugins.names("models") or ".py:" in features):
        raise UsageError(f"{features} is a model; also give the data to train it on: MODEL DATA")
    for name in (name for name, value in given.items() if value):
        raise UsageError(f"--{name.replace('_', '-')} requires a network: give MODEL and DATA to train one")


def _with_settings(command: Any) -> None:
    """Replace `**settings` of a command by one option per setting, and sort its options by panel."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[:-1]
    options = sorted([*_options(), *own[3:]], key=lambda each: _ORDER.index(each.annotation.__metadata__[0].rich_help_panel))
    command.__signature__ = inspect.Signature([*own[:3], *options])


_with_settings(finetune)


def _print(result: Finetuning, criterion: str) -> None:
    from embedscope import finetuning
    from embedscope.metrics import direction

    before, rows = result.before, []
    for name in before:
        better = "higher" if name in finetuning.ACCURACIES else direction(name)
        cells = [number(before[name]), *(_cell(done.summary[name]) for done in result.objectives)]
        rows.append((f"{name}{arrow(better)}{' (primary)' if name == result.primary else ''}", cells))
    for done in result.objectives:
        if done.sweep:
            _print_sweep(done, criterion)
    print_columns("held-out rows", ["before", *(f"after {done.expression}" for done in result.objectives)], [rows])
    first, *others = result.objectives
    compared = finetuning.differences(result)
    if compared:
        found = [(f"{name}{' (primary)' if name == result.primary else ''}", cells) for name, cells in compared.items()]
        print_columns(f"minus {first.expression}", [done.expression for done in others], [found])


def _print_sweep(done: ObjectiveResult, criterion: str) -> None:
    from embedscope.ops.paired import mean_and_std
    from embedscope.store.results import Summary

    rows = []
    for candidate in done.candidates:
        mean, std = mean_and_std(candidate.validation) if candidate.validation else (None, None)
        rows.append(
            (candidate.expression, [_cell(Summary(mean, std)) + (BEST if candidate.expression == done.expression else "")])
        )
    print_columns(f"sweep {done.sweep}", [f"validation {criterion}"], [rows])


def _cell(summary: Summary) -> str:
    text = number(summary.mean)
    return text if summary.std is None else f"{text} ± {number(summary.std) if summary.std else 0}"
