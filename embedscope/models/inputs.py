"""What goes into a model: a tensor, or a mapping of tensors by name; B rows each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from embedscope.errors import InputError
from embedscope.models.layers import first_tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


def call(module: nn.Module, inputs: Any) -> Any:
    """Run a module on a tensor as its argument, on a mapping as its keyword arguments."""
    return module(**inputs) if isinstance(inputs, Mapping) else module(inputs)


def mapped(change: Callable[..., Tensor], inputs: Any, *others: Any) -> Any:
    """Apply a function to a tensor, or to each tensor of a mapping."""
    if not isinstance(inputs, Mapping):
        return change(inputs, *others)
    return {
        name: change(value, *(other[name] for other in others)) if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }


def cut(inputs: Any, start: int, stop: int) -> Any:
    """Take the rows from `start` to `stop`."""
    return mapped(lambda tensor: tensor[start:stop], inputs)


def repeated(inputs: Any, count: int) -> Any:
    """Repeat the first row."""
    return mapped(lambda tensor: tensor[:1].expand(count, *tensor.shape[1:]).contiguous(), inputs)


def count_rows(inputs: Any) -> int:
    """Return B; InputError for what is not a tensor or a mapping of tensors."""
    tensor = first_tensor(inputs)
    if tensor is None or not tensor.ndim:
        raise InputError(f"preparing the inputs gave {type(inputs).__name__}, expected a tensor or a mapping of tensors")
    return len(tensor)


def shapes(inputs: Any) -> str:
    """Word the shapes, for a message."""
    if isinstance(inputs, Mapping):
        return ", ".join(f"{name} {tuple(value.shape)}" for name, value in inputs.items() if isinstance(value, Tensor))
    return f"shape {tuple(inputs.shape)}"
