"""The pages of the reference: where each lies, its title, and what fills it."""

from __future__ import annotations

import json

from . import command_page, format_pages, plugin_pages, python_page

# File -> title, one sentence for search engines and llms.txt, and the function that fills it.
PAGES = {
    "cli.md": ("Command line", "Every command and option of embedscope.", command_page.command_line),
    "metrics.md": ("Metrics", "Every metric: direction, range, invariances, options and source.", plugin_pages.metrics),
    "losses.md": ("Losses", "Every loss that an objective may contain, with its options and source.", plugin_pages.losses),
    "plots.md": ("Plot kinds", "Every kind of plot and its options.", plugin_pages.plots),
    "sources.md": ("Models and data", "Where models and labeled data may come from.", plugin_pages.sources),
    "python.md": ("Python", "The public functions and records.", python_page.python),
    "json.md": ("JSON", "Every key of score --json and of a run's run.json.", format_pages.json_keys),
    "store.md": ("Feature store", "The layout of the HDF5 files that extract writes.", format_pages.store),
}


def generate() -> dict[str, str]:
    """Return every page of the reference: address -> Markdown."""
    return {
        f"reference/{name}": f"---\ndescription: {json.dumps(summary)}\n---\n\n# {title}\n\n{fill()}"
        for name, (title, summary, fill) in PAGES.items()
    }
