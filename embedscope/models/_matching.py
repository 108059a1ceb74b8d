"""Names of tensors in a file matched with those of a module."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch.nn.parameter import is_lazy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

# What wrappers put into the names of what they wrap: torch.compile, FSDP, activation checkpointing, Opacus, DeepSpeed ...
_WRAPPERS = frozenset(
    ("_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module", "_forward_module", "_module")
)
# ... and (Distributed)DataParallel, with a name that modules have as well.
_PARALLEL = "module"

# Dots of a name at which a prefix may end; no model nests deeper.
_DEEPEST = 40

# Names that one implementation of weight_norm gives to the two tensors that the other calls differently.
_NEW_WEIGHT_NORM = re.compile(r"(.*?)parametrizations\.(\w+)\.original([01])")
_OLD_WEIGHT_NORM = re.compile(r"(?:(.*)\.)?(\w+)_([gv])")


@dataclass(frozen=True)
class Fit:
    """How a set of weights in a file goes into a module.

    Attributes:
        key: under which it lies in the file, "" for the whole.
        held: all tensors under that key, by name.
        sources: the module's name -> the file's name.
        prefix: stripped from the file's names, with its dot.
        put: of the module, put before them.
        size: how many tensors fit in name and shape.
    """

    key: str
    held: Mapping[str, Tensor]
    sources: Mapping[str, str]
    prefix: str = ""
    put: str = ""
    size: int = 0

    @property
    def label(self) -> str:
        """Its place in the file."""
        return ".".join(part for part in (self.key, self.prefix.rstrip(".")) if part)

    @property
    def words(self) -> str:
        """What was done to the file's names."""
        parts = [f"without the prefix {self.prefix}"] * bool(self.prefix) + [f"under the prefix {self.put}"] * bool(self.put)
        return ", ".join(parts)


def fitted(key: str, expected: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> list[Fit]:
    """Match the names of a file with those of a module, in the ways in which most tensors fit in name and shape.

    Names are compared as they are; without what wrappers put into them; also without DataParallel's part before them; without
    it anywhere; and without dots. Each time a prefix may be stripped from all of the file's names, or one of the module's be
    put before them: several fits are several prefixes under which as many tensors fit.
    """
    best: list[Fit] = []
    for plain in (str, _without_wrappers, _unwrapped, _bare, _dotless):
        fits = _fitted_as(key, expected, held, plain)
        if fits and (not best or fits[0].size > best[0].size):
            best = fits
        if best and best[0].size >= len(expected):  # nothing can fit better
            break
    return best


def fitted_under(key: str, expected: Mapping[str, Tensor], held: Mapping[str, Tensor], prefix: str) -> list[Fit]:
    """Fit the tensors under a prefix; if no name starts with it, each set that has it further inside by itself."""
    dotted = prefix.rstrip(".") + "."
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in held.items():
        place = f".{name}".find(f".{dotted}")
        if place >= 0:
            groups.setdefault(name[:place] + dotted, {})[name[place + len(dotted) :]] = tensor
    if dotted in groups:
        groups = {dotted: groups[dotted]}
    return [
        replace(
            fit,
            held=held,
            sources={target: front + source for target, source in fit.sources.items()},
            prefix=front + fit.prefix,
        )
        for front, inside in groups.items()
        for fit in fitted(key, expected, inside)
    ]


def same_shape(expected: Tensor, held: Tensor) -> bool:
    """Whether a tensor of the file fits a parameter or buffer; one that is made on first use takes any."""
    return is_lazy(expected) or expected.shape == held.shape


def _fitted_as(key: str, expected: Mapping[str, Tensor], held: Mapping[str, Tensor], plain: Callable[[str], str]) -> list[Fit]:
    targets = {plain(name): name for name in reversed(list(expected))}
    for name in expected:
        if alias := _other_weight_norm(name):
            targets.setdefault(plain(alias), name)
    # Of two names that become one, that which was so already is meant.
    sources = {plain(name): name for name in sorted(held, key=lambda name: plain(name) == name)}
    votes: Counter[tuple[str, str]] = Counter()  # (prefix of the file, prefix of the module) -> tensors that fit
    for name, source in sources.items():
        for front, rest in _tails(name):
            if rest in targets and same_shape(expected[targets[rest]], held[source]):
                votes[front, ""] += 1
    for name, target in targets.items():
        for front, rest in _tails(name):
            if front and rest in sources and same_shape(expected[target], held[sources[rest]]):
                votes["", front] += 1
    most = max(votes.values(), default=0)
    ways = [way for way, count in votes.items() if count == most]
    if ("", "") in ways:
        ways = [("", "")]
    elif any(not put for _, put in ways):
        ways = [(stripped, put) for stripped, put in ways if not put]
    else:
        ways = [min(ways, key=lambda way: len(way[1]))] if ways else []
    fits = []
    for stripped, put in ways:
        filling = {
            targets[target]: source
            for name, source in sources.items()
            if name.startswith(stripped) and (target := put + name.removeprefix(stripped)) in targets
        }
        ordered = {name: filling[name] for name in expected if name in filling}
        fits.append(Fit(key, held, ordered, stripped, put, most))
    return fits


def _other_weight_norm(name: str) -> str | None:
    """Give the name that the older weight_norm has for a tensor of the newer one, or the other way round; None for others."""
    if new := _NEW_WEIGHT_NORM.fullmatch(name):
        return f"{new[1]}{new[2]}_{'gv'[int(new[3])]}"
    if old := _OLD_WEIGHT_NORM.fullmatch(name):
        return f"{old[1] + '.' if old[1] else ''}parametrizations.{old[2]}.original{'gv'.index(old[3])}"
    return None


def _without_wrappers(name: str) -> str:
    """Take out what wrappers put into a name; no module has these names of its own."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _unwrapped(name: str) -> str:
    """Take out what wrappers put into a name, and DataParallel before it."""
    parts = _without_wrappers(name).split(".")
    while len(parts) > 1 and parts[0] == _PARALLEL:
        parts = parts[1:]
    return ".".join(parts)


def _bare(name: str) -> str:
    """Take out what either put anywhere: parts of a model may be wrapped by themselves."""
    return ".".join(part for part in _without_wrappers(name).split(".") if part != _PARALLEL)


def _dotless(name: str) -> str:
    """Take out all dots, as diffusion models' averages of weights have their names."""
    return _bare(name).replace(".", "")


def _tails(name: str) -> Iterator[tuple[str, str]]:
    """Cut a dotted name in two at each dot, and before its beginning: "a.b" -> ("", "a.b"), ("a.", "b")."""
    yield "", name
    for dot in itertools.islice(re.finditer(r"\.", name), _DEEPEST):
        yield name[: dot.end()], name[dot.end() :]
