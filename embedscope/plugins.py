"""Plugins: a file in the folder of its kind, or an entry point of a third party.

`names(kind)` lists without importing; `load(kind, name)` imports one file and returns the object that has the file's name.
A third party publishes one under the entry point group `embedscope.<kind>`. What a user types is a spec, `name` or
`name(option=value)`; values are Python literals, and nothing of them is ever evaluated.

A metric, `metrics/foo.py`:

    @metric(better="higher", bounds=(0, 1), invariant=("rotation",), reference="doi:…")
    def foo(features, labels, *, k=5): ...     # (N, D), (N,) -> Result

A loss, `losses/foo.py`, is likewise `foo(num_classes, dim, *, options) -> nn.Module` under `@loss(reference=…)`: a class whose
`forward(features, labels, logits)` is a scalar, or whose `per_sample` gives (B,) values to be averaged. A model source is
`models/foo.py`, `foo(location, *args, **options) -> Encoder`, typed `foo:location(options)`; a data source is `data/foo.py`,
`foo(location, *, options) -> Dataset`, typed likewise. A source under `@recognises(…)` also opens bare paths, without `foo:`
before them.

A kind of plot, `plotting/foo.py`, has its numbers apart from its drawing:

    @kind("Foo", takes="embeddings", draw=draw_foo)
    def foo(inputs, *, bins=30): ...           # sequence of Embedding -> list of frozen records, one an input
    def draw_foo(sheet, records): ...          # into the panels that sheet.arrange(...) gives

`takes` says what it is for: "points" (embeddings to lay out, giving a Layout each), "embeddings", "checkpoints" or "runs".
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import inspect
import itertools
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from embedscope.arguments import check_choice
from embedscope.errors import InputError, MissingExtraError, UsageError, explained, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from types import ModuleType

Kind = Literal["metrics", "losses", "models", "data", "plotting"]
F = TypeVar("F", bound="Callable[..., Any]")

# Levels of an expression, without those of sums, whose terms are read one after the other.
_DEEPEST = 200

# Brackets of a spec at which its options may begin; those before belong to a path.
_MOST_BRACKETS = 100

_SINGULAR = {
    "metrics": "metric",
    "losses": "loss",
    "models": "model source",
    "data": "data source",
    "plotting": "kind of plot",
}


@dataclass(frozen=True)
class Spec:
    """A name with its options, as a user types it: `soft_silhouette(tau_s=0.2)`, `mlp(128, 64)`."""

    name: str
    args: tuple[Any, ...] = field(default=(), hash=False)  # may hold lists
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        inner = [repr(arg) for arg in self.args] + [f"{key}={value!r}" for key, value in self.options.items()]
        return f"{self.name}({', '.join(inner)})" if inner else self.name


def canonical(name: str) -> str:
    """Dashes and underscores are the same: `soft-silhouette` is `soft_silhouette`."""
    return name.strip().replace("-", "_")


def names(kind: Kind) -> list[str]:
    """List the plugins of a kind, sorted, without importing any of them.

    A file is a plugin if it defines what it is named after; what else lies in the folder is what plugins share.
    """
    folder = Path(__file__).parent / kind
    own = {path.stem for path in folder.glob("[!_]*.py") if _defines_its_name(path)}
    return sorted(own | _foreign(kind).keys())


@functools.cache
def _defines_its_name(path: Path) -> bool:
    source = path.read_text(encoding="utf-8")
    return re.search(rf"^(def|class) {path.stem}\b", source, re.MULTILINE) is not None


def aliases(kind: Kind) -> dict[str, str]:
    """Map the other names of plugins, as in `@metric(aliases=("foo_index",))`, to those of their files; imports nothing."""
    folder = Path(__file__).parent / kind
    return {alias: path.stem for path in sorted(folder.glob("[!_]*.py")) for alias in _declared_aliases(path)}


@functools.cache
def _declared_aliases(path: Path) -> tuple[str, ...]:
    source = path.read_text(encoding="utf-8")
    if "aliases=" not in source:
        return ()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == path.stem:
            calls = [each for each in node.decorator_list if isinstance(each, ast.Call)]
            given = [keyword.value for call in calls for keyword in call.keywords if keyword.arg == "aliases"]
            return tuple(name for value in given for name in ast.literal_eval(value))
    return ()


def resolved(kind: Kind, name: str) -> str:
    """Return the name that a plugin has in `names(kind)` for one of its other names; any other text comes back canonical."""
    name = canonical(name)
    return aliases(kind).get(name, name)


def load(kind: Kind, name: str) -> Any:
    """Import one plugin and return the object that has its name.

    UsageError names the nearest if there is none; InputError for one of another package that cannot be imported.
    """
    name = canonical(name)
    if (found := _own(kind, name) or _own(kind, resolved(kind, name))) is not None:
        return found
    foreign = _foreign(kind)
    if name not in foreign:
        raise UsageError(unknown(_SINGULAR[kind], name, [*names(kind), *aliases(kind)]))
    point = foreign[name]
    whose = f" of the package {point.dist.name}" if point.dist is not None else ""
    with explained(f"the {_SINGULAR[kind]} {name}{whose} cannot be imported", f"update or remove it ({point.value})"):
        return point.load()


def _own(kind: Kind, name: str) -> Any:
    """Import the plugin of a file of ours, or return None: that takes no search through all that is installed."""
    path = Path(__file__).parent / kind / f"{name}.py"
    if not (name.isidentifier() and path.is_file() and _defines_its_name(path)):
        return None
    return getattr(importlib.import_module(f"embedscope.{kind}.{name}"), name)


def recognises(test: Callable[[Path], bool]) -> Callable[[F], F]:
    """Declare that a source of models or data opens the bare paths that pass the test."""

    def declare(source: F) -> F:
        source.recognises = test  # type: ignore[attr-defined]
        return source

    return declare


def recognizing(kind: Kind, path: Path) -> str | None:
    """Name the first source of a kind that recognizes a path, or None."""
    for name in names(kind):
        if getattr(load(kind, name), "recognises", lambda path: False)(path):
            return name
    return None


def imported(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency; MissingExtraError with the pip line if it is not installed, InputError if it is broken.

    A torchvision that was built for another torch breaks whatever imports it, and is recognized by both versions.
    """
    package = module.partition(".")[0]
    advice = f"install compatible versions: pip install 'embedscope[{extra}]'"
    with explained(f"{package} is installed but cannot be imported", advice):
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != package:  # what the package itself needs is not there, or too old
                raise
            raise MissingExtraError(f"{package} is not installed; pip install 'embedscope[{extra}]'") from error
        except Exception as error:
            if reason := _of_torchvision(error):
                raise InputError(
                    f"torchvision {importlib.metadata.version('torchvision')} does not belong to torch "
                    f"{importlib.metadata.version('torch')} ({reason}); install the two from one index, as "
                    "https://pytorch.org/get-started/locally/ says for this machine"
                ) from error
            raise


def _of_torchvision(error: BaseException | None) -> str | None:
    """Give what a torchvision that was built for another torch says, if that is behind an error."""
    while error is not None:
        text = str(error).strip().partition("\n")[0][:200]
        # The second import of it in a process fails for want of an attribute of the half-made module.
        if "torchvision::" in text or ("torchvision" in text and isinstance(error, RuntimeError | AttributeError)):
            return text
        error = error.__cause__ or error.__context__
    return None


def parse(text: str) -> Spec:
    """Read `name`, `name(option=value)` or `name(value, …)`; UsageError if the bracket holds anything but literals.

    What stands before the bracket may be anything (`timm:resnet18`, a path with brackets of its own).

    >>> parse("soft-silhouette(tau_s=0.2)")
    Spec(name='soft-silhouette', args=(), options={'tau_s': 0.2})
    """
    text = text.strip()
    if not text.endswith(")"):
        if re.fullmatch(r"[\w:./-]+\([^)]*", text):
            raise UsageError(f"'{text[:80]}' has an unclosed bracket")
        return Spec(text)
    for match in itertools.islice(re.finditer(r"\(", text), _MOST_BRACKETS):
        start = match.start()
        try:
            call = read_expression(f"f{text[start:]}")
            if not isinstance(getattr(call, "func", None), ast.Name):  # another bracket closes the spec
                continue
            args, options = literals(call)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        return Spec(text[:start].strip(), args, options)
    raise UsageError(
        f"cannot read the options of '{text[:80]}': expected literals, each given once, such as (option=1, other='a')"
    )


def choose(what: str, text: str, known: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Read a spec that is one of a few, name -> its options with their defaults, into a name and all of its options.

    UsageError names the nearest for another name, and what is taken for another option.

    >>> choose("sampler", "balanced(samples=4)", {"balanced": {"classes": 32, "samples": 8}})
    ('balanced', {'classes': 32, 'samples': 4})
    """
    spec = parse(text)
    name = check_choice(what, canonical(spec.name).lower(), known)
    if spec.args or not spec.options.keys() <= known[name].keys():
        takes = ", ".join(f"{option}={value}" for option, value in known[name].items()) or "no options"
        raise UsageError(f"cannot read the {what} '{text}': {name} takes {takes}")
    return name, {**known[name], **spec.options}


def read_expression(text: str) -> ast.expr:
    """Parse text as a Python expression without evaluating it, and without what Python warns of while it parses.

    Raises SyntaxError or ValueError for what is not one, MemoryError or RecursionError for one that is nested too deeply.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = ast.parse(text, mode="eval").body
    left: list[tuple[ast.AST, int]] = [(found, 1)]
    while left:  # how deep the parser itself goes depends on the version of Python
        node, depth = left.pop()
        if depth > _DEEPEST:
            raise RecursionError("nested too deeply")
        left += [(child, depth + (not isinstance(node, ast.BinOp))) for child in ast.iter_child_nodes(node)]
    return found


def literals(call: ast.AST) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Take the arguments of a parsed call as literals; ValueError for anything else, and for an option given twice."""
    if not isinstance(call, ast.Call) or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError("not a call with literal arguments")
    try:
        options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        args = tuple(ast.literal_eval(arg) for arg in call.args)
    except TypeError as error:  # a list as a key
        raise ValueError("not literals") from error
    if len(options) < len(call.keywords):
        raise ValueError("an option is repeated")
    return args, options


def bind(plugin: Callable[..., Any], spec: Spec, *, hidden: Collection[str] = ()) -> dict[str, Any]:
    """Check a spec's options against the plugin's keyword options; return all of them, defaults included.

    `hidden` are keywords that the program passes and a user does not. A plugin with `**options` takes any.
    """
    known = {name: default for name, default in keywords(plugin).items() if name not in hidden}
    parameters = inspect.signature(plugin).parameters.values()
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    if spec.args:
        given = ", ".join(repr(arg) for arg in spec.args)
        raise UsageError(f"options of {spec.name} need a name, as in {spec.name}(option={given}); {_takes(known)}")
    for option in spec.options:
        if option not in known and not takes_any:
            raise UsageError(unknown("option", option, known, place=spec.name))
    return {**known, **spec.options}


def keywords(plugin: Callable[..., Any]) -> dict[str, Any]:
    """Return the keyword-only parameters of a function with their defaults, in order."""
    parameters = inspect.signature(plugin).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}


def _takes(known: Mapping[str, Any]) -> str:
    return "it takes " + ", ".join(f"{name}={value!r}" for name, value in known.items()) if known else "it takes none"


def _foreign(kind: Kind) -> dict[str, importlib.metadata.EntryPoint]:
    """Third parties' plugins by name; a name of ours stays ours."""
    named = {canonical(point.name): point for point in importlib.metadata.entry_points(group=f"embedscope.{kind}")}
    folder, ours = Path(__file__).parent / kind, aliases(kind)
    return {name: point for name, point in named.items() if name not in ours and not (folder / f"{name}.py").exists()}
