"""Losses: a file each, whose class or function has the file's name; expression.py composes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class LossDeclaration:
    """What is known of a loss beside its values: the DOI or arXiv id that it is from."""

    reference: str


def loss(*, reference: str) -> Callable[[F], F]:
    """Declare `foo(num_classes, dim, *, options) -> nn.Module` as a loss.

    The module's `forward(features (B, D), labels (B,), logits (B, K))` returns a scalar. Parameters that it owns join the
    optimiser.
    """

    def declare(factory: F) -> F:
        factory.declaration = LossDeclaration(reference)  # type: ignore[attr-defined]
        return factory

    return declare
