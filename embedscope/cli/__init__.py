"""The command line: options become values, values go into one call, the result is rendered.

Data go to stdout, talk to stderr. Exit codes: 0 done, 1 the input cannot be used, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from embedscope.cli.extract import extract
from embedscope.cli.finetune import finetune
from embedscope.cli.plot import plot
from embedscope.cli.score import score
from embedscope.errors import EmbedscopeError

if TYPE_CHECKING:
    from collections.abc import Sequence

# What typer raises for a wrong option. Since 0.26 typer brings its own click and gives this class no public name.
_UsageError: Any = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="embedscope",
    help="How good is an embedding, which checkpoint is better, what is wrong with it, and would another loss mend it?",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (extract, score, finetune, plot):
    app.command()(_command)


def _version(wanted: bool) -> None:
    if wanted:
        from embedscope import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", help="Print the version and stop.", callback=_version, is_eager=True),
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; an error that was foreseen is one line on stderr."""
    try:
        code = app(args=arguments, prog_name="embedscope", standalone_mode=False)
    except EmbedscopeError as error:
        return _fail(str(error), error.exit_code)
    except _UsageError as error:
        message: str = error.format_message()
        if not message or message == app.info.help:
            return 2
        return _fail(f"{message} Try --help.", 2)
    except typer.Abort:
        return _fail("interrupted", 130)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    print(f"embedscope: {' '.join(message.split())}", file=sys.stderr)
    return code
