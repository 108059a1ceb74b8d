"""Losses: a file each, whose class or function has the file's name; expression.py composes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class LossDeclaration:
    """What is known of a loss beside its values.

    Attributes:
        reference: the DOI or arXiv id that it is from.
        family: whether it stands for several: `foo.Bar(margin=1)` in an objective is `foo(loss='Bar(margin=1)')`.
    """

    reference: str
    family: bool = False


def loss(*, reference: str, family: bool = False) -> Callable[[F], F]:
    """Declare `foo(num_classes, dim, *, options) -> nn.Module` as a loss.

    The module's `forward(features (B, D), labels (B,), logits (B, K))` returns a scalar. Parameters that it owns join the
    optimiser.
    """

    def declare(factory: F) -> F:
        factory.declaration = LossDeclaration(reference, family)  # type: ignore[attr-defined]
        return factory

    return declare
