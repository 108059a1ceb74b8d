"""`embedscope extract`."""

from __future__ import annotations

from dataclasses import asdict
from shlex import quote
from typing import Annotated

import typer

from embedscope.cli.console import Talk, command_line, print_json
from embedscope.cli.options import Device, Json, Layers, Output, Overwrite, Quiet, Seed, Verbose


def extract(
    model: Annotated[
        str,
        typer.Argument(
            help="path/to/file.py:Factory or package.module:Factory; options in brackets, as in net.py:Net(width=32)."
        ),
    ],
    data: Annotated[str, typer.Argument(help="A folder of class folders (splits are recognised), or a .npz with X and y.")],
    output: Output,
    checkpoint: Annotated[
        str | None, typer.Option(help="Weights for the model: .safetensors, or a state dict saved by torch.")
    ] = None,
    layer: Layers = None,
    batch_size: Annotated[int, typer.Option(help="Rows in a forward pass.", min=1, envvar="EMBEDSCOPE_BATCH_SIZE")] = 256,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a model over labelled data and write the latent features of its layers.

    A layer is a module's name, or NAME.input for what goes into it; by default the input of the last Linear.
    """
    from embedscope.data import open_dataset
    from embedscope.extraction import extract
    from embedscope.models import open_model
    from embedscope.store.files import check_output

    talk = Talk(quiet, verbose)
    check_output(output, overwrite=overwrite, inputs=[checkpoint, data, model.partition(":")[0]])
    dataset = open_dataset(data)
    encoder = open_model(model, checkpoint)
    if checkpoint:
        talk.detail(f"{checkpoint}: all {len(encoder.matched)} tensors match")
    else:
        talk.warn(f"no --checkpoint: the weights are those that {model} starts with")
    done = extract(
        encoder,
        dataset,
        output,
        layers=layer or (),
        batch_size=batch_size,
        device=device,
        seed=seed,
        overwrite=overwrite,
        command=command_line(),
        track=talk.track,
    )
    widths = ", ".join(f"{name} ({width})" for name, width in done.layers.items())
    if done.not_finite:
        talk.warn(f"{done.not_finite:,} of {done.rows:,} rows hold NaN or infinite values; score will refuse them")
    if json:
        print_json({**asdict(done), "path": str(done.path)})
    talk.say(f"{done.rows:,} rows of {widths} in {done.seconds:.1f} s; next: embedscope score {quote(str(done.path))}")
