"""Escaping of untrusted text, such as names in files, for terminals, pictures and pages; and text tables."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Controls (C0 with ESC, DEL, C1), line and paragraph separators, marks and overrides of writing direction, lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_UNSAFE_IN_LINES = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return the text with every character that could steer a terminal, or hide or reorder text, written as an escape.

    Bytes of a file name that are not UTF-8, which Python holds as lone surrogates, become escapes too. With `lines`, line
    breaks stay.

    >>> print(printable("\x1b[31mred"), printable("a\u202eb"), printable("bad\udcff"))
    \x1b[31mred a\u202eb bad\xff
    """
    return (_UNSAFE_IN_LINES if lines else _UNSAFE).sub(_escape, text)


def counted(count: int, noun: str, plural: str = "", *, of: str = "") -> str:
    """Return a count with its noun, or with the verb of a part `of` something, in the plural unless there is one.

    The plural adds "s", or "es" after an "s"; pass any other, such as boxes or entries, as `plural`.

    >>> counted(1, "row"), counted(1200, "row"), counted(2, "class"), counted(1, "class has", "classes have")
    ('1 row', '1,200 rows', '2 classes', '1 class has')
    >>> counted(1, "is", "are", of=counted(40, "row")), counted(2, "is", "are", of=counted(40, "row"))
    ('1 of 40 rows is', '2 of 40 rows are')
    """
    what = noun if count == 1 else plural or noun + ("es" if noun.endswith("s") else "s")
    return f"{count:,} of {of} {what}" if of else f"{count:,} {what}"


def decoded(name: str) -> str:
    r"""Return a file name as text that can be encoded: bytes that are not UTF-8 become escapes, everything else stays.

    >>> print(decoded("bad\udcff"))
    bad\xff
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lay out a table of text, its first line the heading: the first column to the left, all others to the right.

    >>> print(aligned([["metric", "late"], ["silhouette", "0.5"]]))
    metric      late
    silhouette   0.5
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def html_table(lines: Sequence[Sequence[str]]) -> str:
    """Lay out the same table in HTML, as notebooks show it.

    >>> html_table([["metric", "late"], ["a < b", "0.5"]])
    '<table><thead><tr><th>metric</th><th>late</th></tr></thead><tbody><tr><th>a &lt; b</th><td>0.5</td></tr></tbody></table>'
    """
    head, *rows = [[html.escape(cell) for cell in line] for line in lines]
    body = "".join(f"<tr><th>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows)
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def html_list(heading: str, texts: Sequence[str]) -> str:
    """Lay out texts under a heading in HTML.

    >>> html_list("late", ["a < b"])
    '<p><b>late</b></p><ul><li>a &lt; b</li></ul>'
    """
    items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    return f"<p><b>{html.escape(heading)}</b></p><ul>{items}</ul>"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return {9: "\\t", 10: "\\n", 13: "\\r"}.get(code, f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
