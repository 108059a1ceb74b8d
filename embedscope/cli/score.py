"""`embedscope score`."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedscope.arguments import check_choice
from embedscope.cli import checkpoints
from embedscope.cli.comparisons import print_comparisons, print_layers, print_shifts
from embedscope.cli.console import Talk, print_csv, print_differences, print_findings, print_json, print_scores
from embedscope.cli.help import CERTAINTY, COMPARISON, DATA, EXECUTION, METRICS, OUTPUT
from embedscope.cli.issue_files import write_issues
from embedscope.cli.options import Device, Json, Layers, Overwrite, Quiet, Seed, Split, Verbose, listing, one_of
from embedscope.errors import ThresholdError, UsageError
from embedscope.text import counted

if TYPE_CHECKING:
    from embedscope.evaluation.ranking import LayerRanking
    from embedscope.evaluation.scores import ScoreTable


# Embeddings up to which notes that are alike are printed for each.
_NOTES = 3


_FORMATS = ("table", "json", "csv")


def score(
    features: Annotated[
        list[str],
        typer.Argument(
            help="Feature stores, or features made elsewhere: .npz (X, y), X.npy,y.npy, .csv, .parquet, .jsonl, .pt, "
            ".safetensors or .h5ad. Columns are named as in v.csv(label='species', features='d*'); name=path sets a name. "
            "With --model, checkpoints."
        ),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help="Metric, e.g. gini(dead='ignore'), or a set, e.g. collapse; repeatable; by default, the set standard.",
            metavar="SPEC",
            show_default=False,
            rich_help_panel=METRICS,
        ),
    ] = None,
    listed: Annotated[bool, listing("metrics", "metrics", METRICS)] = False,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Also show per-class values.", rich_help_panel=METRICS)
    ] = False,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit with code 3 if a metric misses its threshold, e.g. silhouette=0.3 (a maximum if lower is better); "
            "repeatable.",
            metavar="SPEC",
            show_default=False,
            rich_help_panel=METRICS,
        ),
    ] = None,
    layer: Layers = None,
    split: Split = None,
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample",
            "--subsample",
            help="Score a stratified sample of N rows, against all rows.",
            metavar="N",
            min=1,
            rich_help_panel=DATA,
        ),
    ] = None,
    ci: Annotated[
        bool,
        typer.Option(
            "--ci",
            help="Add 95% confidence intervals of the values and of the differences from the first embedding. With --ci fixed, "
            "class sizes are held fixed instead of resampled.",
            rich_help_panel=CERTAINTY,
        ),
    ] = False,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Compare each embedding with the first on their shared rows: metrics, structure, classes, samples. Adds 95% "
            "intervals.",
            rich_help_panel=COMPARISON,
        ),
    ] = False,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="Rank layers by the first metric and name the smallest that is not significantly worse than the best. Adds "
            "95% intervals. Silhouettes compare across widths; explained_variance and ranks grow with the width.",
            rich_help_panel=COMPARISON,
        ),
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            help="Measure the shift to other data from the same layer, e.g. production.h5. Labels are optional, e.g. "
            "p.csv(label=None).",
            metavar="PATH",
            show_default=False,
            rich_help_panel=COMPARISON,
        ),
    ] = None,
    issues: Annotated[
        Path | None,
        typer.Option(
            "--issues",
            help="Write rows that need attention to a .csv or .parquet file: probable label errors, near duplicates, leakage "
            "between splits, outliers.",
            metavar="PATH",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            "--samples",
            "--per-sample",
            help="Write per-sample values to a .csv or .parquet file.",
            metavar="PATH",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    form: Annotated[
        str,
        one_of(
            "--format",
            _FORMATS,
            help="Output format: table, json or csv.",
            envvar="EMBEDSCOPE_FORMAT",
            rich_help_panel=OUTPUT,
        ),
    ] = "table",
    json: Json = False,
    overwrite: Overwrite = False,
    model: checkpoints.Model = None,
    data: checkpoints.Data = None,
    output: checkpoints.Output = None,
    limit: checkpoints.Limit = None,
    size: checkpoints.Size = None,
    mean: checkpoints.Mean = None,
    std: checkpoints.Std = None,
    channels: checkpoints.Channels = None,
    weights: checkpoints.Weights = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Memory limit, e.g. 4GB; by default half of the free memory.",
            metavar="SIZE",
            envvar="EMBEDSCOPE_MEMORY",
            rich_help_panel=EXECUTION,
        ),
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Score embeddings side by side; * marks the best.

    By default: silhouette, soft silhouette, Gini impurity per channel, class-histogram KL and explained variance, exact over
    all rows. Under torchrun, the rows are shared among the processes.
    """
    from embedscope import distributed, evaluation
    from embedscope.evaluation.ranking import check_ranked
    from embedscope.evaluation.thresholds import check_thresholds, parse_threshold
    from embedscope.metrics import STANDARD

    features, question = _question(features, ci or layers)
    preparation = {"size": size, "mean": mean, "std": std, "channels": channels, "weights": weights}
    checkpoints.check(model, data, output=output, limit=limit, **preparation)
    if model is not None and (compare or against is not None or issues is not None):
        raise UsageError("--compare, --against and --issues need features: extract those of the checkpoints first")
    if json and form == "csv":
        raise UsageError("--json and --format csv exclude each other")
    form = "json" if json else form
    chosen = metric or list(STANDARD)
    thresholds = [parse_threshold(text, chosen) for text in fail_under or ()]
    if layers:
        check_ranked(chosen)
    sources = [*features, *(each for each in (against, data) if each is not None)]
    _check_files(samples, issues, chosen, sources, overwrite=overwrite)
    options: dict[str, Any] = {
        "metrics": chosen,
        "layers": layer or (),
        "split": split,
        "sample": sample,
        "ci": question,
        "memory": memory,
        "device": device,
        "seed": seed,
    }
    with distributed.process_group():
        talk = Talk(quiet or distributed.rank() > 0, verbose)
        options |= {"say": talk.say, "track": talk.track}
        if model is not None and data is not None:
            full = per_class or samples is not None or form == "json"
            options |= {"limit": limit, "full": full, "overwrite": overwrite, "warn": talk.warn}
            scores = checkpoints.measured(features, model, data, output, preparation, **options)
        elif issues is not None:
            asked = bool(metric or thresholds or samples or compare or layers or against)
            scores = _with_issues(features, issues, talk, asked=asked, compare=compare, against=against, **options)
        else:
            scores = evaluation.score(features, compare=compare, against=against, **options)
        if distributed.rank() > 0:
            return
    _tell(scores, talk)
    if samples is not None:
        _write_samples(samples, scores, talk, compare=compare)
    findings = not quiet and model is None  # of a row of checkpoints, the course counts
    _print(scores, form, scores.ranked() if layers else None, per_class=per_class, findings=findings)
    try:
        check_thresholds(scores, thresholds)
    except ThresholdError as error:
        if not scores.failed:
            raise
        talk.warn(str(error))
    checkpoints.check_all_measured(scores)


def _question(features: list[str], ci: bool) -> tuple[list[str], str | bool]:
    """Tell the question that intervals answer from the features: an option of typer's has a value always or never."""
    if ci:  # --ci fixd, which looks like a source
        from embedscope.evaluation.intervals import CI

        for source in features:
            # Close spelling only: a missing file may be named so that a word of CI has it inside, such as raw in drawn.
            near = difflib.get_close_matches(source.lower(), CI, cutoff=0.8)
            if near and source not in CI and not Path(source).exists():
                check_choice("kind of interval", source, CI)
    if not (ci and "fixed" in features and not Path("fixed").exists()):
        return features, ci
    if not (rest := [source for source in features if source != "fixed"]):
        raise UsageError("--ci fixed needs features to measure, as in embedscope score features.h5 --ci fixed")
    return rest, "fixed"


def _check_files(samples: Path | None, issues: Path | None, metrics: list[str], sources: list[str], *, overwrite: bool) -> None:
    """Raise for a file that cannot be written, before the time for what it is to hold is spent."""
    from embedscope.evaluation import per_sample_metrics
    from embedscope.store.files import check_output
    from embedscope.store.foreign import parse_source
    from embedscope.store.tables import check_table

    inputs = [file for source in sources for file in parse_source(source).files]
    for path in (samples, issues):
        if path is not None:
            check_table(path)
    if samples is not None and not per_sample_metrics(metrics):
        raise UsageError(
            f"--samples needs a metric with a value per sample, such as silhouette; measured are {', '.join(metrics)}"
        )
    for path in (samples, issues):
        if path is not None:
            check_output(path, overwrite=overwrite, inputs=inputs)
    if samples is not None and issues is not None and samples.resolve() == issues.resolve():
        raise UsageError(f"--samples and --issues both write {samples}; give each a name of its own")
    per_sample_metrics(metrics)  # a typo should not cost the time of finding issues


def _with_issues(
    features: list[str],
    issues: Path,
    talk: Talk,
    *,
    asked: bool,
    compare: bool,
    against: str | None,
    **options: Any,
) -> ScoreTable:
    """Find and write issues, and measure the same rows; without labels, metrics only if they were asked for."""
    from embedscope import evaluation
    from embedscope.evaluation.unlabeled import unmeasured, without_labels
    from embedscope.ops.keeping import keeping
    from embedscope.store.sources import open_sources

    shared = {name: options[name] for name in ("split", "memory", "device", "seed")}
    with keeping():  # issues and metrics share neighbors and probes
        sources = open_sources(features, layers=options["layers"])
        bare = without_labels(sources, options["split"], asked=asked)
        found = write_issues(issues, sources, talk, **shared)
        scores = unmeasured(sources, found) if bare else evaluation.score(sources, compare=compare, against=against, **options)
    return scores.with_issues(found)


def _tell(scores: ScoreTable, talk: Talk) -> None:
    """Say what a reader of the values has to know; a note that differs between many embeddings by its numbers only, once."""
    alike: dict[tuple[str, str], list[str]] = {}
    for entry in scores:
        for warning in entry.warnings:
            talk.warn(f"{entry.name}: {warning}")
        for name, measurement in entry.metrics.items():
            talk.detail(f"{entry.name}: {name} with {dict(measurement.options)}")
            if measurement.note and measurement.value is not None:
                kind = re.sub(r"[\d.,e+-]*\d%?", "#", measurement.note)
                alike.setdefault((name, kind), []).append(f"note: {entry.name}: {name}: {measurement.note}")
    for notes in alike.values():
        if len(notes) <= _NOTES or talk.verbose:
            for note in notes:
                talk.say(note)
        else:
            talk.say(f"{notes[0]} (and so for {len(notes) - 1:,} others; --verbose and --json have all)")


def _write_samples(path: Path, scores: ScoreTable, talk: Talk, *, compare: bool) -> None:
    from embedscope.evaluation.comparison import sides_column
    from embedscope.evaluation.scores import sample_columns
    from embedscope.store.tables import write_table

    columns = sample_columns(scores)
    if compare:
        columns["change"] = sides_column(scores, scores.comparisons)
    talk.say(f"wrote {counted(write_table(path, columns), 'row')} to {path}")


def _print(scores: ScoreTable, form: str, ranking: LayerRanking | None, *, per_class: bool, findings: bool) -> None:
    if form == "json":
        print_json(scores.as_json() | ({} if ranking is None else {"layers": ranking.as_json()}))
        return
    if form == "csv":
        print_csv(scores)
        return
    if ranking is None:
        print_scores(scores, per_class=per_class)
        print_differences(scores.differences)
    else:
        print_layers(scores, ranking)
    print_comparisons(scores.comparisons)
    print_shifts(scores.shifts)
    if findings and ranking is None:
        print_findings(scores)
