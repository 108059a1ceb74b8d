"""What stands between a command and the terminal: streams, strangers' text, tables of any width, names of options."""

import ast
import errno
import inspect
import json
import os
import re
import subprocess
import sys
import time
from typing import get_args

import numpy as np
import pytest
import typer.main

from embedscope import plugins
from embedscope.cli import app, main
from embedscope.cli.console import Talk, print_columns
from embedscope.cli.flags import ARGUMENT, flag, with_flags
from tests.conftest import ROOT, literals

COMMANDS = typer.main.get_command(app).commands
PACKAGE = ROOT / "embedscope"
NAMES = ["\x1b[31mred", "=1+1", "a\u202eb\x9b", "plain"]


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture
def hostile(make_store, blobs):
    labels = np.arange(90) % 4
    ids = [f"{'=-@'[row % 3]}\x1b{row}" for row in range(90)]
    return make_store(blobs[0], labels, class_names=NAMES, ids=ids, layer="la\x1byer", split=["te\x1bst"] * 90)


# ---- streams


def shell(script):
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=False)


def test_closed_stdout_is_no_error():
    done = shell('"$PYTHON" -m embedscope --version >&-; echo $?')
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_closed_stderr_sends_nothing_to_stdout():
    done = shell('"$PYTHON" -m embedscope scor 2>&-; echo $?')
    assert done.stdout == "2\n"


@pytest.mark.parametrize("command", ["--help", "score --help"])
def test_a_reader_that_leaves_is_no_error(command):
    done = shell(f'PYTHONUNBUFFERED=1 "$PYTHON" -m embedscope {command} | true; echo ${{PIPESTATUS[0]}}')
    assert done.stdout in ("0\n", "141\n")
    assert done.stderr == ""


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_a_reader_that_leaves_in_the_middle(hostile, monkeypatch, form):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone:
        monkeypatch.setattr("sys.stdout", gone)
        assert run("score", hostile, "-q", "-m", "silhouette", "--format", form) == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line():
    done = shell('"$PYTHON" -m embedscope --version > /dev/full; echo $?')
    assert done.stdout == "1\n"
    assert done.stderr == "embedscope: cannot write to the standard output: No space left on device\n"


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EMFILE, os.strerror(errno.EMFILE), "x"), ImportError(f"libx.so: {os.strerror(errno.EMFILE)}")],
    ids=["file", "library"],
)
def test_too_many_open_files_is_one_line(hostile, monkeypatch, capsys, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("embedscope.evaluation.score", fail)
    assert run("score", hostile) == 1
    assert capsys.readouterr().err == "embedscope: too many open files; raise the limit, for example: ulimit -n 1024\n"


# ---- text of strangers


@pytest.mark.parametrize(
    "command",
    [["inspect"], ["score", "--per-class"], ["score", "--per-class", "--format", "csv"], ["score", "-v", "--json"]],
    ids=["inspect", "score", "csv", "json"],
)
def test_control_characters_reach_no_terminal(hostile, capsys, command):
    assert run(command[0], hostile, *command[1:]) == 0
    shown = "".join(capsys.readouterr())
    assert "\\x1b" in shown or "\\u001b" in shown
    assert not set(shown) & set("\x1b\x9b\u202e")


def test_control_characters_of_an_error(tmp_path, capsys):
    assert run("score", tmp_path / "a\x1b[2J.h5") == 1
    assert "a\\x1b[2J.h5" in capsys.readouterr().err


def test_control_characters_of_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setattr("embedscope.cli.console._SECONDS_UNTIL_BAR", 0)
    for _ in Talk().track([1, 2], "[red]a\x1b]0;b", 2):
        time.sleep(0.1)  # until the bar is there
    assert "[red]a\\x1b]0;b" in capsys.readouterr().err


def test_only_the_console_prints():
    for path in (PACKAGE / "cli").glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        printing = [node.lineno for node in calls if getattr(node.func, "id", "") == "print"]
        assert path.name == "console.py" or not printing, f"{path}:{printing} prints past the console"


def test_printed_csv_is_no_formula(hostile, capsys):
    assert run("score", hostile, "--per-class", "--format", "csv", "-q", "-m", "silhouette") == 0
    assert ",'=1+1," in capsys.readouterr().out


# ---- tables


def printed(capsys, monkeypatch, width, *arguments):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    print_columns(*arguments)
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


@pytest.mark.parametrize("width", [18, 24, 33, 40, 61, 80, 81, 132])
def test_no_number_is_cut_at_any_width(capsys, monkeypatch, width):
    cells = [f"{number}.{number:04} [0.1234, 0.5678] *" for number in range(1, 8)]
    headings = ["a", "epoch-0020", "a_very_long_name_of_it_all", "two words", "日本語の名前", "f", "g" * 50]
    rows = [("explained_variance", cells), ("gini ↓", [f"-{cell[:6]}" for cell in cells])]
    shown = printed(capsys, monkeypatch, width, "metric", headings, [rows, [("samples", ["1,234,567"] * 7)]])
    for number in range(1, 8):
        assert shown.count(f"{number}.{number:04}") == 2
    assert shown.count("[0.1234,") == shown.count("0.5678]") == shown.count("1,234,567") == 7
    assert max(map(console_width, shown.splitlines())) <= width


def console_width(line):
    from rich.cells import cell_len

    return cell_len(line)


def test_a_wide_terminal_has_one_table(capsys, monkeypatch):
    shown = printed(capsys, monkeypatch, 200, "metric", ["a" * 30, "b"], [[("x", ["1", "2"])]])
    assert re.search(r"metric +a{30} +b", shown)


def test_many_columns_take_no_time(capsys):
    count = 1000
    print_columns("metric", [f"column {each}" for each in range(count)], [[("x", ["0.1234"] * count)]])
    assert capsys.readouterr().out.count("0.1234") == count


# ---- names of options


def library_messages():
    """(file:line, text) of every text of the library that is not a docstring."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "cli" in path.relative_to(PACKAGE).parts:
            continue
        tree = ast.parse(path.read_text())
        documented = (ast.Module, ast.FunctionDef, ast.ClassDef)
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, documented) and isinstance(node.body[0], ast.Expr)
        }
        for node, text in literals(tree):
            if id(node) not in docstrings:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def test_flags_are_spoken_of_in_cli_only():
    """A message of the library names the Python argument in backticks; `with_flags` turns it into what was typed."""
    spoken = [(place, text) for place, text in library_messages() if re.search(r"(?<![\w-])--[a-z{]", text)]
    # The commands that stores record, and that are repeated from there, are commands.
    assert [
        each
        for each in spoken
        if not each[0].startswith("embedscope/store/reader.py") or each[1].strip() not in FLAGS_OF_COMMANDS
    ] == []


FLAGS_OF_COMMANDS = {"--resume", "{} --resume", "--overwrite", "--trust-remote-code", "--unsafe-pickle"}


# Arguments of functions that no command calls: Monitor, and `finetune` with a TrainingConfig.
PYTHON_ONLY = {"config", "every", "log", "loss", "on_finding", "path", "prepare", "stop_on"}


def test_every_argument_that_a_message_names_has_a_flag():
    known = {option for command in COMMANDS.values() for parameter in command.params for option in parameter.opts}
    named = {match[1]: place for place, text in library_messages() for match in ARGUMENT.finditer(text)}
    assert len(named) > 15
    without = {name: place for name, place in named.items() if name != "{}" and flag(name) not in known}
    assert {name: place for name, place in without.items() if name not in PYTHON_ONLY} == {}
    assert set(without) == PYTHON_ONLY  # the list holds nothing that has a flag, or that no message names


def test_a_message_of_an_argument_says_that_it_is_one():
    """Write `name=`, not `name`, which no command translates."""
    bare = [(place, text) for place, text in library_messages() if re.search(r"^`[a-z_]+`(?= |$)", text)]
    assert bare == []


def test_a_list_of_values_becomes_a_flag_each(hostile, capsys):
    assert run("score", hostile, "-m", "gini, silhouette") == 2
    told = "embedscope: 'gini, silhouette' is not one metric; pass a list: --metric gini --metric silhouette\n"
    assert capsys.readouterr().err == told


def test_flags_reach_who_typed_the_command(hostile, tmp_path, capsys):
    assert run("plot", hostile, "-o", tmp_path / "a.png", "--images", tmp_path) == 2
    told = "embedscope: --images applies to a page (.html) and to the kind issues, and neither is drawn\n"
    assert capsys.readouterr().err == told
    Talk().say("pass `on_error='skip'`")
    assert capsys.readouterr().err == "pass --on-error skip\n"


@pytest.mark.parametrize("text", ["a `b` c", "`x = 3`", "``", "`--layer`", "`Layers=`"])
def test_other_backticks_stay(text):
    assert with_flags(text) == text


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [("score", "--sample", "--subsample"), ("score", "--samples", "--per-sample"), ("finetune", "--test-share", "--test-size")],
)
def test_an_option_has_both_names(command, old, new):
    assert any({old, new} <= set(parameter.opts) for parameter in COMMANDS[command].params)


def test_aliases_do_the_same(make_store, blobs, tmp_path, capsys):
    store = make_store(*blobs)
    assert run("score", store, "--subsample", 30, "--per-sample", tmp_path / "a.csv", "-q", "--json", "-m", "silhouette") == 0
    found = json.loads(capsys.readouterr().out)["results"][0]["metrics"]["silhouette"]
    assert run("score", store, "--sample", 30, "--samples", tmp_path / "b.csv", "-q", "--json", "-m", "silhouette") == 0
    assert found == json.loads(capsys.readouterr().out)["results"][0]["metrics"]["silhouette"]
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def help_texts():
    for name, command in COMMANDS.items():
        yield name, command.help
        for parameter in command.params:
            yield f"{name} {parameter.name}", parameter.help


# What else the helps write so: code, heads, samplers, weights of samples, optimizers, schedules, columns.
NO_PLUGINS = {"mlp", "balanced", "dataset_equity", "sgd", "plateau", "csv"}


def test_plugins_that_a_help_names_exist():
    """`timm:NAME` is a source of models or data; `gini(dead='ignore')`, `silhouette=0.3` and `0.5*silhouette` are plugins."""
    sources = {*plugins.names("models"), *plugins.names("data")}
    others = {*plugins.names("metrics"), *plugins.names("losses"), *plugins.names("plotting")}
    named = set()
    for place, text in help_texts():
        for source, _ in re.findall(r"\b([a-z]\w*):(NAME|PATH|[a-z0-9]+\()", text):
            assert source in sources, f"{place} names {source}"
            named.add(source)
        for name in re.findall(r"(?<![(:])(?<!, )\b([a-z]\w+)(?:\((?=\w+=)|=\d)", text) + re.findall(
            r"[\d\]]\*([a-z]\w+)", text
        ):
            assert name in {*sources, *others, *NO_PLUGINS}, f"{place} names {name}"
            named.add(name)
    assert {"timm", "torchvision", "hf", "st", "gini", "silhouette"} <= named


def test_a_variable_stands_for_one_thing():
    meant = {}
    for name, command in COMMANDS.items():
        signature = inspect.signature(command.callback, eval_str=True)
        for parameter in command.params:
            if parameter.envvar:
                kind, *_ = get_args(signature.parameters[parameter.name].annotation)
                meant.setdefault(parameter.envvar, set()).add((parameter.name, kind))
            assert parameter.name != "overwrite" or parameter.envvar is None, f"{name}: a variable must not replace files"
    assert {variable: things for variable, things in meant.items() if len(things) > 1} == {}


# ---- platforms

WITHOUT_POSIX = """
import os, signal, sys
import torch, torch.distributed, sklearn.neighbors, scipy.linalg, h5py, typer, rich
for name in ("sysconf", "sched_getaffinity", "getuid", "geteuid", "fork", "kill", "killpg", "pread", "preadv", "pwrite",
             "pwritev", "posix_fallocate", "memfd_create", "mkfifo"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGCHLD", "SIGKILL", "SIGALRM", "SIGUSR1", "SIGPIPE", "SIGQUIT", "SIGXFSZ", "SIGXCPU"):
    if hasattr(signal, name):
        delattr(signal, name)
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
from embedscope.cli import main
for command in (
    ["extract", "net.py:Net", "d.npz", "-o", "a.h5", "-q"],
    ["score", "a.h5", "-q", "--per-sample", "s.csv"],
    ["finetune", "a.h5", "-o", "run", "--epochs", "1", "-q"],
):
    assert main(command) == 0, command
from embedscope.ops.sorted_rows import sorted_on_disk
rows = torch.arange(10.0).reshape(5, 2)
with sorted_on_disk(rows, torch.tensor([4, 2, 0, 1, 3])) as stored:
    assert torch.equal(stored[1:4], rows[[2, 0, 1]])
drawn = [name for name in ("matplotlib", "umap", "numba", "plotly", "openTSNE") if name in sys.modules]
assert not drawn, drawn
"""


def test_commands_need_no_posix_and_no_drawing_library(tmp_path):
    """Run extract, score and finetune with what Windows lacks taken away; what draws stays unimported."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))\n"
    )
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    np.savez(tmp_path / "d.npz", X=generator.normal(size=(60, 8)).astype(np.float32) + labels[:, None], y=labels)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
