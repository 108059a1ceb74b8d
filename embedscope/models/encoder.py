"""The records of a model that is ready to run, which every model source returns."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from embedscope.store.provenance import ModelOrigin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    # B items of a data set as they come to a model's preparation: a list of them, or a (B, ...) Tensor.
    Items = Sequence[Any] | Tensor


class Preparation(Protocol):
    """Turns items of a Dataset into what a model takes. Picklable, because worker processes do it."""

    @property
    def text(self) -> str:
        """What it does, with the values used, for the record."""
        ...

    def __call__(self, items: Items, /) -> Any:
        """Prepare a batch: B items, or a (B, ...) Tensor of them -> (B, ...) Tensor, or a mapping of such Tensors by name.

        InputError for items that are of the wrong kind, or differ in shape.
        """
        ...


@dataclass(frozen=True)
class Weights:
    """Where a model's parameters and buffers came from.

    Attributes:
        file: the checkpoint, or None if the model's source filled them.
        sha256: of that file (hex), or None.
        matched: parameters and buffers that were filled, by name.
        missing: those that were not and keep their initial values: not in the file, or with another shape there.
        left_over: names in the file that match nothing in the model.
        origin: which part of the file was used, such as "state_dict, without the prefix model.".
        notes: one sentence for each thing that the user should know.
    """

    file: str | None = None
    sha256: str | None = None
    matched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()
    origin: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class Encoder:
    """A model that is ready to run; compared by identity.

    Attributes:
        module: the network, in evaluation mode.
        prepare: converts items of a Dataset to a batch.
        spec: what the user typed.
        code_sha256: hash (hex) of the Python file that defines the model, or None if its library's version identifies it.
        weights: where the parameters came from; None if they are the model's initial ones.
        call: runs the module on a batch; None calls it with a Tensor as its argument, a mapping as its keyword arguments.
        embedding: the default embedding layer; None for the input of the last Linear that runs.
        outputs: names of the model's outputs, if they are known before it runs.
        outputs_only: why inner layers cannot be reached, or None if they can.
        batch_size: the only batch size that the module accepts, or None for any.
        device: the only kind of device that the module runs on ("cpu", "cuda"), or None for any.
        remake: recreates the module with other random weights from a seed; None if the weights are not random.
    """

    module: nn.Module
    prepare: Preparation
    spec: str
    weights: Weights | None = None
    call: Callable[[nn.Module, Any], Any] | None = None
    embedding: str | None = None
    outputs: tuple[str, ...] = ()
    outputs_only: str | None = None
    batch_size: int | None = None
    device: str | None = None
    code_sha256: str | None = None
    remake: Callable[[int], nn.Module] | None = None

    def __repr__(self) -> str:
        count = sum(0 if is_lazy(each) else each.numel() for each in self.module.parameters())
        return f"Encoder {self.spec!r}: {type(self.module).__name__} with {count:,} parameters"


def weights_digest(encoder: Encoder) -> str:
    """Hash the parameters and buffers of a model; sha256 (hex)."""
    digest = hashlib.sha256()
    for name, tensor in encoder.module.state_dict().items():
        if not isinstance(tensor, Tensor):  # a module may keep extra state of any kind
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def model_origin(encoder: Encoder) -> ModelOrigin:
    """Return what provenance records of a model that is ready to run."""
    weights = encoder.weights or Weights()
    return ModelOrigin(
        spec=encoder.spec,
        code_sha256=encoder.code_sha256,
        checkpoint=weights.file,
        sha256=weights.sha256,
        weights_sha256=None if weights.sha256 else weights_digest(encoder),
        origin=None if encoder.weights is None else weights.origin,
        matched=tuple(weights.matched),
        missing=tuple(weights.missing),
    )
