"""Options that several commands take; an environment variable EMBEDSCOPE_* stands for each but --overwrite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedscope.cli.console import show
from embedscope.cli.help import DATA, EXECUTION, GENERAL, OUTPUT

if TYPE_CHECKING:
    from embedscope.plugins import Kind

_LARGEST_SEED = 2**32 - 1


def _seed(value: int) -> int:
    """Check the upper limit here: as the option's `max`, it would take most of the room that its help has."""
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


def preparation(name: str, panel: str) -> Any:
    """Make an option of a command that opens a model."""
    meaning, metavar = _PREPARATION[name]
    return typer.Option(f"--{name}", help=meaning, metavar=metavar, show_default=False, rich_help_panel=panel)


def show_sets() -> None:
    """Print the sets of metrics, with what they hold."""
    from embedscope.metrics import ALL, SETS, members

    show("")
    show("Sets, which -m takes as well:")
    for name in SETS:
        default = " (the default)" if name == "standard" else ""
        show(f"{name}{default}: {', '.join(members(name) or ())}")
    show(f"{ALL}: every metric")


def listing(kind: Kind, what: str, panel: str = GENERAL) -> Any:
    """Make the option `--list`, which prints the plugins of a kind with the first line of their docstrings, and stops."""

    def show_list(wanted: bool) -> None:
        if wanted:
            from embedscope import plugins

            known, aliases = plugins.names(kind), plugins.aliases(kind)
            width = max(map(len, known))
            for name in known:
                first_line = (plugins.load(kind, name).__doc__ or "").strip().partition("\n")[0]
                others = ", ".join(alias for alias, meant in aliases.items() if meant == name)
                show(f"{name:{width}}  {first_line}{f' Also: {others}.' if others else ''}")
            if kind == "metrics":
                show_sets()
            raise typer.Exit

    return typer.Option("--list", help=f"List the {what} and exit.", callback=show_list, is_eager=True, rich_help_panel=panel)
