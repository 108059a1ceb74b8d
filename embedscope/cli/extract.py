"""`embedscope extract`."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from embedscope.cli.console import Talk, command_line, print_columns, print_json
from embedscope.cli.help import DATA, EXECUTION, LAYERS, MODEL, OUTPUT
from embedscope.cli.options import Device, Json, Overwrite, Quiet, Seed, Verbose, preparation
from embedscope.errors import UsageError
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embedscope.data.dataset import Dataset
    from embedscope.extraction import LayerInfo
    from embedscope.models.encoder import Encoder

# Layers that the last line of an extraction names.
_MOST_SHOWN = 12
# Sources that fetch weights, and the package that does.
_FETCHED_BY = {"timm": "timm", "torchvision": "torchvision", "hf": "transformers", "st": "sentence_transformers"}


def extract(
    model: Annotated[
        str,
        typer.Argument(
            help="Model: timm:NAME, torchvision:NAME, hf:PATH, st:PATH, path/to/file.py:Factory, package.module:Factory, "
            "program.pt2, scripted.pt or model.onnx. Options go in brackets, e.g. timm:resnet18(num_classes=10)."
        ),
    ],
    data: Annotated[
        str,
        typer.Argument(
            help="Labeled data: a folder with a subfolder per class (splits are recognized), a .npz with X and y, a table "
            "with a column of paths or texts, idx files, hf:NAME or torchvision:NAME(root=...)."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Feature store to write, e.g. features.h5.",
            metavar="PATH",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            help="Data type of the stored features: float32 or float16.",
            metavar="NAME",
            envvar="EMBEDSCOPE_DTYPE",
            rich_help_panel=OUTPUT,
        ),
    ] = "float32",
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.", rich_help_panel=OUTPUT)] = False,
    overwrite: Overwrite = False,
    json: Json = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Weights for the model: .safetensors, or saved by torch (.pt, .pth, .ckpt).",
            metavar="PATH",
            rich_help_panel=MODEL,
        ),
    ] = None,
    weights: Annotated[str | None, preparation("weights", MODEL)] = None,
    head: Annotated[
        Path | None,
        typer.Option(
            help="Extract the embedding of a head trained by finetune, from its head.safetensors.",
            metavar="PATH",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial", help="Allow layers whose weights are missing from the checkpoint.", rich_help_panel=MODEL
        ),
    ] = False,
    unsafe_pickle: Annotated[bool, preparation("unsafe-pickle", MODEL)] = False,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            "-l",
            help="Layer to extract, e.g. 'layer*.1', repeatable; by default, the embedding.",
            metavar="NAME",
            show_default=False,
            rich_help_panel=LAYERS,
        ),
    ] = None,
    list_layers: Annotated[bool, preparation("list-layers", LAYERS)] = False,
    pool: Annotated[
        str,
        typer.Option(
            help="Pooling: auto, gap, mean, cls, flatten or none. For a single layer: --layer NAME:cls.",
            metavar="NAME",
            envvar="EMBEDSCOPE_POOL",
            rich_help_panel=LAYERS,
        ),
    ] = "auto",
    logits: Annotated[bool, typer.Option("--logits", help="Also store the classifier output.", rich_help_panel=LAYERS)] = False,
    limit: Annotated[
        int | None,
        typer.Option(help="Maximum number of rows, spread evenly over the data.", metavar="N", rich_help_panel=DATA),
    ] = None,
    on_error: Annotated[
        str,
        typer.Option(
            help="On an unreadable input: stop, or skip it.", metavar="NAME", envvar="EMBEDSCOPE_ON_ERROR", rich_help_panel=DATA
        ),
    ] = "stop",
    size: Annotated[str | None, preparation("size", DATA)] = None,
    mean: Annotated[str | None, preparation("mean", DATA)] = None,
    std: Annotated[str | None, preparation("std", DATA)] = None,
    channels: Annotated[int | None, preparation("channels", DATA)] = None,
    value_range: Annotated[
        str | None,
        typer.Option(
            "--range",
            help="Black and white values of images with more than 8 bits, e.g. 0,4095; by default 0,65535, or 0,1 for floats.",
            metavar="VALUES",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    batch_size: Annotated[
        str,
        typer.Option(
            help="Batch size, or auto for what fits in memory.",
            metavar="N",
            envvar="EMBEDSCOPE_EXTRACT_BATCH_SIZE",
            rich_help_panel=EXECUTION,
        ),
    ] = "256",
    device: Device = "auto",
    amp: Annotated[
        bool,
        typer.Option(
            "--amp", help="Run in half precision where it is safe.", envvar="EMBEDSCOPE_AMP", rich_help_panel=EXECUTION
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Number of data-loading processes; chosen automatically by default.",
            metavar="N",
            envvar="EMBEDSCOPE_WORKERS",
            rich_help_panel=EXECUTION,
        ),
    ] = None,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Use only deterministic algorithms.",
            envvar="EMBEDSCOPE_DETERMINISTIC",
            rich_help_panel=EXECUTION,
        ),
    ] = False,
    seed: Seed = 0,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Extract the features of a model's layers from labeled data.

    A layer is named by its module, e.g. layer4, by NAME.input for the input of a module, or by a pattern, e.g. 'layer*.1'. The
    default is the embedding: the input of the last Linear. After an interruption, --resume continues where the run stopped.
    """
    from embedscope import extraction
    from embedscope.data import open_dataset
    from embedscope.devices import choose
    from embedscope.distributed import process_group, rank
    from embedscope.models import open_model
    from embedscope.models.head import open_head
    from embedscope.models.images import parse_range
    from embedscope.models.preparation import parse_numbers, parse_size
    from embedscope.plugins import parse
    from embedscope.store.files import check_output

    if output is None and not list_layers:
        raise UsageError("no output given; pass -o FEATURES.h5, or --list-layers to list the layers")
    rows = None if batch_size == "auto" else _rows(batch_size)
    if output is not None and not list_layers:
        given = [checkpoint, data, model, parse(data).name, parse(model).name.partition(":")[0]]
        check_output(output, overwrite=overwrite or resume, inputs=given)
        extraction.check_options(output, rows, dtype, workers, limit, on_error, pool)
    choose(device)
    trained = None if head is None else open_head(head)
    with process_group():
        talk = Talk(quiet or rank() > 0, verbose)
        package = _FETCHED_BY.get(model.partition(":")[0])
        if package is not None and find_spec(package) is not None:
            talk.say(f"opening {model}; missing weights are downloaded")
        with stdout_to_stderr():
            encoder = open_model(
                model,
                checkpoint,
                weights=weights,
                unsafe_pickle=unsafe_pickle,
                size=None if size is None else parse_size(size),
                mean=None if mean is None else parse_numbers("mean", mean),
                std=None if std is None else parse_numbers("std", std),
                channels=channels,
                value_range=None if value_range is None else parse_range(value_range),
                seed=seed,
            )
            dataset = open_dataset(data)
            if output is None or list_layers:
                lines = extraction.list_layers(encoder, dataset, device=device)
            else:
                if rank() == 0:
                    say_what_was_opened(talk, encoder, dataset)
                done = extraction.extract(
                    encoder,
                    dataset,
                    output,
                    layers=layer or (),
                    pooling=pool,
                    logits=logits,
                    head=trained,
                    batch_size=rows,
                    device=device,
                    amp=amp,
                    dtype=dtype,
                    workers=workers,
                    limit=limit,
                    on_error=on_error,
                    allow_partial=allow_partial,
                    deterministic=deterministic,
                    seed=seed,
                    overwrite=overwrite,
                    resume=resume,
                    command=command_line(),
                    track=talk.track,
                    say=talk.say,
                )
        if rank() > 0:
            return
    if output is None or list_layers:
        print_layers(lines, json)
        return
    if done.skipped:
        first = next(iter(done.skipped.values()))
        skipped = counted(len(done.skipped), "input was skipped and is", "inputs were skipped and are")
        talk.warn(f"{skipped} listed in the store; the first: {first}")
    if done.not_finite:
        which = counted(done.not_finite, "holds", "hold", of=counted(done.rows, "row"))
        talk.warn(f"{which} NaN or infinite values; score will reject them")
    if json:
        print_json({**asdict(done), "path": str(done.path)})
    shown = list(done.layers.items())[:_MOST_SHOWN]
    widths = ", ".join(f"{name} ({width})" for name, width in shown)
    widths += f" and {len(done.layers) - len(shown):,} more layers" if len(done.layers) > len(shown) else ""
    widths += " and logits" if logits else ""
    new = done.rows - done.resumed
    speed = f" in {done.seconds:.1f} s, {new / done.seconds:,.0f} rows/s" if new and done.seconds else ""
    there = f", {done.resumed:,} of them written earlier" if done.resumed and new else ""
    talk.say(f"{counted(done.rows, 'row')} of {widths}{speed}{there}; next: embedscope score {quote(str(done.path))}")


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Redirect output of the user's model to stderr, also from compiled code: stdout is for data."""
    _flush()
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # a program without these streams
        kept = None
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            _flush()
            os.dup2(kept, 1)
            os.close(kept)


def _flush() -> None:
    """Flush the standard output buffers of Python and C."""
    import ctypes

    for stream in (sys.stdout, sys.__stdout__):
        if stream is not None:
            stream.flush()
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)


def _rows(batch_size: str) -> int:
    if not batch_size.isdecimal() or int(batch_size) < 1:
        raise UsageError(f"--batch-size must be a positive integer or auto, got '{batch_size[:40]}'")
    return int(batch_size)


def say_what_was_opened(talk: Talk, encoder: Encoder, dataset: Dataset, *, training: bool = False) -> None:
    """Print the source of a model's weights, the input preparation, and notes on the data."""
    weights = encoder.weights
    if weights is None and training:
        talk.say(f"no --checkpoint: {encoder.spec} is trained from random weights, drawn anew in each trial")
    elif weights is None:
        talk.warn(f"no --checkpoint: using the initial weights of {encoder.spec}")
    else:
        source = weights.file or encoder.spec
        total = len(weights.matched) + len(weights.missing)
        how = f" ({weights.origin})" if weights.origin else ""
        text = f"{source}: {len(weights.matched):,} of {counted(total, 'tensor')} of the model filled{how}"
        for what, names in (("missing", weights.missing), ("left over", weights.left_over)):
            if names:
                text += f"; {len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        talk.say(text)
        for note in weights.notes:
            talk.warn(note)
    talk.detail(f"input preparation: {encoder.prepare.text}")
    for note in dataset.notes:
        talk.warn(note)


def print_layers(lines: Sequence[LayerInfo], json: bool) -> None:
    """Print a table of layers, or JSON."""
    if json:
        print_json([asdict(line) for line in lines])
        return
    rows = [
        (
            line.name,
            [line.type, "–" if line.shape is None else " x ".join(map(str, line.shape)) or "1", f"{line.parameters:,}"],
        )
        for line in lines
    ]
    print_columns("layer", ["type", "output per sample", "parameters"], [rows])
