"""`embedscope demo`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedscope.cli.console import tell
from embedscope.cli.options import Overwrite
from embedscope.errors import MissingExtraError, OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLE = "sample_data"


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for the sample data and the results.")] = Path("embedscope-demo"),
    overwrite: Overwrite = False,
) -> None:
    """Run extract, score, finetune and plot on sample data.

    Prints each command before running it. The data are 1,797 handwritten digits, a small network and two of its checkpoints.
    Takes about half a minute.
    """
    from embedscope.data.shipped import write_sample_data

    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise OutputError(f"{folder} is not empty; name another folder, or pass --overwrite")
    if not (folder / SAMPLE).exists():
        write_sample_data(folder / SAMPLE)
    steps = _steps(folder)
    again = ["--overwrite"] if overwrite else []
    for number, (title, command) in enumerate(steps, start=1):
        _run(f"Step {number} of {len(steps) + 1}. {title}", [*command, *(again if command[0] != "score" else [])])
    shown = _draw(f"Step {len(steps) + 1} of {len(steps) + 1}. Draw both embeddings", folder, again)
    tell("")
    tell(f"Done. Open {shown}; the features and the run are in {folder}.")


def _steps(folder: Path) -> list[tuple[str, list[str]]]:
    """Return the steps before drawing: a title and a command each."""
    stores = {name: str(folder / f"{name}.h5") for name in ("early", "late")}
    objectives = ["--objective", "ce", "--objective", "ce + silhouette"]
    return [
        ("Extract the features of handwritten digits with an early checkpoint of a small network", _extract(folder, "early")),
        ("Do the same with a late checkpoint", _extract(folder, "late")),
        ("Score both embeddings on the test digits", ["score", *stores.values(), "--split", "test"]),
        (
            "Try another loss: train a head on the early features with each objective",
            ["finetune", stores["early"], "-o", str(folder / "run"), *objectives, "--trials", "5", "--epochs", "10"],
        ),
    ]


def _extract(folder: Path, name: str) -> list[str]:
    sample = folder / SAMPLE
    model, weights = f"{sample / 'network.py'}:DigitNet", str(sample / f"{name}.safetensors")
    return ["extract", model, str(sample / "digits"), "--checkpoint", weights, "-o", str(folder / f"{name}.h5")]


def _draw(title: str, folder: Path, again: Sequence[str]) -> Path:
    """Draw a page, or a picture if plotly is missing; return its path."""
    stores = [str(folder / "early.h5"), str(folder / "late.h5"), "--split", "test"]
    page, picture = folder / "report.html", folder / "report.png"
    try:
        _run(title, ["plot", *stores, "-o", str(page), *again])
        return page
    except MissingExtraError as error:
        tell(f"{error}. Drawing a picture instead:")
    _run("", ["plot", *stores, "--kind", "tsne", "--kind", "silhouette", "-o", str(picture), *again])
    return picture


def _run(title: str, command: Sequence[str]) -> None:
    """Print a command and run it in this process."""
    sys.stdout.flush()  # what is said on stderr comes after what was printed before
    if title:
        tell("")
        tell(f"{title}:")
    tell(f"$ {shlex.join(['embedscope', *command])}")
    typed, sys.argv = sys.argv, ["embedscope", *command]  # what stores and pages record
    try:
        code = call(list(command))
    finally:
        sys.argv = typed
    if code:
        raise typer.Exit(code)


def call(command: list[str]) -> Any:
    """Run a command; return its exit code, or None."""
    from embedscope.cli import app

    return app(args=command, prog_name="embedscope", standalone_mode=False)
