"""What mkdocs calls while it builds: adds the pages of the reference, and llms.txt, to the files of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from _reference import llms, pages  # mkdocs has this folder on the path while it loads the hook
from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated."""
    for uri, text in pages.generate().items():
        files.append(File.generated(config, uri, content=text))
    files.append(File.generated(config, "llms.txt", content=llms.text(config["nav"])))
    return files
