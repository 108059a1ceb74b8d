"""README as a package index shows it: its relative links point to the repository at the tag of the version."""

import importlib.util
import re
import sys
import tomllib
from types import SimpleNamespace

import pytest

from embedscope import __version__
from tests.conftest import ROOT

REPOSITORY = "https://github.com/owner/name"
PAGE, RAW = f"{REPOSITORY}/blob/v1.2/", "https://raw.githubusercontent.com/owner/name/v1.2/"


@pytest.fixture
def build(monkeypatch):
    """hatch_build.py, with stand-ins for the two classes of hatchling, which only a build installs."""
    for module, name in (("builders.hooks", "BuildHookInterface"), ("metadata", "MetadataHookInterface")):
        monkeypatch.setitem(sys.modules, f"hatchling.{module}.plugin.interface", SimpleNamespace(**{name: object}))
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[a](docs/a.md) and [b](B.md#part)", f"[a]({PAGE}docs/a.md) and [b]({PAGE}B.md#part)"),
        ("![a picture](docs/a.png)", f"![a picture]({RAW}docs/a.png)"),
        ("[![a badge](a.svg)](docs/a.md)", f"[![a badge]({RAW}a.svg)]({PAGE}docs/a.md)"),
        ('<img alt="a" src="a.png">', f'<img alt="a" src="{RAW}a.png">'),
        ('<source srcset="a.png">', f'<source srcset="{RAW}a.png">'),
        ('<a href="docs/a.md">', f'<a href="{PAGE}docs/a.md">'),
        *((text, text) for text in ("[a](https://a.org/b.md)", "![a](http://a.org/b.png)", "[a](#part)", "[a](mailto:a@b.c)")),
        *((text, text) for text in ("[a](HTTPS://a.org)", "[a](git+https://a.org/b.git)", "[a](//a.org/b.md)")),
        *((text, text) for text in ('<img src="https://a.org/b.png">', "`a[0](b)`", "```python\na[0](b)\n```\n")),
    ],
)
def test_relative_links_become_absolute(build, written, shown):
    assert build.with_absolute_links(written, REPOSITORY, "v1.2") == shown


# Links and code that the hook does not know: definitions of references, targets in <> or after a space, attributes without
# double quotes or with several candidates, other fences of code.
UNKNOWN = re.compile(
    r"^ {0,3}\[[^\]]+\]:|\]\(\s*<|\]\(\s|\b(?:src|srcset|href)\s*=\s*[^\s\"]|\b(?:src|srcset|href)(?:\s+=|=\s)"
    r"|\bsrcset=\"[^\"]*,|^ *~~~|``[^`\n]+`[^`\n]+``",
    re.MULTILINE,
)


def without_code(text):
    return re.sub(r"^```.*?^```|(?<!`)`[^`\n]+`(?!`)", "", text, flags=re.DOTALL | re.MULTILINE)


def test_readme_has_only_links_that_the_hook_knows():
    assert [match[0] for match in UNKNOWN.finditer(without_code((ROOT / "README.md").read_text(encoding="utf-8")))] == []


@pytest.mark.parametrize(
    "text",
    [
        "[a]: docs/a.md",
        "[a](<docs/a b.md>)",
        "[a]( docs/a.md)",
        "<img src='a.png'>",
        "<img src=a.png>",
        '<a href = "docs/a.md">',
        '<source srcset="a.png, b.png 2x">',
        "~~~\n[a](b)\n~~~",
        "`` a`[b](c) ``",
    ],
)
def test_links_that_the_hook_does_not_know_are_found(text):
    assert UNKNOWN.search(without_code(text))


def test_readme_of_the_package_has_no_relative_link(build):
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = settings["project"]
    assert "readme" in project["dynamic"]
    assert (
        "/README.md" in settings["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    )  # a static readme is added by itself
    hook, metadata = build.Readme(), {**project, "version": __version__}
    hook.root = str(ROOT)
    hook.update(metadata)
    assert metadata["readme"]["content-type"] == "text/markdown"
    links = re.findall(r"\]\(([^)]+)\)|(?:src|srcset|href)=\"([^\"]+)\"", metadata["readme"]["text"])
    targets = ["".join(each) for each in links]
    assert all(each.startswith("https://") for each in targets)
    # What points into the repository is there.
    path = re.compile(
        rf"https://(?:github\.com/embedscope/embedscope/blob|raw\.\S+?/embedscope/embedscope)/v{__version__}/([^#]+)"
    )
    inside = {match[1] for each in targets if (match := path.match(each))}
    assert {"docs/tutorial.md", "docs/pictures/page-dark.png", "docs/pictures/page-light.png", "CITATION.cff"} <= inside
    assert [each for each in inside if not (ROOT / each).is_file()] == []
