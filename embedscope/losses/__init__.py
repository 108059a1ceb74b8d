"""Losses: one file per loss, whose class or function is named after the file; expression.py composes them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from embedscope.ops.pairwise import working_dtype

F = TypeVar("F", bound=Callable[..., Any])

# What a loss may read of a network with a loss layer, see `loss`.
READS = ("embedding", "layer", "magnitudes")


@dataclass(frozen=True)
class LossDeclaration:
    """What is known of a loss beside its values.

    Attributes:
        reference: DOI or arXiv id of its source.
        classes: how many classes a batch needs; with fewer the loss is 0 with a graph, without a call of its formula.
        family: whether it stands for several: `foo.Bar(margin=1)` in an objective is `foo(loss='Bar(margin=1)')`.
        reads: what its features are if a network is trained with a loss layer, see `loss`.
    """

    reference: str
    classes: int = 1
    family: bool = False
    reads: str = "embedding"


def loss(*, reference: str, classes: int = 1, family: bool = False, reads: str = "embedding") -> Callable[[F], F]:
    """Declare `foo(num_classes, dim, *, options) -> nn.Module` as a loss, and look after all that is not its formula.

    `foo` is a class, or a function that returns a module. The module has `forward(features (B, D), labels (B,), logits (B, K))
    -> scalar`; or `per_sample`, with the same arguments, -> (B,), whose mean is then the loss and whose values can be weighted.
    Features and logits reach either of them in float32 at least (float64 stays), outside of autocast; `self.given_dtype` is the
    dtype that the features had. Parameters that the module owns join the optimizer.

    Args:
        reference: DOI or arXiv id, as in "arXiv:2004.11362".
        classes: 1, or 2 for a loss that compares classes: a batch of one class then gives 0 with a graph.
        family: see `LossDeclaration`.
        reads: features of a network that is trained with a loss layer: its "embedding"; the pooled rows of the loss "layer"; or
            the "magnitudes" there, the mean of |activation| over positions for each channel. Without a loss layer, all losses
            read the embedding.

    Raises:
        TypeError: the class has neither `forward` nor `per_sample`, or with other arguments; the function gave no module.
    """
    if classes not in (1, 2):
        raise ValueError(f"the `classes` of a loss must be 1 or 2, got {classes}")
    if reads not in READS:
        raise ValueError(f"the `reads` of a loss must be one of {', '.join(READS)}, got {reads}")
    declaration = LossDeclaration(reference, classes, family, reads)

    def declare(factory: Any) -> Any:
        if inspect.isclass(factory):
            _complete(factory)  # type: ignore[arg-type]
            factory.declaration = declaration  # type: ignore[attr-defined]
            return factory

        @functools.wraps(factory)
        def make(*args: Any, **options: Any) -> nn.Module:
            module = factory(*args, **options)
            if not isinstance(module, nn.Module):
                raise TypeError(f"the loss {factory.__name__} returned {type(module).__name__}, expected a torch.nn.Module")
            _complete(type(module))
            module.declaration = declaration  # type: ignore[assignment]
            return module

        make.declaration = declaration  # type: ignore[attr-defined]
        return make

    return declare


def _complete(made: type[nn.Module]) -> None:
    """Wrap the formulas of a class, once. Modules stay instances of it: pickle, deepcopy and state_dict see no change."""
    if hasattr(made, "per_sample"):
        made.per_sample = _precise(made.per_sample)
        if made.forward is nn.Module.forward:
            made.forward = _mean_of_samples
    elif made.forward is nn.Module.forward:
        raise TypeError(f"the loss {made.__name__} has neither forward nor per_sample")
    if made.forward is not _mean_of_samples:
        made.forward = _precise(made.forward, reduced=True)


def _precise(formula: Any, *, reduced: bool = False) -> Any:
    """Compute a formula in float32 at least, outside of autocast; for too few classes give zeros, or their sum if `reduced`."""
    if hasattr(formula, "is_precise"):  # of a class that was completed before, or of its base
        return formula
    taken = list(inspect.signature(formula).parameters)[1:]
    if taken != ["features", "labels", "logits"]:  # a class of torch, say, that is not to be changed under others
        raise TypeError(f"{formula.__qualname__} takes ({', '.join(taken)}); a loss takes (features, labels, logits)")

    @functools.wraps(formula)
    def compute(self: nn.Module, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            self.given_dtype = features.dtype  # type: ignore[assignment]
            features = features.to(working_dtype(features.dtype))
            logits = logits.to(working_dtype(logits.dtype))
            classes: int = getattr(getattr(self, "declaration", None), "classes", 1)
            if classes > 1 and not _looks_itself(self) and not bool((labels[1:] != labels[:-1]).any()):
                nothing = (features.sum(dim=1) + logits.sum(dim=1)) * 0
                return nothing.sum() if reduced else nothing
            value: Tensor = formula(self, features, labels, logits)
            return value

    compute.is_precise = True  # type: ignore[attr-defined]
    return compute


def _looks_itself(module: nn.Module) -> bool:
    """Whether a loss that is being compiled gives 0 for too few classes by itself: to ask the labels would break the graph."""
    return torch.compiler.is_compiling() and bool(getattr(module, "one_graph", False))


def _mean_of_samples(self: Any, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
    """(B, D), (B,), (B, K) -> scalar, the mean of `per_sample`."""
    value: Tensor = self.per_sample(features, labels, logits).mean()
    return value
