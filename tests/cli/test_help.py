"""The layout of the help: panels, examples that can be typed, no seed range or flag type that takes the room."""

import shlex

import pytest
import typer.main

from embedscope.cli import app, main
from embedscope.cli.help import EXAMPLES

COMMANDS = typer.main.get_command(app).commands


def test_every_command_has_examples():
    assert list(EXAMPLES) == list(COMMANDS)


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_examples_can_be_typed(line):
    name, *words = shlex.split(line)
    COMMANDS[name].make_context(name, words)  # raises for a wrong option or argument
    assert len(f" embedscope {line}") <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_options_stand_in_panels(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "─ Options" not in shown
    assert "<bool>" not in shown
    assert "4294967295" not in shown
    assert all(f"embedscope {line}\n" in "\n".join(map(str.strip, shown.splitlines())) + "\n" for line in EXAMPLES[name])


def test_nothing_typed_shows_each_command_with_an_example(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    for name, lines in EXAMPLES.items():
        assert f"\n{name:9} " in shown
        assert f"$ embedscope {lines[0]}\n" in shown


def test_a_seed_has_an_upper_limit(capsys):
    assert main(["score", "x.h5", "--seed", str(2**32)]) == 2
    assert "less than or equal to 4294967295" in capsys.readouterr().err
