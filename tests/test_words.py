"""How embedscope writes: no pattern that reads as if translated, in the documentation, README, help and messages."""

import re

import pytest
import typer.main

from embedscope.cli import app
from tests.conftest import ROOT

PACKAGE = ROOT / "embedscope"

# Pattern -> what to write in its place.
AVOIDED = {
    r"\b(?:a|one) (?:file|line|row|value|band|bar|panel|layout|question|column|process) (?:a|an) \w+": "one file per metric",
    r"(?:^|\. |\| )Of (?:the|a|an) [a-z]+(?: that [a-z ]+)?[:,]": "a noun phrase, such as: Learning-rate schedule",
    r"(?<!there )\b(?:is|are) no (?!longer\b|better\b|worse\b)[a-z]+ that\b": "is not a ...",
    r"\bis no (?:metric|folder|file|store|loss|number|integer|path|directory|model|table|plugin|image)\b": "is not a metric",
    r"\bso many\b": "N rows",
    r"\b(?:is|are) said\b": "is reported",
    r"\bto be had\b": "available",
    r"\d %": "95%",
    r"\boptimis(?:er|ers|e|es|ed|ing|ation)\b": "optimizer, optimize",
    r"\bmend(?:s|ed|ing)?\b": "fix, improve",
    r"\bbears? the name\b": "is named",
    r"\bcome(?:s)? to the same\b": "gives identical results",
    r"\bdoes not notice\b": "is unaffected",
    r"\bwhere (?:there is|it has|there are) (?:one|any|none)\b": "if any",
    r"\ball the same\b": "anyway",
    r"\bleast well placed\b": "lowest-silhouette",
    r"\ba table that sorts\b": "a sortable table",
    r"\bwhat suits\b": "every plot kind that applies",
}


def found(text):
    """(pattern's remedy, the words around it) of everything that is to be avoided."""
    plain = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    return [
        (better, plain[max(0, match.start() - 30) : match.end() + 20].replace("\n", " "))
        for pattern, better in AVOIDED.items()
        for match in re.finditer(pattern, plain, re.MULTILINE)
    ]


WRITTEN = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages_avoid_them(path):
    assert found(path.read_text(encoding="utf-8")) == []


def helps():
    for name, command in typer.main.get_command(app).commands.items():
        yield name, command.help or ""
        for parameter in command.params:
            yield f"{name} {parameter.name}", parameter.help or ""


def test_help_avoids_them():
    assert {place: here for place, text in helps() if (here := found(text))} == {}


def test_patterns_find_what_they_are_for():
    bad = [
        "one line a class",
        "Of a checkpoint that holds several: raw",
        "is no folder that can be written to",
        "At most so many rows",
        "keys are said",
        "95 %",
        "the optimiser",
    ]
    good = ["one file per metric", "is no longer than", "95% of it", "the optimizer", "one of the rows", "Of 61 samples, 17"]
    assert all(found(text) for text in bad)
    assert not any(found(text) for text in good)
