"""Run somebody's module and leave it, and the random numbers of the program, as they were."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from embedscope.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator


def unwrapped(module: nn.Module) -> nn.Module:
    """Take a module out of what torch.compile, DataParallel and DistributedDataParallel put around it: the same weights."""
    wrapper = isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel)
    inner = getattr(module, "module" if wrapper else "_orig_mod", None)
    return unwrapped(inner) if isinstance(inner, nn.Module) else module


@contextmanager
def borrowed(module: nn.Module) -> Iterator[torch.device]:
    """Give the module's device; put back afterwards its device, the mode of each part, and the states of random numbers.

    Random numbers are those of Python, NumPy and torch: a transform or a shuffled loader draws from any of them.

    InputError for a module whose parameters are on several devices.
    """
    devices = {tensor.device for tensor in [*module.parameters(), *module.buffers()]} or {torch.device("cpu")}
    if len(devices) > 1:
        raise InputError(f"the module is on several devices ({', '.join(sorted(map(str, devices)))}); bring it to one")
    (device,) = devices
    modes = [(each, each.training) for each in module.modules()]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global state is what a transform draws from
    accelerator: Any = torch.mps if torch.backends.mps.is_available() else None
    drawn = accelerator and accelerator.get_rng_state()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield device
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        if drawn is not None:
            accelerator.set_rng_state(drawn)
        module.to(device)
        for each, training in modes:
            each.training = training
