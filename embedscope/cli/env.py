"""`embedscope env`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from typing import Any

from embedscope.cli.console import print_json, show
from embedscope.cli.options import Json


def env(json: Json = False) -> None:
    """Print versions, devices and thread counts for bug reports."""
    found = _environment()
    if json:
        print_json(found)
        return
    for part, values in found.items():
        show(f"{part}: {values or 'none'}" if not isinstance(values, dict) or not values else part)
        for name, value in values.items() if isinstance(values, dict) else ():
            show(f"  {name}: {'not installed' if value is None else value}")


def _environment() -> dict[str, Any]:
    import torch

    from embedscope import devices
    from embedscope._version import __version__

    def device(index: int) -> str:
        facts = torch.cuda.get_device_properties(index)
        return f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, compute capability {facts.major}.{facts.minor}"

    cudnn: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return {
        "embedscope": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "packages": {name: _version(name) for name in _requirements()},
        "devices": {
            "cpu": f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} usable cores, "
            f"{devices.free_memory(torch.device('cpu')) / 2**30:.1f} GiB of memory free",
            **{f"cuda:{index}": device(index) for index in range(torch.cuda.device_count())},
            "mps": "available" if torch.backends.mps.is_available() else "not there",
        },
        "cuda": {"built for": torch.version.cuda or "no CUDA", "cudnn": cudnn or "no cuDNN"},
        "threads": {
            "torch": torch.get_num_threads(),
            "torch between operations": torch.get_num_interop_threads(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        },
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith("EMBEDSCOPE_")},
    }


def _requirements() -> list[str]:
    """Return the dependencies of embedscope, with those of the extras that users install, from its metadata.

    Its own name without metadata.
    """
    try:
        lines = importlib.metadata.requires("embedscope") or []
    except importlib.metadata.PackageNotFoundError:  # run from a folder
        return ["embedscope"]
    names = [
        match[0]
        for line in lines
        if not re.search("extra == .(dev|docs)", line) and (match := re.match(r"[A-Za-z0-9_.-]+", line))
    ]
    return [name for name in dict.fromkeys(names) if name != "embedscope"]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
