"""How a kind of plot is declared, and chosen by a spec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from embedscope import plugins

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedscope.plotting.figure import Sheet

# What a kind takes: embeddings to lay out in two dimensions (it returns a Layout each); embeddings; several of them that are
# stages of one training, in order; runs of finetune.
Takes = Literal["points", "embeddings", "checkpoints", "runs"]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class KindDeclaration:
    """Properties of a kind of plot besides its numbers.

    Attributes:
        title: what readers call it.
        takes: what it is given; it suits a command that has that.
        draw: from a sheet and the records to a picture.
    """

    title: str
    takes: Takes
    draw: Callable[[Sheet, Sequence[Any]], None]


def kind(title: str, *, takes: Takes, draw: Callable[[Sheet, Sequence[Any]], None]) -> Callable[[F], F]:
    """Declare `foo(inputs, *, options) -> list of records` as a kind of plot. Options `seed` and `metrics` are filled in."""

    def declare(function: F) -> F:
        function.declaration = KindDeclaration(title, takes, draw)  # type: ignore[attr-defined]
        return function

    return declare


def declaration(function: Callable[..., Any]) -> KindDeclaration:
    """Return what a kind declared; TypeError if it declared nothing."""
    declared = getattr(function, "declaration", None)
    if not isinstance(declared, KindDeclaration):
        raise TypeError(f"{function!r} is not a kind of plot: it lacks the @kind declaration")
    return declared


@dataclass(frozen=True)
class Chosen:
    """A kind with its options, as it is to be drawn.

    Attributes:
        spec: as the user typed it.
        function: the plugin.
        options: every keyword that it is called with.
    """

    spec: str
    function: Callable[..., Sequence[Any]]
    options: Mapping[str, Any]

    @property
    def declared(self) -> KindDeclaration:
        """What the plugin declares."""
        return declaration(self.function)


def choose(text: str, **given: Any) -> Chosen:
    """Find a kind by its spec; what is given fills in the options of that name which the spec leaves open."""
    spec = plugins.parse(text)
    function = plugins.load("plotting", spec.name)
    options = plugins.bind(function, spec)
    options |= {name: value for name, value in given.items() if name in options and name not in spec.options}
    return Chosen(str(plugins.Spec(plugins.canonical(spec.name), (), spec.options)), function, options)
