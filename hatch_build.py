"""What hatchling runs when it builds a wheel: packs sample_data into one archive, which `embedscope demo` unpacks."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# The same bytes from the same files, whenever and wherever they are built.
_WRITTEN = (1980, 1, 1, 0, 0, 0)


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
