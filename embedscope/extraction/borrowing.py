"""Run somebody's module and leave it, and the random numbers of the program, as they were."""

from __future__ import annotations

import random
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

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
    """Give the module's device; put back afterwards its device and buffers, the mode of each part, and random states.

    Random numbers are those of Python, NumPy and torch: a transform or a shuffled loader draws from any of them. Inside, an
    autocast that surrounds the call is off, and what torch.compile made is not used: it would pass by hooks that came later.

    InputError for a module whose parameters are on several devices.
    """
    devices = {tensor.device for tensor in [*module.parameters(), *module.buffers()]} or {torch.device("cpu")}
    if len(devices) > 1:
        raise InputError(f"the module is on several devices ({', '.join(sorted(map(str, devices)))}); move it to one")
    (device,) = devices
    modes = [(each, each.training) for each in module.modules()]
    buffers = {name: (each, each._version, each.clone()) for name, each in module.named_buffers() if _is_plain(each)}
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global state is what a transform draws from
    accelerator: Any = torch.mps if torch.backends.mps.is_available() else None
    drawn = accelerator and accelerator.get_rng_state()
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(range(torch.cuda.device_count())))
            for kind in {"cpu", device.type}:
                stack.enter_context(torch.autocast(kind, enabled=False))
            if "torch._dynamo" in sys.modules:  # which whatever is compiled has imported
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield device
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        if drawn is not None:
            accelerator.set_rng_state(drawn)
        module.to(device)
        for name, buffer in module.named_buffers():
            if name not in buffers:
                continue
            was, version, values = buffers[name]
            if (buffer is not was or buffer._version != version) and buffer.shape == values.shape:
                with torch.no_grad():
                    buffer.copy_(values)
        for each, training in modes:
            each.training = training


def _is_plain(buffer: torch.Tensor) -> bool:
    """Whether a buffer holds values that can be kept and put back."""
    return not (is_lazy(buffer) or buffer.is_meta or buffer.is_inference()) and buffer.layout is torch.strided
