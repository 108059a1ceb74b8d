"""`embedscope inspect`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedscope.cli.console import Talk, print_columns, print_json, show
from embedscope.cli.help import OUTPUT
from embedscope.cli.options import Json, Quiet
from embedscope.text import counted

if TYPE_CHECKING:
    from embedscope.store.features import StoreContents

# Classes that a table shows; --json has all of them.
_MOST_CLASSES = 20


def inspect(
    features: Annotated[Path, typer.Argument(help="Feature store, complete or unfinished.")],
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Verify every row against its stored digest; reads the whole store.", rich_help_panel=OUTPUT
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print the contents and provenance of a feature store.

    Exits with code 1 if the store is unfinished or damaged.
    """
    from embedscope.store import describe
    from embedscope.store import verify as verified

    found = describe(features)
    talk = Talk(quiet)
    if verify and found.complete:
        count = verified(features, track=talk.track)
        talk.say(f"verified: all {counted(found.rows, 'row')} of {counted(count, 'dataset')} match their digests")
    if json:
        print_json({**asdict(found), "path": str(found.path), "provenance": found.provenance.as_json()})
    else:
        _print(found)
    if not found.complete:
        raise typer.Exit(1)


def _print(found: StoreContents) -> None:
    state = (
        "complete"
        if found.complete
        else (
            f"unfinished: {counted(found.done, 'row')} written; finish it with: {found.resume} (the command recorded in the "
            "file)"
        )
    )
    show(f"{found.path}: embedscope store, format version {found.schema_version}, {state}")
    show(f"{counted(found.rows, 'row')}, {counted(len(found.classes), 'class')}, {found.unlabelled:,} unlabeled")
    for name, count in found.splits.items():
        show(f"split {name}: {counted(count, 'row')}")
    lines = [
        (layer.name, [" x ".join(map(str, layer.shape)), layer.dtype, layer.pooling or "–", layer.type or "–"])
        for layer in found.layers
    ]
    print_columns("dataset", ["shape", "dtype", "pooling", "module"], [lines])
    counts = list(found.classes.items())
    print_columns("class", ["rows"], [[(name, [f"{count:,}"]) for name, count in counts[:_MOST_CLASSES]]])
    if len(counts) > _MOST_CLASSES:
        show(f"... and {len(counts) - _MOST_CLASSES:,} more classes; --json lists all")
    for part, value in found.provenance.as_json().items():
        if not isinstance(value, dict):
            show(f"{part}: {value}")
        elif part != "layers":
            for key, each in value.items():
                text = _names(each) if isinstance(each, list) else _pairs(each) if isinstance(each, dict) else each
                show(f"{part} {key}: {'–' if text is None else text}")
    for name, reason in list(found.skipped.items())[:_MOST_CLASSES]:
        show(f"skipped {name}: {reason}")
    if len(found.skipped) > _MOST_CLASSES:
        show(f"... and {len(found.skipped) - _MOST_CLASSES:,} more inputs were skipped; --json lists all")


def _names(names: list[str]) -> str:
    shown = f": {', '.join(names[:3])}{', …' if len(names) > 3 else ''}" if names else ""
    return f"{counted(len(names), 'tensor')}{shown}"


def _pairs(values: dict[str, object]) -> str:
    return ", ".join(f"{name} {str(value)[:12]}" for name, value in values.items()) or "–"
