"""llms.txt: what embedscope is, its commands and the pages, for programs that read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .command_page import commands
from .markdown import first_line
from .pages import PAGES

_DOCS = Path(__file__).parent.parent


def text(nav: list[Any]) -> str:
    """Return llms.txt (https://llmstxt.org) for a navigation of mkdocs."""
    from embedscope.cli import app

    lines = [
        "# embedscope",
        "",
        f"> {app.info.help}",
        "",
        "A command-line program and a Python library. Install it with `pip install git+https://github.com/embedscope/embedscope`.",
        "",
        "## Commands",
        "",
        *(f"- `embedscope {name}`: {first_line(command.help)}" for name, command in commands().items()),
    ]
    for section, pages in _sections(nav):
        lines += ["", f"## {section}", ""]
        lines += [f"- [{_title(page)}]({page.removesuffix('.md')}.html): {_summary(page)}" for page in pages]
    return "\n".join(lines) + "\n"


def _sections(nav: list[Any]) -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = [("Start", [])]
    for entry in nav:
        if isinstance(entry, str):
            found[0][1].append(entry)
        else:
            ((title, inside),) = entry.items()
            if isinstance(inside, str):
                found[0][1].append(inside)
            else:
                found.append((title, inside))
    return found


def _front(page: str) -> tuple[str, str]:
    if page.startswith("reference/"):
        title, summary, _ = PAGES[page.removeprefix("reference/")]
        return title, summary
    lines = (_DOCS / page).read_text(encoding="utf-8").splitlines()
    title = next(line.removeprefix("# ") for line in lines if line.startswith("# "))
    summary = next(line.removeprefix("description: ") for line in lines if line.startswith("description: "))
    return title, summary


def _title(page: str) -> str:
    return _front(page)[0]


def _summary(page: str) -> str:
    return _front(page)[1]
