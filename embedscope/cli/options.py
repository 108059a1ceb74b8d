"""Options that several commands take; an environment variable EMBEDSCOPE_* stands for each but --overwrite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedscope.cli.console import show

if TYPE_CHECKING:
    from embedscope.plugins import Kind

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps; only auto falls back.", envvar="EMBEDSCOPE_DEVICE")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn.", envvar="EMBEDSCOPE_SEED", min=0, max=2**32 - 1)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.", envvar="EMBEDSCOPE_JSON")]
# No variable for this one: forgotten in a shell, it would replace whatever is written from there.
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only what went wrong.", envvar="EMBEDSCOPE_QUIET")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.", envvar="EMBEDSCOPE_VERBOSE")]
Layers = Annotated[list[str] | None, typer.Option("--layer", "-l", help="A layer; any number of times.", show_default=False)]
Split = Annotated[str | None, typer.Option(help="Only the rows of this split, such as test.", envvar="EMBEDSCOPE_SPLIT")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where to write.", show_default=False)]


def show_sets() -> None:
    """Print the sets of metrics, with what they hold."""
    from embedscope.metrics import ALL, SETS, members

    show("")
    show("Sets, which -m takes as well:")
    for name in SETS:
        default = " (the default)" if name == "standard" else ""
        show(f"{name}{default}: {', '.join(members(name) or ())}")
    show(f"{ALL}: every metric")


def listing(kind: Kind) -> Any:
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

    return typer.Option("--list", help=f"List the {kind} with a line each, and stop.", callback=show_list, is_eager=True)
