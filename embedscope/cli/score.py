"""`embedscope score`."""

from __future__ import annotations

from typing import Annotated

import typer

from embedscope.cli.console import Talk, print_json, print_scores
from embedscope.cli.options import Device, Json, Layers, Quiet, Split, Verbose, listing


def score(
    features: Annotated[
        list[str], typer.Argument(help="Stores, .npz with X and y, or X.npy,y.npy; name=path gives one a name.")
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help="A metric, as in soft_silhouette(tau_s=0.2); any number of times.",
            show_default=False,
        ),
    ] = None,
    layer: Layers = None,
    split: Split = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Show the values of the classes as well.")] = False,
    device: Device = "auto",
    json: Json = False,
    listed: Annotated[bool, listing("metrics")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure embeddings, side by side; * marks the best.

    Silhouette, soft silhouette, Gini impurity per channel, class-histogram KL and explained variance, exact over all rows.
    """
    from embedscope import scoring
    from embedscope.metrics import STANDARD

    talk = Talk(quiet, verbose)
    scores = scoring.score(
        features, metrics=metric or STANDARD, layers=layer or (), split=split, device=device, track=talk.track
    )
    for entry in scores:
        for warning in entry.warnings:
            talk.warn(f"{entry.name}: {warning}")
        for name, measurement in entry.metrics.items():
            talk.detail(f"{entry.name}: {name} with {dict(measurement.options)}")
            if measurement.note and measurement.value is not None:
                talk.say(f"note: {entry.name}: {name}: {measurement.note}")
    if json:
        print_json(scoring.as_json(scores))
    else:
        print_scores(scores, per_class=per_class)
