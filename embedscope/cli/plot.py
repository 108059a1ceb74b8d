"""`embedscope plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedscope.cli.console import Talk, command_line, print_json
from embedscope.cli.help import DATA, OUTPUT, PLOTS
from embedscope.cli.options import Json, Layers, Overwrite, Quiet, Seed, Split, Verbose, listing


def plot(
    features: Annotated[
        list[str],
        typer.Argument(
            help="Feature stores, features made elsewhere as in score, run directories of finetune, or .jsonl measurements of "
            "a Monitor or of score. name=path sets a name."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help=".png, .svg or .pdf file; a folder (one file per kind); or an .html page.",
            metavar="PATH",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format", help="Format of the files in a folder: png, svg or pdf.", metavar="NAME", rich_help_panel=OUTPUT
        ),
    ] = "png",
    coordinates: Annotated[
        Path | None,
        typer.Option(
            help="Write the projected coordinates to this .csv file: id, label, input, kind, x, y.",
            metavar="PATH",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    json: Json = False,
    overwrite: Overwrite = False,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            "-k",
            help="Plot kind, e.g. tsne(perplexity=10); repeatable. By default, the standard kinds that apply.",
            metavar="SPEC",
            show_default=False,
            rich_help_panel=PLOTS,
        ),
    ] = None,
    listed: Annotated[bool, listing("plotting", "plot kinds", PLOTS)] = False,
    width: Annotated[
        str,
        typer.Option(help="Figure width: column or page (of a paper), or slide.", metavar="NAME", rich_help_panel=PLOTS),
    ] = "page",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help="Metric, or set of metrics, for the scores on a page and for the trajectory; repeatable.",
            metavar="SPEC",
            show_default=False,
            rich_help_panel=PLOTS,
        ),
    ] = None,
    layout: Annotated[
        Path | None,
        typer.Option(
            help="Draw the coordinates in this .csv file, as written by --coordinates, instead of projecting.",
            metavar="PATH",
            rich_help_panel=PLOTS,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Images for a page and the kind issues: a folder with ids as relative paths, or other data. By default, the "
            "local data that the features were extracted from.",
            metavar="PATH",
            show_default=False,
            rich_help_panel=PLOTS,
        ),
    ] = None,
    layer: Layers = None,
    split: Split = None,
    max_points: Annotated[
        int,
        typer.Option(help="Maximum number of points, subsampled per class.", metavar="N", min=3, rich_help_panel=DATA),
    ] = 10_000,
    seed: Seed = 0,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw embeddings, or a run before and after, as pictures or an HTML page.

    UMAP is reproducible on the same machine only, and runs on one core for that; --kind 'umap(seed=None)' uses all cores.
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
