"""Where numba and matplotlib keep what they compiled or found: somewhere that can be written, even in a container."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from embedscope.errors import OutputError

# Variable that names a library's cache, and packages beside whose files that library keeps it first; none for matplotlib,
# which has it in the home only.
_CACHES = {"NUMBA_CACHE_DIR": ("pynndescent", "umap"), "MPLCONFIGDIR": ()}


@cache
def provide_caches() -> None:
    """Point numba and matplotlib to a temporary directory if they have nowhere to write; call it before they are imported.

    numba refuses to compile without a place to keep the result, and matplotlib warns. The directory is this process's own and
    is removed when it ends: others cannot put code there. OutputError if there is no place for it.
    """
    lacking = [name for name, packages in _CACHES.items() if name not in os.environ and not _has_place(packages)]
    if not lacking:
        return
    try:
        folder = tempfile.mkdtemp(prefix="embedscope-")
    except OSError as error:
        raise OutputError(f"no writable temporary directory ({error.strerror}); set TMPDIR to one") from error
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in lacking:
        os.environ[name] = folder


def _has_place(packages: tuple[str, ...]) -> bool:
    try:
        if _writable(Path.home() / ".cache"):
            return True
    except RuntimeError:  # nobody knows where the home is
        pass
    found = [importlib.util.find_spec(package) for package in packages]
    return bool(packages) and all(each is not None and each.origin and _writable(Path(each.origin).parent) for each in found)


def _writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or the nearest one above that exists: tried, as permissions do not tell all."""
    try:
        with tempfile.TemporaryFile(dir=next(each for each in (folder, *folder.parents) if each.exists())):
            return True
    except OSError:
        return False
