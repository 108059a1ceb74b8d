"""Where and how exactly a model is computed: device, precision, and what it means that memory ran out."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from embedscope import devices
from embedscope.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedscope.models.encoder import Encoder


class OutOfDeviceMemoryError(Exception):
    """The device has no memory left for a forward pass."""


def device_of(encoder: Encoder, name: str) -> torch.device:
    """Choose the device of a model; InputError if it runs on another kind only."""
    if encoder.device is not None and name == "auto":
        name = encoder.device
    where = devices.choose(name)
    if encoder.device is not None and where.type != encoder.device:
        raise InputError(f"{encoder.spec} only runs on {encoder.device}, not on {name}; omit `device=`")
    return where


def autocast_type(device: torch.device) -> torch.dtype:
    """Which half precision torch.autocast takes there."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.float16 if device.type == "mps" else torch.bfloat16


@contextmanager
def numerics(device: torch.device, *, exact: bool, deterministic: bool) -> Iterator[None]:
    """Compute in full float32 unless less was asked for, and deterministically where it was; leave torch as it was found.

    A GPU's TF32, which convolutions use by default, rounds inputs to 11 bits: results would differ from the CPU's by 1e-3.
    """
    cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    algorithms, workspace = torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    if device.type == "cuda" and exact:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS refuses
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        if device.type == "cuda" and exact:
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = cudnn, matmul
        if deterministic:
            torch.use_deterministic_algorithms(algorithms)
            if workspace is None:
                del os.environ["CUBLAS_WORKSPACE_CONFIG"]


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and ("can't allocate memory" in str(error) or "out of memory" in str(error))
