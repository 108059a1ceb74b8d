"""Markdown: texts and docstrings in it, tables, links."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Example|Examples|Yields|Reference|References):(?: (.+))?")
_ENTRY = re.compile(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*): (.+)", re.DOTALL)
_SOURCE = re.compile(r"\b(doi:\s?(10\.[^\s,;]*[^\s,;.])|arXiv:(\d{4}\.\d{4,5}))")
_DOCTEST = re.compile(r">>> ")


def escaped(text: str, *, in_table: bool = False) -> str:
    """Return text as Markdown that shows it as it is; what stands in backticks stays code, and sources become links."""
    parts = re.split(r"(`[^`]+`)", text)
    for place in range(0, len(parts), 2):
        plain = parts[place].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        plain = re.sub(r"([\\*_\[\]`])", r"\\\1", plain)
        parts[place] = _SOURCE.sub(lambda match: linked(match[0].replace("\\", "")), plain)
    whole = "".join(parts)
    return whole.replace("|", "\\|").replace("\n", " ") if in_table else whole


def linked(reference: str) -> str:
    """Return a DOI or an arXiv id as a link; any other text comes back escaped."""
    found = _SOURCE.fullmatch(reference.strip())
    if found is None:
        return escaped(reference) if not _SOURCE.search(reference) else _SOURCE.sub(lambda match: linked(match[0]), reference)
    doi, arxiv = found[2], found[3]
    address = f"https://doi.org/{doi.replace('(', '%28').replace(')', '%29')}" if doi else f"https://arxiv.org/abs/{arxiv}"
    return f"[{'doi:' + doi if doi else 'arXiv:' + arxiv}]({address})"


def code(value: Any) -> str:
    """Return a value as inline code, fit for a table."""
    text = str(value).replace("|", "\\|")
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are Markdown already."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cell.replace(chr(10), ' ') for cell in line)} |" for line in lines) + "\n"


def first_line(doc: str | None) -> str:
    """Return the first line of a docstring, plain text."""
    return inspect.cleandoc(doc or "").partition("\n")[0]


def sections(doc: str | None) -> list[tuple[str, str]]:
    """Split a docstring into (heading, body): "" for prose, otherwise Args, Returns, Raises ...

    A heading's body is indented below it, or stands beside it.
    """
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in inspect.cleandoc(doc or "").split("\n"):
        if (heading := _SECTION.fullmatch(line)) is not None:
            found.append((heading[1], [heading[2]] if heading[2] else []))
        elif found[-1][0] and line and not line.startswith(" "):
            found.append(("", [line]))
        else:
            found[-1][1].append(line)
    return [(heading, inspect.cleandoc("\n".join(["", *lines]))) for heading, lines in found if any(lines)]


def entries(body: str) -> list[tuple[str, str]]:
    """Split the body of Args or Attributes into (name, meaning); lines that belong to none come with the name ""."""
    found: list[tuple[str, list[str]]] = []
    for line in body.split("\n"):
        match = None if line.startswith(" ") else _ENTRY.fullmatch(line)
        if match is not None:
            found.append((match[1], [match[2]]))
        elif found:
            found[-1][1].append(line.strip())
        else:
            found.append(("", [line.strip()]))
    return [(name, " ".join(filter(None, lines))) for name, lines in found]


def attributes(record: type) -> dict[str, str]:
    """Return what the docstring of a record says of its fields: name -> meaning."""
    found: dict[str, str] = {}
    for heading, body in sections(record.__doc__):
        if heading == "Attributes":
            for names, meaning in entries(body):
                found |= dict.fromkeys(names.split(", "), meaning)
    return found


def prose(text: str) -> str:
    """Return paragraphs; indented lines are formulas or layouts and become code, doctests become sessions."""
    blocks = []
    for block in re.split(r"\n\n+", text.strip("\n")):
        lines = block.split("\n")
        if all(line.startswith("    ") for line in lines if line):
            blocks.append(f"```text\n{inspect.cleandoc(block)}\n```")
        elif _DOCTEST.match(block):
            blocks.append(f"```pycon\n{block}\n```")
        else:
            blocks.append(escaped(block))
    return _joined(blocks)


def _joined(blocks: Sequence[str]) -> str:
    """Join blocks, those of code that follow one another into one."""
    joined = "\n\n".join(blocks)
    return re.sub(r"\n```\n\n```(?:text|pycon)\n", "\n\n", joined)


def docstring(doc: str | None, *, without_first: bool = False, skip: Sequence[str] = ()) -> str:
    """Return a docstring as Markdown: prose, then tables for Args and Attributes, lists for the rest."""
    blocks = []
    for place, (heading, body) in enumerate(sections(doc)):
        if heading in skip:
            continue
        if not heading:
            text = body.partition("\n")[2] if without_first and place == 0 else body
            blocks.append(prose(text))
        elif heading in ("Args", "Attributes"):
            rows = [[code(name) if name else "", escaped(meaning, in_table=True)] for name, meaning in entries(body)]
            blocks.append(table(["Argument" if heading == "Args" else "Attribute", "Meaning"], rows))
        elif heading in ("Example", "Examples"):
            blocks.append(f"```pycon\n{body}\n```")
        elif heading == "Raises":
            listed = [f"- {code(name) + ': ' if name else ''}{escaped(meaning)}" for name, meaning in entries(body)]
            blocks.append("Raises:\n\n" + "\n".join(listed))
        else:
            blocks.append(f"**{heading}.** {prose(body)}")
    return "\n\n".join(filter(None, blocks)) + "\n"


def signature(function: Any, name: str, *, skip: Sequence[str] = ()) -> str:
    """Return a signature as a block of Python, one parameter per line where it is long."""
    parts, star = [], False
    for each in inspect.signature(function).parameters.values():
        if each.name in ("self", *skip):
            continue
        if each.kind is each.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        star = star or each.kind is each.VAR_POSITIONAL
        prefix = "*" if each.kind is each.VAR_POSITIONAL else "**" if each.kind is each.VAR_KEYWORD else ""
        kind = "" if each.annotation is each.empty else f": {annotation(each.annotation)}"
        default = "" if each.default is each.empty else f"{' = ' if kind else '='}{_shown(each.default)}"
        parts.append(f"{prefix}{each.name}{kind}{default}")
    returned = inspect.signature(function).return_annotation
    arrow = "" if returned is inspect.Signature.empty or inspect.isclass(function) else f" -> {annotation(returned)}"
    line = f"{name}({', '.join(parts)}){arrow}"
    if len(line) > 88:
        line = f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){arrow}"
    return f"```python\n{line}\n```\n"


def annotation(value: Any) -> str:
    """Return an annotation as it was written."""
    return value if isinstance(value, str) else getattr(value, "__name__", str(value))


def _shown(default: Any) -> str:
    text = repr(default)
    return "..." if text.startswith("<") else text.replace("'", '"')
