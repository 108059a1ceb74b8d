"""The page of the command line, from what Typer knows of commands and options."""

from __future__ import annotations

import inspect
import re
from enum import Enum
from typing import Any, get_args

import typer.main

from embedscope.cli import app

from .markdown import code, escaped, table

_EXIT_CODES = (
    ("0", "Success."),
    ("1", "The input cannot be used. One line on stderr says why and what to do."),
    ("2", "Wrong usage: an unknown option, metric or value."),
    ("3", "A threshold given with `--fail-under` is not met."),
    ("130", "Interrupted by Ctrl-C or SIGTERM."),
    ("141", "The reader of a pipe closed it."),
)


def commands() -> dict[str, Any]:
    """Return the commands by name, in the order of `embedscope --help`."""
    found: dict[str, Any] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    return found


def command_line() -> str:
    """Return the page of all commands with all options."""
    known = commands()
    overview = table(
        ["Command", ""],
        [[f"[`embedscope {name}`](#{name})", escaped(_first(command.help), in_table=True)] for name, command in known.items()],
    )
    text = (
        "Results go to stdout, messages and progress to stderr. Every option with an environment variable can be set there; an "
        "option on the command line wins. `embedscope --version` prints the version.\n\n"
    )
    codes = "\n## Exit codes\n\n" + table(["Code", "Meaning"], [[code(number), meaning] for number, meaning in _EXIT_CODES])
    return text + overview + "\n" + "\n".join(_command(name, command) for name, command in known.items()) + codes


def _command(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
    usage = " ".join(["embedscope", name, *(_usage(each) for each in arguments), "[OPTIONS]"])
    parts = [f"## {name} {{ #{name} }}", _help(command.help), f"```text\n{usage}\n```"]
    if arguments:
        rows = [[code(_shown_name(each)), escaped(each.help or "", in_table=True)] for each in arguments]
        parts.append(table(["Argument", "Meaning"], rows))
    kinds, panels = _kinds(command), dict[str, list[Any]]()
    for each in options:
        panels.setdefault(each.rich_help_panel or "Options", []).append(each)
    for panel, members in panels.items():
        rows = [[_names(each, kinds[each.name]), _default(each), _meaning(each)] for each in members]
        parts.append(table([panel, "Default", "Meaning"], rows))
    return "\n\n".join(parts)


def _help(text: str | None) -> str:
    return "\n\n".join(escaped(" ".join(part.split())) for part in re.split(r"\n\n+", inspect.cleandoc(text or "")))


def _first(text: str | None) -> str:
    return " ".join(re.split(r"\n\n+", inspect.cleandoc(text or ""))[0].split())


def _shown_name(argument: Any) -> str:
    return str(argument.metavar or argument.name).upper()


def _usage(argument: Any) -> str:
    name = _shown_name(argument) + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _names(option: Any, kind: str) -> str:
    names = ", ".join(code(name) for name in (*option.opts, *option.secondary_opts))
    return names if option.is_flag else f"{names} {code(option.metavar or kind)}"


def _kinds(command: Any) -> dict[str, str]:
    """Return what each parameter of a command takes: choices of an enumeration, or the name of its type."""
    found = {}
    for name, parameter in inspect.signature(command.callback, eval_str=True).parameters.items():
        kind = parameter.annotation
        while inner := [each for each in get_args(kind) if each is not type(None)]:  # Annotated, `| None`, a list
            kind = inner[0]
        if issubclass(kind, Enum):
            found[name] = "|".join(str(each.value) for each in kind)
        else:
            found[name] = {"str": "TEXT", "Path": "PATH"}.get(kind.__name__, str(kind.__name__).upper())
    return found


def _default(option: Any) -> str:
    if option.is_flag or option.default in (None, ""):
        return ""
    return code(getattr(option.default, "value", option.default))


def _meaning(option: Any) -> str:
    notes = [escaped(option.help or "", in_table=True)]
    if option.multiple and "repeat" not in notes[0] and "number of times" not in notes[0]:
        notes.append("May be repeated.")
    if option.envvar:
        notes.append(f"Environment variable: {code(option.envvar)}.")
    return " ".join(notes)
