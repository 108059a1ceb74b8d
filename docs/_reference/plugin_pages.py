"""Pages of plugins: metrics, losses, plot kinds, sources of models and data."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from embedscope import plugins
from embedscope.metrics import ALL, SETS, STANDARD, MetricDeclaration
from embedscope.metrics import declaration as metric_declaration
from embedscope.plotting import declaration as kind_declaration

from .markdown import code, docstring, escaped, first_line, linked, table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_DIRECTIONS = {"higher": "higher is better", "lower": "lower is better", None: "neither direction is better"}
_ARROWS = {"higher": "↑", "lower": "↓", None: ""}
_TAKES = {
    "points": "embeddings, to lay out in two dimensions",
    "embeddings": "embeddings",
    "checkpoints": "several embeddings that are stages of one training, in order",
    "runs": "run directories of `finetune`",
}
# Keywords that the program fills in.
_FILLED = ("anchors", "logits", "metrics")
_SOURCES = {
    "models": ("Model sources", "MODEL", "`SOURCE:NAME`"),
    "data": ("Data sources", "DATA", "`SOURCE:LOCATION`"),
}


def metrics() -> str:
    """Return the page of all metrics."""
    functions = {name: plugins.load("metrics", name) for name in plugins.names("metrics")}
    overview = table(
        ["Metric", "Better", "Range", "What it is"],
        [
            [
                f"[`{name}`](#{name})",
                _ARROWS[metric_declaration(function).better],
                _bounds(metric_declaration(function).bounds),
                escaped(first_line(function.__doc__), in_table=True),
            ]
            for name, function in functions.items()
        ],
    )
    text = (
        "Choose metrics with `-m`, any number of times, and set options in brackets: "
        "`embedscope score features.h5 -m 'silhouette(distance=\"cosine\")' -m rankme`. "
        f"Without `-m`, `score` computes {_listed(STANDARD)}.\n\n"
        "In Python, a metric is a function of `(features, labels)` that returns a "
        "[`Result`](python.md#result), as in `from embedscope.metrics.silhouette import silhouette`.\n\n"
    )
    sets = table(["Set", "Metrics"], [[code(name), ", ".join(f"[`{each}`](#{each})" for each in SETS[name])] for name in SETS])
    chosen = f"\n## Sets {{ #sets }}\n\n`-m` takes the name of a set as well; `-m {ALL}` computes every metric.\n\n{sets}\n"
    return text + overview + chosen + "\n".join(_metric(name, function) for name, function in functions.items())


def _metric(name: str, function: Callable[..., Any]) -> str:
    declared = metric_declaration(function)
    facts = [
        ["Direction", _DIRECTIONS[declared.better]],
        ["Range with default options", _bounds(declared.bounds)],
        ["Unchanged by", ", ".join(each.replace("_", " ") for each in declared.invariant) or "–"],
        ["Values per sample (`--samples`)", "yes" if declared.takes_anchors else "no"],
        ["Interval (`--ci`)", _interval(declared)],
        ["Computed from", _inputs(declared)],
        ["Source", linked(declared.reference)],
    ]
    if declared.aliases:
        facts.insert(0, ["Also named", _listed(declared.aliases)])
    return _section(name, function, table(["", ""], facts), skip=_FILLED)


def _inputs(declared: MetricDeclaration) -> str:
    read = "features" if declared.reads == "features" else "mean of \\|activation\\| per channel"
    return f"{read}, and the logits that `extract --logits` keeps" if declared.takes_logits else read


def _interval(declared: MetricDeclaration) -> str:
    return "yes" if declared.interval else "no: no interval holds at the nominal rate"


def losses() -> str:
    """Return the page of all losses."""
    factories = {name: plugins.load("losses", name) for name in plugins.names("losses")}
    overview = table(
        ["Loss", "What it is"],
        [[f"[`{name}`](#{name})", escaped(first_line(factory.__doc__), in_table=True)] for name, factory in factories.items()],
    )
    text = (
        "An objective is a sum of losses: `ce + 0.5*silhouette(tau_s=0.05)@10` has a weight before `*`, options in brackets "
        "and the epoch at which a term switches on after `@`. A list of numbers, as in `[0.1, 0.5]*silhouette`, makes a "
        "sweep.\n\n"
        "`embedscope.losses.expression.build` turns an objective into an `nn.Module` for a training loop of your own; see "
        "[Python](python.md#build).\n\n"
    )
    return text + overview + "\n" + "\n".join(_loss(name, factory) for name, factory in factories.items())


def _loss(name: str, factory: Any) -> str:
    declared = factory.declaration
    weighted = inspect.isclass(factory) and hasattr(factory, "per_sample")
    facts = [
        ["Classes that a batch needs", "2; with one class the loss is 0" if declared.classes > 1 else "1"],
        ["Values per sample (`--sample-weights`)", "yes" if weighted else "no"],
        ["Source", linked(declared.reference)],
    ]
    return _section(name, factory, table(["", ""], facts))


def plots() -> str:
    """Return the page of all kinds of plot."""
    kinds = {name: plugins.load("plotting", name) for name in plugins.names("plotting")}
    text = "Choose kinds with `--kind`, any number of times. [The gallery](../gallery.md) shows one of each.\n\n"
    overview = table(
        ["Kind", "What it shows"],
        [[f"[`{name}`](#{name})", escaped(first_line(kind.__doc__), in_table=True)] for name, kind in kinds.items()],
    )
    parts = [
        _section(name, kind, table(["", ""], [["Takes", _TAKES[kind_declaration(kind).takes]]]), skip=_FILLED)
        for name, kind in kinds.items()
    ]
    return text + overview + "\n" + "\n".join(parts)


def sources() -> str:
    """Return the page of all sources of models and of data."""
    parts = []
    for kind, (title, argument, form) in _SOURCES.items():
        names = plugins.names(kind)  # type: ignore[arg-type]
        parts.append(f"## {title}\n\n`{argument}` is {form}, or a path that a source recognizes. Options go in brackets.\n")
        for name in names:
            source = plugins.load(kind, name)  # type: ignore[arg-type]
            bare = "A path alone is enough: the source recognizes its files.\n\n" if hasattr(source, "recognises") else ""
            parts.append(_section(name, source, bare, level=3, anchor=f"{kind}-{name}"))
    return "\n".join(parts)


def _section(
    name: str, plugin: Any, facts: str, *, level: int = 2, anchor: str | None = None, skip: tuple[str, ...] = ()
) -> str:
    heading = f"{'#' * level} {name} {{ #{anchor or name} }}"
    options = {option: default for option, default in plugins.keywords(plugin).items() if option not in skip}
    spec = f"`{name}({', '.join(f'{option}={_default(default)}' for option, default in options.items())})`" if options else ""
    parts = [heading, spec, facts, docstring(plugin.__doc__)]
    return "\n\n".join(filter(None, parts))


def _default(value: Any) -> str:
    return repr(value).replace("'", '"')


def _bounds(bounds: tuple[float | None, float | None]) -> str:
    low, high = ("" if bound is None else f"{bound:g}".replace("-", "−") for bound in bounds)
    return f"{low} … {high}".strip() if low or high else "unbounded"


def _listed(names: Mapping[str, Any] | tuple[str, ...]) -> str:
    *most, last = (code(name) for name in names)
    return f"{', '.join(most)} and {last}" if most else last
