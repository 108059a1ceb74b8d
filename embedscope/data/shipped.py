"""The bundled sample data: digits in class folders, a network, and two of its checkpoints."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from embedscope.errors import InputError, OutputError

_PACKAGE = Path(__file__).parent.parent


def write_sample_data(folder: Path) -> None:
    """Write the sample data atomically to a folder that must not exist yet.

    InputError for an installation without them, OutputError where nothing can be written.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was interrupted
        _unpack(partial)
        partial.rename(folder)
    except OSError as error:
        raise OutputError(f"cannot write the sample data to {folder}: {error.strerror or error}") from error


def _unpack(folder: Path) -> None:
    archive, checkout = _PACKAGE / "sample_data.zip", _PACKAGE.parent / "sample_data"
    if archive.is_file():
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
    elif (checkout / "network.py").is_file():
        shutil.copytree(checkout, folder, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        raise InputError("this installation lacks the sample data; install embedscope from a wheel, or run it from a checkout")
