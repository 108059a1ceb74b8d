"""The documentation: the generated reference is complete, llms.txt names every page, and the site builds without a warning."""

import ast
import importlib.util
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import embedscope
from docs import _run
from docs._reference import command_page, llms, markdown, pages
from embedscope import plugins
from tests.conftest import ROOT

PAGES = pages.generate()


def headings(page):
    return set(re.findall(r"^#+ (\S+) \{", PAGES[f"reference/{page}"], re.MULTILINE))


@pytest.mark.parametrize(
    ("page", "kinds"),
    [("metrics.md", ["metrics"]), ("losses.md", ["losses"]), ("plots.md", ["plotting"]), ("sources.md", ["models", "data"])],
)
def test_every_plugin_is_in_the_reference(page, kinds):
    for kind in kinds:
        assert set(plugins.names(kind)) <= headings(page)


def test_every_option_of_a_plugin_is_in_the_reference():
    for kind, page in (("metrics", "metrics.md"), ("losses", "losses.md"), ("plotting", "plots.md"), ("models", "sources.md")):
        for name in plugins.names(kind):
            for option in plugins.keywords(plugins.load(kind, name)):
                if option not in ("anchors", "logits", "metrics"):
                    assert f"{option}=" in PAGES[f"reference/{page}"], f"{kind}/{name} has the option {option}"


def test_every_command_and_option_is_in_the_reference():
    sections = re.split(r"^## ", PAGES["reference/cli.md"], flags=re.MULTILINE)
    for name, command in command_page.commands().items():
        (section,) = [each for each in sections if each.startswith(f"{name} {{")]
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                assert f"`{option}`" in section, f"{name} has {option}"
            assert parameter.envvar is None or f"`{parameter.envvar}`" in section


def test_every_public_name_is_in_the_reference():
    assert {f"embedscope.{name}" for name in embedscope.__all__ if name != "__version__"} <= headings("python.md")


def test_every_key_of_json_is_in_the_reference():
    rows, labels = np.random.default_rng(0).normal(size=(40, 4)), np.arange(40) % 2
    rows[:, 3] = 0  # a dead channel, so that there is a finding
    sources, other = {"a": rows, "b": rows * [1, 2, 1, 1]}, (rows + 1, labels)
    found = embedscope.score(sources, labels, metrics=["silhouette", "gini"], compare=True, against=other).as_json()
    text = PAGES["reference/json.md"]
    (first, _), documented = found["results"], set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
    # What `arrays` and `by_class` of a metric hold stands on the page of metrics.
    of_metric = {"per_channel", "dead_channels", "owned_channels"}
    assert all(f'"{key}"' in PAGES["reference/metrics.md"].replace("\\", "") for key in of_metric)
    measured = set(first["metrics"]["gini"]) - of_metric
    assert {*found, *first, *measured, *first["findings"][0], *found["differences"][0]} <= documented
    compared, shifted = found["comparisons"][0], found["shifts"][0]
    assert {*compared, *compared["classes"][0], *compared["sides"], *shifted, *shifted["classes"][0]} <= documented
    assert {*embedscope.find_issues(rows, labels).as_json()} <= documented


def test_no_field_is_without_a_meaning():
    empty = [line for line in PAGES["reference/json.md"].splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert empty == []


def test_every_finding_is_explained():
    """Ids stand in the calls of Finding; `a if x else b` has two."""
    ids = set()
    for path in (ROOT / "embedscope" / "evaluation").glob("*finding*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
                ids |= {each.value for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant)}
    assert len(ids) > 10
    text = (ROOT / "docs/explanation/findings.md").read_text(encoding="utf-8")
    assert {each for each in ids if f"`{each}`" not in text} == set()


def test_sessions_fit_the_page():
    """A box of the site takes about 80 characters. Tables in Markdown, printed for other programs, may be wider."""
    for path in sorted((ROOT / "docs").rglob("*.md")):
        for session in re.findall(r"^```console\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            wide = [line for line in session.splitlines() if len(line) > 80 and not line.startswith("| ")]
            assert wide == [], path.name


def test_llms_names_every_page_and_command():
    nav = ["index.md", {"How-to": ["how-to/ci.md"]}, {"Reference": [f"reference/{name}" for name in pages.PAGES]}]
    text = llms.text(nav)
    for name in command_page.commands():
        assert f"`embedscope {name}`" in text
    for name in ("index", "how-to/ci", *(f"reference/{page.removesuffix('.md')}" for page in pages.PAGES)):
        assert f"({name}.html)" in text


def test_escaped_text_shows_as_it_is():
    assert markdown.escaped("a_b *c* `d_e` [f] <g>") == r"a\_b \*c\* `d_e` \[f\] &lt;g&gt;"
    assert markdown.escaped("a | b\nc", in_table=True) == r"a \| b c"
    assert markdown.escaped("see arXiv:2004.11362.") == "see [arXiv:2004.11362](https://arxiv.org/abs/2004.11362)."


def test_a_docstring_becomes_tables_and_sessions():
    text = markdown.docstring(
        "First.\n\n    x = 1\n\nArgs:\n    a: one,\n        two.\n\nRaises:\n    E: bad.\n\nExample:\n    >>> 1\n    1\n"
    )
    assert "```text\nx = 1\n```" in text
    assert "| `a` | one, two. |" in text
    assert "- `E`: bad." in text
    assert "```pycon\n>>> 1\n1\n```" in text


def test_blocks_of_a_page_are_read_in_order():
    text = "```console\n$ a \\\n    b\nout\n$ c\n```\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n```\nfree\n```\n"
    assert list(_run.blocks(text)) == [
        ("console", "a \\\n    b\n", "out\n"),
        ("console", "c\n", ""),
        ("python", "print(1)\n", "1\n"),
    ]


def test_every_session_is_read_as_commands():
    """A session that begins without a prompt would not be run."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for session in re.findall(r"^```console\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            assert session.startswith("$ "), path.name


@pytest.mark.parametrize(
    ("shown", "printed", "lacks"),
    [
        ("a 0.25 b", "note\na 0.2501\nb, c", ["b"]),
        ("a 0.25", "a 0.27", ["0.25 (printed: 0.27)"]),
        ("mmd 0.0012, p 0.0010", "mmd 0.0013, p 0.0019", ["0.0010 (printed: 0.0019)"]),
        ("p 1.2e-05", "p 9.2e-05", ["1.2e-05 (printed: 9.2e-05)"]),
        ("10 classes", "11 classes", ["10 (printed: 11)"]),
        ("rows in 0.5 s, 3,479 rows/s", "rows in 9.1 s, 12 rows/s", []),
        ("one two", "one", ["two"]),
        ("───\n1,797 rows\n...", "─────\n1,797 rows\nmore", []),
    ],
)
def test_what_an_output_lacks_is_found(shown, printed, lacks):
    assert _run.missing(shown, printed, 2e-3) == lacks


def test_only_an_error_that_a_page_shows_excuses_a_command_that_fails(tmp_path, monkeypatch):
    def faults(output, code):
        page = tmp_path / "page.md"
        page.write_text(f'```console\n$ sh -c \'printf "%s" "{output}"; exit {code}\'\n{output}\n```\n')
        return len(_run.run("page.md", tmp_path / "site"))

    monkeypatch.setattr(_run, "ROOT", tmp_path)
    assert faults("embedscope: no such file: a", 1) == 0
    assert faults("say embedscope: no", 1) == 1
    assert faults("embedscope: warning", 1) == 1
    assert faults("fine", 0) == 0


def test_commands_of_a_page_inherit_no_options_and_end(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDSCOPE_MEMORY", "1GB")
    assert _run.typed('echo "[$EMBEDSCOPE_MEMORY]"\n', 0, tmp_path) == (0, "[]\n")
    monkeypatch.setattr(_run, "_LONGEST", 0.1)
    assert _run.typed("sleep 5\n", 0, tmp_path) == (124, "still running after 0.1 s")


def test_python_of_a_page_finds_its_plugins(tmp_path):
    _run.package("Save `embedscope/metrics/spread.py`:\n\n```python\nspread = 3\n```\n", tmp_path)
    source = "from embedscope import plugins; print('spread' in plugins.names('metrics'))"
    assert _run.executed(source, {}, tmp_path) == (0, "True\n")
    assert str(tmp_path) not in sys.path


@pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="mkdocs-material is not installed: extra docs")
def test_the_site_builds_without_a_warning(tmp_path):
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    pages_built = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages_built) > 15
    # Nothing is fetched from elsewhere: links lead out, scripts, styles, fonts and images do not.
    for page in pages_built:
        text = page.read_text(encoding="utf-8")
        assert ">description:" not in text, f"{page} shows its front matter"
        assert not re.findall(
            r'<(?:script|img|iframe)[^>]*src="https?:|<link[^>]*rel="(?:stylesheet|preload|preconnect)"[^>]*href="https?:', text
        )
