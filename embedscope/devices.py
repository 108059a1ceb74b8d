"""Which device to compute on."""

from __future__ import annotations

import torch

from embedscope.errors import InputError, UsageError


def choose(name: str, *, float64: bool = False) -> torch.device:
    """Turn `auto`, `cpu`, `cuda`, `cuda:N` or `mps` into a device that is there.

    Only `auto` falls back (CUDA, then MPS, then CPU): a device that was named and is absent raises InputError, because a
    silent run on the CPU is fifty times slower and nobody is told. With `float64`, MPS is no choice: it has no such numbers.
    """
    mps = torch.backends.mps.is_available() and not float64
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device '{name}'; it is one of auto, cpu, cuda, cuda:N, mps") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise InputError(f"device {name} is not there: torch sees {count} CUDA devices; use --device auto or cpu")
    elif device.type == "mps":
        if not mps:
            lack = "has no float64, which this needs" if float64 else "is not there"
            raise InputError(f"device mps {lack}; use --device auto or cpu")
    elif device.type != "cpu":
        raise UsageError(f"no device '{name}'; it is one of auto, cpu, cuda, cuda:N, mps")
    return device
