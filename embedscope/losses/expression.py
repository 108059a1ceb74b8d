"""Objectives as one writes them: `ce + 0.5*silhouette(tau_s=0.05)`, `ce + 0.5*silhouette@10`.

    objective = term ("+" term)*
    term      = [weight "*"] name ["." member] ["(" options ")"] ["@" epoch]

The weight is a number >= 0 and 1 if omitted. A term counts from its epoch on, epochs counted from 1; before it is switched on
it is not computed. Dashes and underscores are the same. Options are literals; nothing is evaluated. A member is one of a
family of losses: `pml.SupConLoss(temperature=0.07)` is `pml(loss='SupConLoss(temperature=0.07)')`.

For a sweep, any number may be a list of them: `expand` makes the grid of objectives.
"""

from __future__ import annotations

import ast
import functools
import itertools
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from embedscope import plugins
from embedscope.arguments import check_number
from embedscope.errors import UsageError
from embedscope.losses import READS

if TYPE_CHECKING:
    from collections.abc import Callable

_LARGEST_GRID = 1000

# Characters of an expression that an error shows on each side of the place.
_SHOWN = 80


@dataclass(frozen=True)
class Term:
    """One summand: the loss, its weight, and the epoch (from 1) at which it is switched on."""

    spec: plugins.Spec
    weight: float = 1.0
    start: int = 1


class Objective(nn.Module):
    """A weighted sum of losses: `objective(features (B, D), labels (B,), logits (B, K)) -> scalar`.

    Call `start_epoch` at the start of each epoch of a training: terms with an `@` are switched on by it, and it calls
    the `start_epoch` of losses that change with the epoch. Without it every batch is of the first epoch.

    Attributes:
        names: of the terms, in order; a second `silhouette` is `silhouette_2`.
        terms: name -> 0-d tensor, the value of that loss at the last call, before its weight and without a graph; a term that
            is switched off is absent.
        reads: what each term reads if there is a loss layer, see `losses.loss`.
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
        self.reads = tuple(reads(each) for each in losses)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Move on to an epoch, counted from 1, of a planned number; the losses that have a `start_epoch` are called with both.

        A term with an `@` is called with every epoch of the training, also before it is switched on.
        """
        self.epoch = epoch
        for loss in self.losses:
            start = getattr(loss, "start_epoch", None)
            if start is not None:
                start(epoch, epochs)

    def forward(
        self,
        features: Tensor,
        labels: Tensor,
        logits: Tensor,
        weights: Tensor | None = None,
        layer: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Compute the weighted sum of the terms that are switched on; 0 with a graph if there is none.

        Weights of the samples (B,) multiply the values per sample of losses that have them, which have a `per_sample`; all
        other terms are as they are without. `layer`, the pooled rows (B, F) and the magnitudes (B, C) of a loss layer, replaces
        the features in the terms that read it.
        """
        sources = {"embedding": features} if layer is None else dict(zip(READS, (features, *layer), strict=True))
        total = (features.sum() + logits.sum()) * 0
        self.terms = {}
        for name, (weight, start), loss, read in zip(self.names, self.schedule, self.losses, self.reads, strict=True):
            if self.epoch >= start:
                rows = sources.get(read, features)
                per_sample: Callable[..., Tensor] | None = getattr(loss, "per_sample", None)
                if weights is None or per_sample is None:
                    value = loss(rows, labels, logits)
                else:
                    value = (weights * per_sample(rows, labels, logits)).mean()
                self.terms[name] = value.detach()
                total = total + weight * value
        return total


def reads(loss: Any) -> str:
    """Return what a loss, or what makes it, reads if there is a loss layer, see `losses.loss`."""
    declared: str = getattr(getattr(loss, "declaration", None), "reads", "embedding")
    return declared


def build(expression: str, num_classes: int, dim: int, layer: tuple[int, int] | None = None) -> Objective:
    """Make the objective that an expression describes, for K classes and (B, dim) features.

    `layer` are the widths F and C of a loss layer, if any.

    UsageError, pointing at the place, for anything that is not in the grammar; for an unknown loss or option, with the nearest.
    """
    terms = parse(expression)
    losses = []
    widths = {"embedding": dim} if layer is None else dict(zip(READS, (dim, *layer), strict=True))
    load = functools.cache(plugins.load)
    for term in terms:
        factory, spec = _resolved(term.spec, load)
        losses.append(factory(num_classes, widths.get(reads(factory), dim), **plugins.bind(factory, spec)))
    return Objective(terms, losses)


def _resolved(spec: plugins.Spec, load: Callable[..., Any]) -> tuple[Callable[..., nn.Module], plugins.Spec]:
    """Find the plugin of a term and what to ask of it: of `pml.Foo(x=1)`, `pml` and `pml(loss='Foo(x=1)')`."""
    name, dot, member = spec.name.partition(".")
    factory = load("losses", name)
    if not dot:
        return factory, spec
    if not getattr(getattr(factory, "declaration", None), "family", False):
        raise UsageError(f"no loss '{spec.name}': {name} is a single loss and takes no dot")
    return factory, plugins.Spec(name, options={"loss": str(replace(spec, name=member))})


def expand(expression: str) -> list[str]:
    """Make the grid of objectives that lists describe: every number of an objective may be a list of numbers.

    An expression without lists is a grid of one. UsageError for an expression that cannot be read, an empty list, and a grid
    of more than a thousand.

    >>> expand("ce + [0.1,1]*silhouette(tau_s=[0.05,0.1])")[:3]
    ['ce + 0.1*silhouette(tau_s=0.05)', 'ce + 0.1*silhouette(tau_s=0.1)', 'ce + 1*silhouette(tau_s=0.05)']
    """
    text, tree = _read(expression)
    lists = [node for node in ast.walk(tree) if isinstance(node, ast.List)]
    lists.sort(key=lambda node: node.col_offset)
    if not lists:
        parse(expression)
        return [expression.strip()]
    for node in lists:
        if not node.elts:
            raise _misread(text, node.col_offset, "a sweep over an empty list")
        for element in node.elts:
            if not isinstance(element, ast.Constant | ast.UnaryOp):
                raise _misread(text, element.col_offset, "a sweep takes a list of numbers, strings, True, False or None")
    if (size := math.prod(len(node.elts) for node in lists)) > _LARGEST_GRID:
        raise UsageError(f"{size:,} objectives in a grid; the limit is {_LARGEST_GRID:,}, in '{text[:_SHOWN]}'")
    source, grid = text.encode(), []  # ast counts in bytes of UTF-8
    for chosen in itertools.product(*(node.elts for node in lists)):
        pieces, end = [], 0
        for node, element in zip(lists, chosen, strict=True):
            pieces += [source[end : node.col_offset], source[element.col_offset : element.end_col_offset]]
            end = node.end_col_offset or end
        point = b"".join([*pieces, source[end:]]).decode()
        parse(point)
        grid.append(point)
    return list(dict.fromkeys(grid))


def parse(expression: str) -> list[Term]:
    """Read an expression into its terms.

    >>> [str(term.spec) for term in parse("ce + 0.5*soft-silhouette(tau_s=0.05)@10")]
    ['ce', 'soft_silhouette(tau_s=0.05)']
    """
    text, tree = _read(expression)
    return [_term(text, node) for node in _summands(tree)]


def _read(expression: str) -> tuple[str, ast.expr]:
    # Inside a name a dash is an underscore; between terms it would be a minus, which no objective has.
    text = re.sub(r"""('[^']*'|"[^"]*")|(?<=[A-Za-z_])-(?=[A-Za-z_])""", lambda match: match[1] or "_", expression).strip()
    text = text.replace("\n", " ")  # places are counted in one line
    if not text:
        raise UsageError("the objective is empty; expected a loss, as in ce + 0.5*silhouette")
    try:
        return text, plugins.read_expression(text)
    except (MemoryError, RecursionError) as error:
        raise UsageError("the objective is too long or too deeply nested") from error
    except UnicodeEncodeError as error:
        raise UsageError(f"the objective contains an invalid character at position {error.start + 1}") from error
    except SyntaxError as error:
        # Python counts from 1, and gives 0 for an expression that ends too early.
        place = len(text[: error.offset - 1].encode()) if error.offset else len(text.encode())
        raise _misread(text, place, "cannot parse this") from error


def _summands(node: ast.expr) -> list[ast.expr]:
    found, left = [], [node]
    while left:
        node = left.pop()
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left += [node.right, node.left]
        else:
            found.append(node)
    return found


def _term(text: str, node: ast.expr) -> Term:
    # `0.5*gini@10` is read by Python as (0.5*gini) @ 10: the epoch is the outermost.
    start, weight = 1, 1.0
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        start = _number(text, node.right, "the epoch after '@' must be an integer of at least 1", whole=True)
        node = node.left
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        weight = _number(text, node.left, "the weight before '*' must be a number of at least 0")
        node = node.right
    name: ast.expr = node
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = {}
    if isinstance(node, ast.Call):
        name = node.func
        try:
            args, options = plugins.literals(node)
        except ValueError as error:
            raise _misread(
                text, node.col_offset, "options must be literals, each given once, as in silhouette(tau_s=0.1)"
            ) from error
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
    before, after = text.encode()[:column].decode(errors="ignore"), text.encode()[column:].decode(errors="ignore")
    if len(before) > _SHOWN:
        before = f"…{before[-_SHOWN:]}"
    if len(after) > _SHOWN:
        after = f"{after[:_SHOWN]}…"
    return UsageError(f"objective '{before}»{after}': {problem}")
