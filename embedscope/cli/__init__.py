"""The command line: parse options, make one library call, render the result.

Data go to stdout, talk to stderr. Exit codes: 0 done, 1 the input cannot be used, 2 wrong usage, 3 a threshold is not met,
130 interrupted, 141 nobody reads the output any more.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import typer

from embedscope.cli.console import show, tell
from embedscope.cli.demo import demo
from embedscope.cli.env import env
from embedscope.cli.extract import extract
from embedscope.cli.finetune import finetune
from embedscope.cli.help import EXAMPLES, Command, Group, examples, overview
from embedscope.cli.inspect import inspect
from embedscope.cli.merge import merge
from embedscope.cli.plot import plot
from embedscope.cli.score import score
from embedscope.errors import EmbedscopeError

if TYPE_CHECKING:
    from collections.abc import Sequence

# What typer raises for a wrong option. Since 0.26 typer brings its own click and gives this class no public name.
_UsageError: Any = typer.BadParameter.__bases__[0]
_INTERRUPTED = 130
_CLOSED_PIPE = 128 + 13  # what a shell reports of a program that SIGPIPE ended
_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)

app = typer.Typer(
    name="embedscope",
    cls=Group,
    help="How good is an embedding, which checkpoint is better, what is wrong with it, and would another loss improve it?",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (extract, score, finetune, plot, merge, inspect, demo, env):
    app.command(cls=Command, epilog=examples(*EXAMPLES[_command.__name__]))(_command)


def _version(wanted: bool) -> None:
    if wanted:
        from embedscope._version import __version__

        show(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", callback=_version, is_eager=True),
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; expected errors are one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _open_streams()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C, so that nothing is left half-written
    try:
        code = _run(given)
        sys.stdout.flush()
    except BrokenPipeError:
        return _abandoned(_CLOSED_PIPE)
    except KeyboardInterrupt:  # while an error was being told
        return _fail("interrupted; no output was finished", _INTERRUPTED)
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):  # which rich turns into an exit
            raise
        return _abandoned(_CLOSED_PIPE)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO) or error.filename is not None:
            raise
        return _abandoned(_fail(f"cannot write to the standard output: {error.strerror}", 1))
    return code


def _run(given: list[str]) -> int:
    try:
        code = app(args=given, prog_name="embedscope", standalone_mode=False) if given else _overview()
    except EmbedscopeError as error:
        return _fail(str(error), error.exit_code, repeated=error.repeated)
    except _UsageError as error:
        said = _reworded(error.format_message()).rstrip(".")
        return _fail(f"{said}{'' if said.endswith('?') else '.'} Try --help.", 2)
    except (OSError, ImportError) as error:  # a module or a library that cannot be opened is an ImportError
        if getattr(error, "errno", None) not in _TOO_MANY_FILES and os.strerror(errno.EMFILE) not in str(error):
            raise
        return _fail("too many open files; raise the limit, for example: ulimit -n 1024", 1)
    if code == _INTERRUPTED:
        return _fail("interrupted; no output was finished", _INTERRUPTED)
    return code if isinstance(code, int) else 0


def _reworded(message: str) -> str:
    """Say what an option takes, for what typer says of the value.

    >>> _reworded("Invalid value for '--sample': Input should be a valid integer, unable to parse string as an integer")
    "Invalid value for '--sample': must be an integer"
    """
    message = re.sub(r"Input should be a valid (\w+)(, unable to parse .*)?", r"must be a \1", message)
    return message.replace("must be a integer", "must be an integer").replace("Input should be", "must be")


def _overview() -> int:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in overview((name, command.help) for name, command in commands.items()):
        show(line)
    return 0


def _open_streams() -> None:
    """Reopen closed standard streams, and make every character encodable on them.

    A file that is opened while descriptor 1 or 2 is free would get that number, and whatever is printed with it.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without arrows and dashes gets question marks


def _abandoned(code: int) -> int:
    """Return the exit code after dropping unwritten stdout, which would make the interpreter fail at exit."""
    with suppress(OSError, ValueError):  # a stdout that is not a file has nothing to drop
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    return code


def _fail(message: str, code: int, *, repeated: bool | None = None) -> int:
    if repeated is None:  # outside of a process group all processes of torchrun run into the same, and one speaks
        repeated = os.environ.get("RANK", "0") != "0"
    if not repeated:
        tell(f"embedscope: {' '.join(message.split())}")
    return code
