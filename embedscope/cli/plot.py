"""`embedscope plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedscope.cli.console import Talk, command_line, print_json
from embedscope.cli.options import Json, Layers, Overwrite, Quiet, Seed, Split, Verbose, listing


def plot(
    features: Annotated[
        list[str],
        typer.Argument(
            help="Feature stores, features made elsewhere as in score, run directories of finetune, or files of measurements "
            "(.jsonl of a Monitor or of score); name=path names one."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="A .png, .svg or .pdf file; a folder, for one file per kind; or a .html page.",
            show_default=False,
        ),
    ],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind", "-k", help="Kind of plot, see --list; may be repeated. By default, all that apply.", show_default=False
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help="A metric or a set of a page's scores, or of the trajectory; any number of times.",
            show_default=False,
        ),
    ] = None,
    layer: Layers = None,
    split: Split = None,
    width: Annotated[str, typer.Option(help="column or page of a paper, or slide.")] = "page",
    form: Annotated[str, typer.Option("--format", help="png, svg or pdf, in a folder.")] = "png",
    max_points: Annotated[int, typer.Option(help="Thin out beyond this, class by class.", min=3)] = 10_000,
    coordinates: Annotated[Path | None, typer.Option(help="A .csv to write id, label, input, kind, x, y to.")] = None,
    layout: Annotated[Path | None, typer.Option(help="Such a .csv, drawn instead of projecting.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="For a page and the kind issues: the folder of the images, below which ids are paths, or other data; "
            "by default looked for where the features were extracted from.",
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    listed: Annotated[bool, listing("plotting", "plot kinds")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw embeddings side by side, a run before and after: pictures, or with .html a page to explore.

    With a seed, UMAP runs on one core, and is repeatable on the same machine only.
    """
    from embedscope.plotting import plot

    talk = Talk(quiet, verbose)
    pictures = plot(
        features,
        output,
        kinds=kind or (),
        layers=layer or (),
        metrics=metric,
        split=split,
        width=width,
        form=form,
        max_points=max_points,
        coordinates=coordinates,
        layout=layout,
        images=images,
        seed=seed,
        overwrite=overwrite,
        command=command_line(),
        say=talk.say,
        track=talk.track,
    )
    if json:
        print_json({"path": str(output), "pictures": [str(path) for path in pictures]})
    for path in pictures:
        talk.say(f"drew {path}")
