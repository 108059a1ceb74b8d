"""What hatchling runs when it builds: packs sample_data for `embedscope demo`, and makes the links of README absolute."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

# The same bytes from the same files, whenever and wherever they are built.
_WRITTEN = (1980, 1, 1, 0, 0, 0)
# Code, which stays; or where the target of a Markdown link or an HTML attribute begins, unless it has a scheme or a host, or is
# an anchor. README has no other form of a link; tests/test_packaging.py holds that.
_LINK = re.compile(
    r"(?P<code>```.*?```|`[^`\n]*`)|(?:(?P<picture>!\[[^\]]*\]\(|\bsrc(?:set)?=\")|\]\(|\bhref=\")"
    r"(?![A-Za-z][\w+.-]*:|//|#)",
    re.DOTALL,
)


class SampleData(BuildHookInterface):  # type: ignore[type-arg]
    """Add embedscope/sample_data.zip to a wheel; an editable install has sample_data itself."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Pack the archive, and have it included."""
        if version == "editable":
            return
        source, archive = Path(self.root) / "sample_data", Path(self.directory) / "sample_data.zip"
        archive.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in sorted(each for each in source.rglob("*") if each.is_file() and "__pycache__" not in each.parts):
                name = zipfile.ZipInfo(path.relative_to(source).as_posix(), _WRITTEN)
                packed.writestr(name, path.read_bytes(), zipfile.ZIP_DEFLATED)
        build_data["force_include"][str(archive)] = "embedscope/sample_data.zip"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Leave nothing but what was asked for beside the wheel."""
        (Path(self.directory) / "sample_data.zip").unlink(missing_ok=True)


class Readme(MetadataHookInterface):
    """Show README on a package index, where relative links break: they point to the repository at the version's tag."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the readme."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        absolute = with_absolute_links(text, metadata["urls"]["Repository"], f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute}


def with_absolute_links(text: str, repository: str, tag: str) -> str:
    """Return Markdown whose relative links point to a GitHub repository at a tag, pictures to their bytes."""
    page, raw = f"{repository}/blob/{tag}/", f"{repository.replace('github.com', 'raw.githubusercontent.com')}/{tag}/"

    def absolute(match: re.Match[str]) -> str:
        return match[0] if match["code"] else match[0] + (raw if match["picture"] else page)

    return _LINK.sub(absolute, text)
