"""How embedscope writes: no pattern that reads as if translated, and American spelling, in pages, help and the code's texts."""

import ast
import re

import pytest
import typer.main

from embedscope.cli import app
from tests.conftest import ROOT, literals

PACKAGE = ROOT / "embedscope"

# Pattern -> what to write in its place.
AVOIDED = {
    r"\b(?:a|one) (?:file|line|row|value|band|bar|panel|layout|question|column|process) (?:a|an) \w+": "one file per metric",
    r"\b(?:a|an|one) (?:color|list|bar|dot|picture|trial|entry|figure) (?:a|an) (?!time\b)[a-z]+": "one color per input",
    r"(?:^|\. |\| )Of (?:the|a|an) [a-z]+(?: that [a-z ]+)?[:,]": "a noun phrase, such as: Learning-rate schedule",
    r"(?<![Tt]here )\b(?:is|are) no (?!(?:longer|better|worse|more|less)\b)[a-z]+": "is not a metric",
    r"\bthat (?:is|are) none\b|\bfor what is no(?:ne)?\b": "an invalid seed",
    r"\b(?:is|are) told\b(?! apart\b)": "is called with",
    r"\bso many\b(?! that\b)": "N rows",
    r"\b(?:is|are) said\b": "is reported",
    r"\bto be had\b|\bcan be had\b": "available",
    r"\d %": "95%",
    r"\bper cent\b": "percent, or %",
    r"\bmend(?:s|ed|ing)?\b": "fix, improve",
    r"\bbears? the name\b": "is named",
    r"\bcome(?:s)? to the same\b": "gives identical results",
    r"\bcomes? to lie\b": "is placed",
    r"\bdoes not notice\b": "is unaffected",
    r"\bwhere (?:there is|it has|there are) (?:one|any|none)\b": "if any",
    r"\ball the same\b": "anyway",
    r"\bleast well placed\b": "lowest-silhouette",
    r"\ba table that sorts\b": "a sortable table",
    r"\bwhat suits\b": "every plot kind that applies",
    r"\bneither more nor less is better\b": "has no better direction",
    r"\b(?:thereof|whereof|wherein|whence|lest)\b": "a word of this century",
    r"\bthen (?:is|are) exactly\b": "is then exactly",
    r"\bis there twice\b": "a duplicate",
}

# British -> American, as the dependencies spell. What another library or a public name spells stands in backticks.
BRITISH = {
    r"\b(?:un|re|mis|multi)?(?:label|model|cancel|travel|total|signal)l(?:ed|ing|er|ers)\b(?!:)": "one l: labeled",
    r"\b\w*neighbour\w*": "neighbor",
    r"\b(?:colour|behaviour|favour|honour|flavour|labour|rumour|harbour|endeavour)\w*": "color",
    r"\b(?:re|un)?cent(?:re|res|red|ring)\b": "center, centered",
    r"\bmet(?:re|res)\b|\bfib(?:re|res)\b|\btheatre\b": "meter",
    r"\bgrey\w*": "gray",
    r"\blicence\w*": "license",
    r"\bdefence\b|\boffence\b": "defense",
    r"\bcatalogues?\b|\banalogues?\b": "catalog",
    r"\b(?!(?:advis|compromis|concis|devis|disguis|exercis|expertis|improvis|nois|otherwis|pairwis|pois|prais|precis|premis|promis"
    r"|rais|revis|ris|supervis|surpris|televis|wis)[ei])"
    r"[a-z]{2,}(?:ac|ad|al|an|ar|at|ci|eci|ep|er|ev|ibr|im|in|it|og|om|on|or|ot)is(?:e[ds]?|ers?|ing|ations?)\b": "-ize",
    r"\banalys(?:e|ed|ing)\b|\bparalys(?:e|ed|ing)\b": "analyze",
    r"\bprogramme\b|\bwhilst\b|\bamongst\b|\blearnt\b|\bspelt\b|\bburnt\b": "program, while, learned",
    r"\bjudgement\b|\backnowledgement\b": "judgment",
}


def found(text):
    """(pattern's remedy, the words around it) of everything that is to be avoided; code is not prose."""
    plain = re.sub(r"```.*?```|`[^`\n]*`|https?://\S+", "", text, flags=re.DOTALL)
    return [
        (better, plain[max(0, match.start() - 30) : match.end() + 20].replace("\n", " "))
        for patterns, flags in ((AVOIDED, re.MULTILINE), (BRITISH, re.IGNORECASE))
        for pattern, better in patterns.items()
        for match in re.finditer(pattern, plain, flags)
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


def texts(source):
    """(line, text) of every text of more than a word: messages, with {} for what they fill in, and docstrings, on one line."""
    tree = ast.parse(source)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)} - {
        id(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
    }
    for node, text in literals(tree):
        if id(node) not in parts and re.search(r"\w\s+\w", text):
            yield node.lineno, " ".join(text.split())


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_texts_and_docstrings_avoid_them(path):
    read = texts(path.read_text(encoding="utf-8"))
    assert {f"{path.name}:{line}": here for line, text in read if (here := found(text))} == {}


# The scripts and the frame of the page are read whole: their comments are written for readers, too.
PAGE = sorted(path for path in (PACKAGE / "plotting" / "report").iterdir() if path.suffix in {".js", ".html"})


@pytest.mark.parametrize("path", PAGE, ids=lambda path: path.name)
def test_the_page_spells_american(path):
    words = re.sub(r"aria-labelledby|\.unlabelled", "", path.read_text(encoding="utf-8"))
    assert [match[0] for pattern in BRITISH for match in re.finditer(pattern, words, re.IGNORECASE)] == []


@pytest.mark.parametrize(
    "text",
    [
        "one line a class",
        "a color an input",
        "Of a checkpoint that holds several: raw",
        "is no folder that can be written to",
        "what lies apart is no outlier",
        "raised for a seed that is none",
        "UsageError for what is none.",
        "say: is told what is planned",
        "At most so many rows",
        "keys are said",
        "95 %",
        "a share in per cent",
        "the optimiser",
        "Optimised and standardised, recognises what was initialised; the normalisation",
        "mislabelled rows",
        "nearest neighbours",
        "the grey points",
        "its behaviour",
        "the centre of the class",
        "centred features",
        "an MIT licence",
        "analysed rows",
        "id 'a' is there twice",
    ],
)
def test_patterns_find_what_they_are_for(text):
    assert found(text)


@pytest.mark.parametrize(
    "text",
    [
        "one file per metric",
        "is no longer than",
        "there is no gradient, and it is no more than that",
        "they are told apart",
        "95% of it",
        "the optimizer",
        "one of the rows",
        "Of 61 samples, 17",
        "pairwise noise raises; otherwise promised, comprised of precise premises, a supervised exercise, compromised",
        "labeled, misspelled and controlled; the analysis and its analyses; cancellation and excellent models",
        "`unlabelled` and `centre`",
        "an optimistic minimum of meters, central and acute",
        "the bias rises; likewise, it arises, advertises nothing and is surmised",
    ],
)
def test_patterns_leave_other_words_alone(text):
    assert found(text) == []


def test_texts_are_read_from_code():
    source = '''"""A module: nearest
    neighbours."""
def f(x):
    """Say one line a class."""
    raise ValueError(f"option {x} is no number, " "got so many")
name = "unlabelled"
f(f"{f('95 %'):>{x}} is said")
'''
    assert dict(texts(source)) == {
        1: "A module: nearest neighbours.",
        4: "Say one line a class.",
        5: "option {} is no number, got so many",
        7: "{} is said",
    }
    assert all(found(text) for _, text in texts(source))
