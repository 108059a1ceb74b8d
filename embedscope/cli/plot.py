"""`embedscope plot`."""

from __future__ import annotations

from typing import Annotated

import typer

from embedscope.cli.console import Talk, command_line, print_json
from embedscope.cli.options import Json, Layers, Output, Overwrite, Quiet, Seed, Split, Verbose, listing


def plot(
    features: Annotated[
        list[str],
        typer.Argument(help="Stores, .npz, X.npy,y.npy, or run directories of finetune; name=path gives one a name."),
    ],
    output: Output,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            "-k",
            help="tsne, umap or pca; any number of times, a row each. By default tsne.",
            show_default=False,
        ),
    ] = None,
    layer: Layers = None,
    split: Split = None,
    max_points: Annotated[int, typer.Option(help="Thin out beyond this, class by class.", min=3)] = 10_000,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    listed: Annotated[bool, listing("plotting")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw embeddings side by side to a .png, .svg or .pdf, or a page to explore to a .html; a run is drawn before and after.

    With a seed, UMAP runs on one core, and is repeatable on the same machine only.
    """
    from embedscope.plotting import KINDS, plot

    talk = Talk(quiet, verbose)
    path = plot(
        features,
        output,
        kinds=kind or KINDS,
        layers=layer or (),
        split=split,
        max_points=max_points,
        seed=seed,
        overwrite=overwrite,
        command=command_line(),
        track=talk.track,
    )
    if json:
        print_json({"path": str(path)})
    talk.say(f"drew {path}")
