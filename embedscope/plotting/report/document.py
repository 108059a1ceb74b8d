"""The page as text: one HTML file with its scripts inside, and a policy that lets nothing else in or out."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

from embedscope import plugins
from embedscope.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping


def plotly_script() -> str:
    """Read the script of the installed plotly; MissingExtraError with the pip line if there is none."""
    script: str = plugins.imported("plotly.offline", extra="report").get_plotlyjs()
    return script


def page(title: str, data: Mapping[str, Any], plotly: str) -> str:
    """Put title, data and scripts into the page. The same arguments give the same text."""
    own = {name: _asset(f"{name}.js") for name in ("reading", "figures", "sections", "rows", "courses", "page")}
    for script in (plotly, *own.values()):
        if re.search(r"</script|<!--", script, re.IGNORECASE):
            raise ValueError("a script that contains </script or <!-- cannot be embedded in a page")
    parts = {
        "policy": _policy([plotly, *own.values()]),
        "title": html.escape(printable(title)),
        "style": _asset("page.css"),
        "data": embedded(data),
        "plotly": plotly,
        **own,
    }
    # One pass: what is put in is not searched again, so data that reads {{plotly}} stays data.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("page.html"))


def embedded(data: Mapping[str, Any]) -> str:
    """Write JSON that can stand in a script element: ASCII, and no character that HTML knows.

    Control characters in texts become escapes that a reader sees.
    """
    text = json.dumps(_shown(data), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value, lines=True)
    if isinstance(value, dict):
        return {_shown(key): _shown(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(each) for each in value]
    return value


def _policy(scripts: list[str]) -> str:
    """Allow the scripts of this page by their hashes, and no request at all.

    plotly compiles its WebGL drawing when it runs, hence 'unsafe-eval', and writes style elements, hence 'unsafe-inline'.
    """
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
