"""`embedscope score`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from embedscope.cli import checkpoints
from embedscope.cli.comparisons import print_comparisons, print_layers, print_shifts
from embedscope.cli.console import Talk, print_csv, print_differences, print_findings, print_json, print_scores
from embedscope.cli.issue_files import unmeasured, without_labels, write_issues
from embedscope.cli.options import Device, Json, Layers, Overwrite, Quiet, Seed, Split, Verbose, listing
from embedscope.errors import UsageError


class Format(StrEnum):
    """How scores are printed."""

    table = "table"
    json = "json"
    csv = "csv"


def score(
    features: Annotated[
        list[str],
        typer.Argument(
            help="Feature stores, or features made elsewhere: .npz (X, y), X.npy,y.npy, .csv, .parquet, .jsonl, .pt, "
            ".safetensors or .h5ad, with columns named as in v.csv(label='species', features='d*'); name=path names one. "
            "With --model, checkpoints."
        ),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help="A metric, as in gini(dead='ignore'), or a set of them, as in collapse; any number of times.",
            show_default=False,
        ),
    ] = None,
    layer: Layers = None,
    split: Split = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Show the values of the classes as well.")] = False,
    ci: Annotated[
        bool,
        typer.Option(
            "--ci",
            help="Add 95% intervals, and those of the differences to the first embedding. `--ci fixed` takes the numbers of "
            "samples per class as given instead of drawn with the samples.",
        ),
    ] = False,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Say what changed from the first embedding to each other one, on the rows that both have: metrics, structure, "
            "classes, samples. Adds 95% intervals.",
        ),
    ] = False,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="Rank the layers by the first metric, and name the smallest that is not significantly worse than the best. "
            "Adds 95% intervals. Silhouettes are ratios of distances, so they compare between widths; explained_variance and "
            "ranks grow with the width.",
        ),
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            help="Measure the shift to other rows of the same layer, such as production.h5: classifier AUC, MMD, classes, rows "
            "furthest out. Labels are optional: p.csv(label=None) has none.",
            show_default=False,
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample", "--subsample", help="Score a stratified sample of N rows, against all rows.", metavar="N", min=1
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            "--samples", "--per-sample", help="Write the values of each sample to this .csv or .parquet.", show_default=False
        ),
    ] = None,
    issues: Annotated[
        Path | None,
        typer.Option(
            "--issues",
            help="Write the rows that need attention to this .csv or .parquet: probable label errors, near duplicates, leakage "
            "between splits, outliers.",
            show_default=False,
        ),
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            help="End with exit code 3 if silhouette=0.3, say, is not reached (or exceeded, where lower is better).",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="What the run may take, as in 4GB; half of what is free.", envvar="EMBEDSCOPE_MEMORY"),
    ] = None,
    model: checkpoints.Model = None,
    data: checkpoints.Data = None,
    output: checkpoints.Output = None,
    limit: checkpoints.Limit = None,
    size: checkpoints.Size = None,
    mean: checkpoints.Mean = None,
    std: checkpoints.Std = None,
    channels: checkpoints.Channels = None,
    weights: checkpoints.Weights = None,
    device: Device = "auto",
    seed: Seed = 0,
    form: Annotated[Format, typer.Option("--format", help="How to print.", envvar="EMBEDSCOPE_FORMAT")] = Format.table,
    json: Json = False,
    overwrite: Overwrite = False,
    listed: Annotated[bool, listing("metrics")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure embeddings, side by side; * marks the best.

    Silhouette, soft silhouette, Gini impurity per channel, class-histogram KL and explained variance, exact over all rows.
    Under torchrun, the processes share the rows.
    """
    from embedscope import distributed, evaluation
    from embedscope.devices import parse_bytes
    from embedscope.evaluation.comparison import sides_column
    from embedscope.evaluation.ranking import check_ranked
    from embedscope.evaluation.scores import sample_columns
    from embedscope.evaluation.thresholds import check_thresholds, parse_threshold
    from embedscope.metrics import STANDARD
    from embedscope.ops.keeping import keeping
    from embedscope.store.files import check_output
    from embedscope.store.sources import open_sources
    from embedscope.store.tables import check_table, write_table

    question: str | bool = ci or layers
    if ci and "fixed" in features and not Path("fixed").exists():  # an option of typer's has a value always or never
        features, question = [source for source in features if source != "fixed"], "fixed"
        if not features:
            raise UsageError("--ci fixed needs features to measure, as in embedscope score features.h5 --ci fixed")
    preparation = {"size": size, "mean": mean, "std": std, "channels": channels, "weights": weights}
    checkpoints.check(model, data, output=output, limit=limit, **preparation)
    if model is not None and (compare or against is not None or issues is not None):
        raise UsageError("--compare, --against and --issues need features: extract those of the checkpoints first")
    chosen = metric or list(STANDARD)
    thresholds = [parse_threshold(text, chosen) for text in fail_under or ()]
    if layers:
        check_ranked(chosen)
    if json and form is Format.csv:
        raise UsageError("--json and --format csv exclude each other")
    if samples is not None:
        check_table(samples)
        if not evaluation.per_sample_metrics(chosen):
            raise UsageError(
                f"--samples needs a metric with a value per sample, such as silhouette; measured are {', '.join(chosen)}"
            )
        check_output(samples, overwrite=overwrite)
    if issues is not None:
        check_table(issues)
        check_output(issues, overwrite=overwrite)
        evaluation.per_sample_metrics(chosen)  # a typo should not cost the time of finding issues
    memory_limit = None if memory is None else parse_bytes(memory)
    with distributed.process_group():
        talk = Talk(quiet or distributed.rank() > 0, verbose)
        options: dict[str, Any] = {
            "metrics": chosen,
            "layers": layer or (),
            "split": split,
            "sample": sample,
            "ci": question,
            "memory": memory_limit,
            "device": device,
            "seed": seed,
            "say": talk.say,
            "track": talk.track,
        }
        if model is not None and data is not None:
            full = per_class or samples is not None or json or form is Format.json
            options |= {"limit": limit, "full": full, "overwrite": overwrite}
            scores = checkpoints.measured(features, model, data, output, preparation, **options)
        else:
            sources: Any = features
            bare = False
            with keeping():  # issues and metrics share neighbours and probes
                if issues is not None:
                    sources = open_sources(features, layers=layer or ())
                    asked = bool(metric or thresholds or samples or compare or layers or against)
                    bare = without_labels(sources, split, asked=asked)
                    found = write_issues(issues, sources, talk, split=split, memory=memory_limit, device=device, seed=seed)
                if bare:
                    scores = unmeasured(sources, found)
                else:
                    scores = evaluation.score(sources, compare=compare, against=against, **options)
        if distributed.rank() > 0:
            return
    if issues is not None:
        scores = scores.with_issues(found)
    ranking = scores.ranked() if layers else None
    for entry in scores:
        for warning in entry.warnings:
            talk.warn(f"{entry.name}: {warning}")
        for name, measurement in entry.metrics.items():
            talk.detail(f"{entry.name}: {name} with {dict(measurement.options)}")
            if measurement.note and measurement.value is not None:
                talk.say(f"note: {entry.name}: {name}: {measurement.note}")
    if samples is not None:
        columns = sample_columns(scores)
        if compare:
            columns["change"] = sides_column(scores, scores.comparisons)
        talk.say(f"wrote {write_table(samples, columns):,} rows to {samples}")
    if json or form is Format.json:
        print_json(scores.as_json() | ({} if ranking is None else {"layers": ranking.as_json()}))
    elif form is Format.csv:
        print_csv(scores)
    else:
        if ranking is None:
            print_scores(scores, per_class=per_class)
            print_differences(scores.differences)
        else:
            print_layers(scores, ranking)
        print_comparisons(scores.comparisons)
        print_shifts(scores.shifts)
        if not quiet and ranking is None and model is None:  # of a row of checkpoints, the course counts
            print_findings(scores)
    check_thresholds(scores, thresholds)
