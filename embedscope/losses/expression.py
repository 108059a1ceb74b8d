"""Objectives as one writes them: `ce + 0.5*silhouette(tau_s=0.05)`, `ce + 0.5*silhouette@10`.

    objective = term ("+" term)*
    term      = [weight "*"] name ["." member] ["(" options ")"] ["@" epoch]

The weight is a number >= 0 and 1 if left out. A term counts from its epoch on, epochs counted from 1; before it is switched on
it is not computed. Dashes and underscores are the same. Options are literals; nothing is evaluated. A member is one of a
family of losses: `pml.SupConLoss(temperature=0.07)` is `pml(loss='SupConLoss(temperature=0.07)')`.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from embedscope import plugins
from embedscope.errors import UsageError, check_number

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Term:
    """One summand: the loss, its weight, and the epoch (from 1) at which it is switched on."""

    spec: plugins.Spec
    weight: float = 1.0
    start: int = 1


class Objective(nn.Module):
    """A weighted sum of losses: `objective(features (B, D), labels (B,), logits (B, K)) -> scalar`.

    Call `start_epoch` at the start of each epoch of a training: terms with an `@` are switched on by it, and losses that
    change with the epoch, which have a `start_epoch` of their own, are told. Without it every batch is of the first epoch.

    Attributes:
        names: of the terms, in order; a second `silhouette` is `silhouette_2`.
        terms: name -> 0-d tensor, the value of that loss at the last call, before its weight and without a graph; a term that
            is switched off is absent.
        epoch: counted from 1, what `start_epoch` was last called with; setting it alone switches terms with an `@` on and off,
            and tells no loss.
    """

    def __init__(self, terms: list[Term], losses: list[nn.Module]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)
        self.schedule = tuple((term.weight, term.start) for term in terms)
        names = [plugins.canonical(term.spec.name) for term in terms]
        before = [names[:position].count(name) for position, name in enumerate(names)]
        self.names = tuple(f"{name}_{n + 1}" if n else name for name, n in zip(names, before, strict=True))
        self.terms: dict[str, Tensor] = {}
        self.epoch = 1

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Go on to an epoch, counted from 1, of a planned number; the losses that have a `start_epoch` are called with both.

        A term with an `@` is told of every epoch of the training, also before it is switched on.
        """
        self.epoch = epoch
        for loss in self.losses:
            start = getattr(loss, "start_epoch", None)
            if start is not None:
                start(epoch, epochs)

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """Compute the weighted sum of the terms that are switched on; 0 with a graph if there is none."""
        total = (features.sum() + logits.sum()) * 0
        self.terms = {}
        for name, (weight, start), loss in zip(self.names, self.schedule, self.losses, strict=True):
            if self.epoch >= start:
                value = loss(features, labels, logits)
                self.terms[name] = value.detach()
                total = total + weight * value
        return total


def build(expression: str, num_classes: int, dim: int) -> Objective:
    """Make the objective that an expression describes, for K classes and (B, dim) features.

    UsageError, pointing at the place, for anything that is not in the grammar; for an unknown loss or option, with the nearest.
    """
    terms = parse(expression)
    losses = []
    for term in terms:
        factory, spec = _resolved(term.spec)
        losses.append(factory(num_classes, dim, **plugins.bind(factory, spec)))
    return Objective(terms, losses)


def _resolved(spec: plugins.Spec) -> tuple[Callable[..., nn.Module], plugins.Spec]:
    """Find the plugin of a term and what to ask of it: of `pml.Foo(x=1)`, `pml` and `pml(loss='Foo(x=1)')`."""
    name, dot, member = spec.name.partition(".")
    factory = plugins.load("losses", name)
    if not dot:
        return factory, spec
    if not getattr(getattr(factory, "declaration", None), "family", False):
        raise UsageError(f"no loss '{spec.name}': {name} is a single loss, without a dot")
    return factory, plugins.Spec(name, options={"loss": str(replace(spec, name=member))})


def parse(expression: str) -> list[Term]:
    """Read an expression into its terms.

    >>> [str(term.spec) for term in parse("ce + 0.5*soft-silhouette(tau_s=0.05)@10")]
    ['ce', 'soft_silhouette(tau_s=0.05)']
    """
    # Inside a name a dash is an underscore; between terms it would be a minus, which no objective has.
    text = re.sub(r"""('[^']*'|"[^"]*")|(?<=[A-Za-z_])-(?=[A-Za-z_])""", lambda match: match[1] or "_", expression)
    if not text.strip():
        raise UsageError("the objective is empty; expected a loss, as in ce + 0.5*silhouette")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (MemoryError, RecursionError) as error:
        raise UsageError("the objective is nested too deeply to be read") from error
    except SyntaxError as error:
        # Python counts from 1, and gives 0 for an expression that ends too early.
        place = error.offset - 1 if error.offset else len(text.strip())
        raise _misread(text.strip(), place, "this cannot be read") from error
    return [_term(text.strip(), node) for node in _summands(text.strip(), tree)]


def _summands(text: str, node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_summands(text, node.left), *_summands(text, node.right)]
    return [node]


def _term(text: str, node: ast.expr) -> Term:
    # `0.5*gini@10` is read by Python as (0.5*gini) @ 10: the epoch is the outermost.
    start, weight = 1, 1.0
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        start = _number(text, node.right, "the epoch after '@' has to be a whole number from 1", whole=True)
        node = node.left
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        weight = _number(text, node.left, "the weight before '*' has to be a number from 0")
        node = node.right
    name: ast.expr = node
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = {}
    if isinstance(node, ast.Call):
        name = node.func
        try:
            args, options = plugins.literals(node)
        except ValueError as error:
            raise _misread(text, node.col_offset, "options have to be literals, as in silhouette(tau_s=0.1)") from error
    if not isinstance(name, ast.Name | ast.Attribute):
        raise _misread(text, node.col_offset, "expected a loss, as in ce + 0.5*silhouette(tau_s=0.1)@10")
    return Term(plugins.Spec(ast.unparse(name), args, options), weight, start)


def _number(text: str, node: ast.expr, problem: str, *, whole: bool = False) -> Any:
    try:
        value = ast.literal_eval(node)
        check_number("", value, low=int(whole))
    except (ValueError, UsageError) as error:
        raise _misread(text, node.col_offset, problem) from error
    if whole and not isinstance(value, int):
        raise _misread(text, node.col_offset, problem)
    return value


def _misread(text: str, column: int, problem: str) -> UsageError:
    # A caret below the place would need a second line; an error has one.
    return UsageError(f"objective '{text[:column]}»{text[column:]}': {problem}")
