"""Options of `embedscope score CHECKPOINTS --model MODEL --data DATA`, and the call they map to."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedscope.cli.options import preparation
from embedscope.errors import InputError, UsageError

if TYPE_CHECKING:
    from embedscope.evaluation import ScoreTable

_PANEL = "Checkpoints"

Model = Annotated[
    str | None,
    typer.Option(
        help="Model to load checkpoints into, as in extract. The arguments are then weight files or folders.",
        metavar="SPEC",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="Data to score checkpoints on, as in extract.", metavar="SPEC", rich_help_panel=_PANEL, show_default=False
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Append each checkpoint to this .jsonl file once it is scored; checkpoints already in it are skipped.",
        metavar="PATH",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(help="Maximum number of rows, spread evenly over the data.", metavar="N", min=1, rich_help_panel=_PANEL),
]
Size = Annotated[str | None, preparation("size", _PANEL)]
Mean = Annotated[str | None, preparation("mean", _PANEL)]
Std = Annotated[str | None, preparation("std", _PANEL)]
Channels = Annotated[int | None, preparation("channels", _PANEL)]
Weights = Annotated[str | None, preparation("weights", _PANEL)]


def check(model: str | None, data: str | None, **others: Any) -> None:
    """Raise UsageError unless the options for scoring checkpoints are complete."""
    if model is not None and data is not None:
        return
    if model is not None or data is not None:
        given, missing = ("--model", "--data") if data is None else ("--data", "--model")
        raise UsageError(f"{given} also requires {missing} to score checkpoints")
    if name := next((name for name, value in others.items() if value is not None), None):
        raise UsageError(f"--{name} applies to checkpoints, which need --model and --data")


def measured(
    checkpoints: list[str], model: str, data: str, output: Path | None, preparation: dict[str, Any], **options: Any
) -> ScoreTable:
    """Score checkpoints; output of the model's code goes to stderr."""
    from embedscope.cli.extract import stdout_to_stderr
    from embedscope.models.preparation import parse_numbers, parse_size
    from embedscope.monitoring.checkpoints import score_checkpoints

    if output is not None and output.suffix != ".jsonl":
        raise UsageError(f"the output is a JSON Lines file; name it {output.with_suffix('.jsonl')}")
    given = {name: value for name, value in preparation.items() if value is not None}
    for name in given.keys() & {"mean", "std"}:
        given[name] = parse_numbers(name, given[name])
    if "size" in given:
        given["size"] = parse_size(given["size"])
    with stdout_to_stderr():
        try:
            return score_checkpoints(checkpoints, model, data, output, preparation=given, **options)
        except UsageError as error:  # score has no flag of its own that lists layers
            listing = f"embedscope extract {quote(model)} {quote(data)} --list-layers"
            error.args = (str(error).replace("`list_layers()`", listing),)
            raise


def check_all_measured(scores: ScoreTable) -> None:
    """Raise InputError if checkpoints were skipped, after all else is done: exit code 1."""
    if scores.failed:
        from embedscope.models._reading import shown

        count = len(scores.failed)
        total = count + len({entry.source for entry in scores})
        raise InputError(f"{count:,} of {total:,} checkpoints could not be measured: {shown(list(scores.failed))}")
