"""Which device to compute on, and how much memory is free there."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from embedscope.arguments import check_number, displayed
from embedscope.errors import InputError, UsageError
from embedscope.text import counted

# What is taken to be free where the system does not tell: on Windows.
_UNKNOWN = 4 * 2**30


def free_memory(device: torch.device) -> int:
    """Return how many bytes are free: on the GPU, or of the machine's memory and of what its control group leaves."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            free.append(int(limit) - int((group / "memory.current").read_text(encoding="ascii")))
    except OSError:
        pass  # no Linux, or no control groups: what was found so far has to do
    if not free and hasattr(os, "sysconf"):
        free.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return max(min(free, default=_UNKNOWN), 0)


def parse_bytes(text: str) -> int:
    """Read a size such as 500MB, 4 GB or 1.5G; UsageError for anything else. Units are powers of 1024.

    >>> parse_bytes("1.5G") == 3 * 2**29
    True
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise UsageError(f"cannot read the size '{text}'; use a form such as 500MB or 4GB")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def memory_limit(given: float | str | None, *, least: int = 2**24) -> int | None:
    """Return a memory limit in bytes, given as a number or a size such as "4GB"; None for none.

    UsageError for anything else, and for fewer than `least` bytes: a run takes several times 16 MB for torch itself.

    >>> memory_limit("1GB") == memory_limit(2**30) == 2**30
    True
    """
    if given is None:
        return None
    if isinstance(given, str):
        size = parse_bytes(given)
    else:
        try:
            size = int(check_number("", given))
        except UsageError as error:
            raise UsageError(f"`memory=` takes a number of bytes, or a size such as '4GB'; got {displayed(given)}") from error
    if size < least:
        lowest = "16 MB" if least == 2**24 else counted(least, "byte")
        size_given = f"{size / 2**20:.1f} MB" if size >= 2**17 else str(size)
        raise UsageError(f"a memory limit of {size_given} is too small to work with; give at least {lowest}")
    return size


def choose(name: str | torch.device, *, float64: bool = False) -> torch.device:
    """Turn `auto`, `cpu`, `cuda`, `cuda:N` or `mps` into a device that is there.

    Only `auto` falls back (CUDA, then MPS, then CPU): a device that was named and is absent raises InputError, because a
    silent run on the CPU is fifty times slower and nobody notices. With `float64`, MPS is left out: it has no such numbers.
    """
    if not isinstance(name, str | torch.device):
        raise UsageError(f"no device {displayed(name)}; choose auto, cpu, cuda, cuda:N or mps")
    mps = torch.backends.mps.is_available() and not float64
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device '{name}'; choose auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise InputError(
                f"device {name} is not available: torch sees {count} CUDA devices; use `device='auto'` or `device='cpu'`"
            )
    elif device.type == "mps":
        if not mps:
            lack = "does not support float64, which is required here" if float64 else "is not available"
            raise InputError(f"device mps {lack}; use `device='auto'` or `device='cpu'`")
    elif device.type != "cpu" or device.index:
        raise UsageError(f"no device '{name}'; choose auto, cpu, cuda, cuda:N or mps")
    return device
