"""The command line: options become values, values go into one call, the result is rendered.

Data go to stdout, talk to stderr. Exit codes: 0 done, 1 the input cannot be used, 2 wrong usage, 3 a threshold is not met,
130 interrupted.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import typer

from embedscope.cli.env import env
from embedscope.cli.extract import extract
from embedscope.cli.finetune import finetune
from embedscope.cli.inspect import inspect
from embedscope.cli.plot import plot
from embedscope.cli.score import score
from embedscope.errors import EmbedscopeError

if TYPE_CHECKING:
    from collections.abc import Sequence

# What typer raises for a wrong option. Since 0.26 typer brings its own click and gives this class no public name.
_UsageError: Any = typer.BadParameter.__bases__[0]
_INTERRUPTED = 130

app = typer.Typer(
    name="embedscope",
    help="How good is an embedding, which checkpoint is better, what is wrong with it, and would another loss mend it?",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (extract, score, finetune, plot, inspect, env):
    app.command()(_command)


def _version(wanted: bool) -> None:
    if wanted:
        from embedscope._version import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", help="Print the version and stop.", callback=_version, is_eager=True),
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; an error that was foreseen is one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without arrows and dashes gets question marks
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C, so that nothing is left half-written
    try:
        code = app(args=given or ["--help"], prog_name="embedscope", standalone_mode=False)
    except EmbedscopeError as error:
        return _fail(str(error), error.exit_code, repeated=error.repeated)
    except _UsageError as error:
        return _fail(f"{error.format_message()} Try --help.", 2)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return _fail("too many files are open; allow more with ulimit -n, or take fewer --workers", 1)
        if error.errno not in (errno.ENOSPC, errno.EPIPE, errno.EIO) or error.filename is not None:
            raise
        return _fail(f"cannot write to the standard output: {error.strerror}", 1)
    if code == _INTERRUPTED:
        return _fail("interrupted; no output was finished", _INTERRUPTED)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int, *, repeated: bool | None = None) -> int:
    if repeated is None:  # outside of a process group all processes of torchrun run into the same, and one speaks
        repeated = os.environ.get("RANK", "0") != "0"
    if not repeated:
        print(f"embedscope: {' '.join(message.split())}", file=sys.stderr)
    return code
