"""Options shared by several commands; each except --overwrite can be set by an environment variable EMBEDSCOPE_*."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedscope.arguments import check_choice
from embedscope.cli.console import fold, show
from embedscope.cli.help import DATA, EXECUTION, GENERAL, OUTPUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embedscope.plugins import Kind

_LARGEST_SEED = 2**32 - 1


def _seed(value: int) -> int:
    """Check the upper limit here; as the option's `max`, it would fill most of the help column."""
    if value > _LARGEST_SEED:
        raise typer.BadParameter(f"Input should be less than or equal to {_LARGEST_SEED}")
    return value


Device = Annotated[
    str,
    typer.Option(
        help="Device: auto, cpu, cuda, cuda:N or mps. Only auto falls back to the CPU.",
        metavar="NAME",
        envvar="EMBEDSCOPE_DEVICE",
        rich_help_panel=EXECUTION,
    ),
]
Seed = Annotated[
    int,
    typer.Option(help="Random seed.", metavar="N", min=0, callback=_seed, envvar="EMBEDSCOPE_SEED", rich_help_panel=EXECUTION),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print JSON to stdout.", envvar="EMBEDSCOPE_JSON", rich_help_panel=OUTPUT),
]
# No variable for this one: forgotten in a shell, it would replace whatever is written from there.
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Overwrite existing output.", rich_help_panel=OUTPUT)]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print only warnings and errors.", envvar="EMBEDSCOPE_QUIET", rich_help_panel=GENERAL),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Print more detail.", envvar="EMBEDSCOPE_VERBOSE", rich_help_panel=GENERAL),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layer",
        "-l",
        help="Layer to use, repeatable; by default, all layers of a store.",
        metavar="NAME",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Use only the rows of this split, e.g. test.", metavar="NAME", envvar="EMBEDSCOPE_SPLIT", rich_help_panel=DATA
    ),
]


# How a model is opened and its inputs are prepared, in several commands: option -> its help and what it takes.
_PREPARATION = {
    "list-layers": ("List the layers with their output shapes and exit.", None),
    "unsafe-pickle": ("Allow a checkpoint, .pt2 or TorchScript file to run code while loading.", None),
    "weights": ("Which weights to load if the checkpoint has several: raw, ema or a prefix.", "NAME"),
    "size": ("Resize images, e.g. to 224, or to 224x160 (height x width).", "SIZE"),
    "mean": ("Channel means, e.g. 0.485,0.456,0.406.", "VALUES"),
    "std": ("Channel standard deviations, e.g. 0.229,0.224,0.225.", "VALUES"),
    "channels": ("Number of image channels: 3 converts to RGB, 1 to grayscale.", "N"),
}


def one_of(flag: str, known: Sequence[str], **options: Any) -> Any:
    """Return an option that takes one of a few names, which a shell completes; for others, the error suggests one."""

    def checked(value: str | None) -> str | None:
        return value if value is None else check_choice(flag.removeprefix("--"), value, known)

    return typer.Option(flag, callback=checked, autocompletion=lambda: list(known), metavar="NAME", **options)


def preparation(name: str, panel: str) -> Any:
    """Return an option for commands that open a model."""
    meaning, metavar = _PREPARATION[name]
    return typer.Option(f"--{name}", help=meaning, metavar=metavar, show_default=False, rich_help_panel=panel)


def _groups(kind: Kind) -> Iterator[tuple[str, list[str]]]:
    """Yield headings and the plugin names below them, each name at least once."""
    from embedscope import plugins

    names = plugins.names(kind)
    if kind == "metrics":
        from embedscope.metrics import SETS, members

        for name in SETS:
            yield f"Set {name}{' (the default)' if name == 'standard' else ''}:", members(name) or []
        in_sets = {member for name in SETS for member in members(name) or ()}
        yield "Other metrics:", [name for name in names if name not in in_sets]
    elif kind == "plotting":
        from embedscope.plotting import STANDARD

        yield "Standard kinds, drawn by default if they apply:", [name for name in STANDARD if name in names]
        yield "Other kinds:", [name for name in names if name not in STANDARD]
    else:
        yield "", names


def show_list(kind: Kind) -> None:
    """Print the plugins of a kind with the first line of their docstrings."""
    from embedscope import plugins

    aliases, width = plugins.aliases(kind), max(map(len, plugins.names(kind)))
    for number, (heading, names) in enumerate(_groups(kind)):
        for line in ([""] if number else []) + ([heading] if heading else []):
            show(line)
        for name in names:
            first_line = (plugins.load(kind, name).__doc__ or "").strip().partition("\n")[0]
            others = ", ".join(alias for alias, meant in aliases.items() if meant == name)
            fold(f"{first_line}{f' Also: {others}.' if others else ''}", f"{name:{width}}  ", " " * (width + 2))
    if kind == "metrics":
        show("")
        show("-m takes a metric, a set, or 'all' for every metric.")


def listing(kind: Kind, what: str, panel: str) -> Any:
    """Return the option `--list`, which prints the plugins of a kind and exits."""

    def listed(wanted: bool) -> None:
        if wanted:
            show_list(kind)
            raise typer.Exit

    return typer.Option("--list", help=f"List the {what} and exit.", callback=listed, is_eager=True, rich_help_panel=panel)
