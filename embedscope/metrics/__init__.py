"""Metrics: one file per metric, whose function has the file's name.

A metric is one function `foo(features (N, D), labels (N,), *, options) -> Result`. `@metric` also declares what reports,
`--list` and the law tests need to know. Metrics are run by `evaluation.evaluate`, which reads the rows once for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from embedscope import plugins
from embedscope.errors import UsageError, unknown
from embedscope.text import counted

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.ops.gathering import Gatherer

Better = Literal["higher", "lower"]

# What a metric may be invariant to. The law tests hold a metric to what it declares, and to changing under the rest.
INVARIANCES = ("translation", "rotation", "scale", "row_scale", "channel_scale")

# What is measured unless something else is asked for.
STANDARD = ("silhouette", "soft_silhouette", "gini", "class_kl", "explained_variance")

# Sets of metrics that can be asked for by one name, wherever a metric can; `all` is every metric there is.
SETS: Mapping[str, tuple[str, ...]] = {
    "standard": STANDARD,
    "retrieval": ("knn_accuracy", "neighbor_purity", "map_at_r", "r_precision", "recall_at_k", "mrr", "hubness"),
    "collapse": (
        "effective_rank",
        "rankme",
        "participation_ratio",
        "stable_rank",
        "explained_variance",
        "anisotropy",
        "collapse_std",
        "uniformity",
    ),
    "neural_collapse": ("nc1", "nc2", "nc3", "nc4", "cdnv"),
}
ALL = "all"

# Keywords that the program passes to a metric and that are not options of a spec.
_PASSED = frozenset({"anchors", "logits", "splits"})

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The result of a metric; `float(result)` is its value.

    Attributes:
        value: the value, finite.
        per_sample: (N,) float64, the value of each sample, or None; (M,) when only M anchors were measured.
        nearest: (N,) labels of the nearest other class, or None; (M,) likewise.
        arrays: further numbers, arrays and mappings by name: curves, values per channel.
        by_class: name -> {label: value}: further values that belong to a class each.
        note: a remark that a reader of the value needs.
        state: what the metric's `pseudo_values` read again; not reported.
    """

    value: float
    per_sample: Tensor | None = None
    nearest: Tensor | None = None
    arrays: Mapping[str, Any] = field(default_factory=dict)
    by_class: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    note: str | None = None
    state: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", float(self.value))  # from a 0-d tensor

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        parts = [
            f"{name} of {counted(len(each), 'sample')}" for name, each in (("per_sample", self.per_sample),) if each is not None
        ]
        parts += [*self.arrays, *self.by_class, *([] if self.note is None else [self.note])]
        return f"Result({', '.join([f'{self.value:.6g}', *parts])})"

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)


@dataclass(frozen=True)
class MetricDeclaration:
    """Properties of a metric besides its values.

    Attributes:
        better: "higher", "lower" or None.
        bounds: lowest and highest possible value with default options; None is unbounded.
        invariant: the names out of INVARIANCES under which the value stays.
        reference: DOI or arXiv id.
        reads: "magnitudes" for a metric of activations, which reads the mean of |activation| over positions where a layer has
            positions, because |mean| is not the mean of | |.
        needs: makes what the metric reads of one pass over the rows, a Gatherer (or None for nothing), from (classes, width,
            device) and those options of the metric that it takes. The metric gets it with `ops.gathering.gathered`; what
            several metrics need is gathered once, all of it in one pass.
        neighbors: tells from all options of the metric which neighbors it reads, (k, distance); the metric gets them with
            `ops.shared_neighbors.shared_neighbors`. Those of all metrics of a run are found once.
        takes_anchors: whether the metric has a value per sample and can measure M of the N samples, against all of them:
            its function then takes `anchors`, (M,) ascending positions or None.
        takes_logits: whether the metric reads what the network's classifier gave for the rows: its function then takes
            `logits`, (N, K) rows, a column for each class that occurs, labels ascending; None if there are none.
        takes_splits: whether the metric can fit to one split and measure the others: its function then takes `splits`, (N,)
            names or None.
        pseudo_values: (features, labels, result, *, fixed, options) -> (N,) float64, whose mean estimates the value of the
            population and whose standard error is that of the value: of a jackknife. `fixed` where the numbers of samples per
            class are given. None to have groups of rows left out.
        extrapolates: whether the value differs from that of the population by a bias that falls as 1 / N, which groups that are
            left out then tell. Where it does not (more rows are nearer rows, slowly), the interval is around the value, and is
            that of other samples of the same size.
        interval: False where no interval is honest, whatever it is made of.
        aliases: further names that users may type; values are then reported under the name that was typed.
    """

    better: Better | None
    bounds: tuple[float | None, float | None]
    invariant: tuple[str, ...]
    reference: str
    reads: Literal["features", "magnitudes"]
    needs: Callable[..., Gatherer | None] | None
    takes_anchors: bool
    takes_logits: bool
    pseudo_values: Callable[..., Tensor] | None = None
    interval: bool = True
    aliases: tuple[str, ...] = ()
    neighbors: Callable[..., tuple[int, str]] | None = None
    extrapolates: bool = True
    takes_splits: bool = False


def metric(
    *,
    better: Better | None,
    bounds: tuple[float | None, float | None],
    invariant: tuple[str, ...] = (),
    reference: str,
    reads: Literal["features", "magnitudes"] = "features",
    needs: Callable[..., Gatherer | None] | None = None,
    pseudo_values: Callable[..., Tensor] | None = None,
    interval: bool = True,
    aliases: tuple[str, ...] = (),
    neighbors: Callable[..., tuple[int, str]] | None = None,
    extrapolates: bool = True,
) -> Callable[[F], F]:
    """Declare a function `(features (N, D), labels (N,), *, options) -> Result` as a metric; see `MetricDeclaration`.

    `aliases` is read without importing the file, so it must be written out as a tuple of strings.
    """
    if unknown := set(invariant) - set(INVARIANCES):
        raise ValueError(f"unknown invariances {unknown}; expected some of {INVARIANCES}")

    def declare(function: F) -> F:
        keywords = plugins.keywords(function)
        declared = MetricDeclaration(
            better,
            bounds,
            invariant,
            reference,
            reads,
            needs,
            "anchors" in keywords,
            "logits" in keywords,
            pseudo_values,
            interval,
            aliases,
            neighbors,
            extrapolates,
            "splits" in keywords,
        )
        function.declaration = declared  # type: ignore[attr-defined]
        return function

    return declare


def declaration(function: Callable[..., Any]) -> MetricDeclaration:
    """Return what a metric declared; TypeError if it declared nothing."""
    declared = getattr(function, "declaration", None)
    if not isinstance(declared, MetricDeclaration):
        raise TypeError(f"{function!r} is not a metric: it lacks the @metric declaration")
    return declared


def direction(key: str) -> Better | None:
    """Return which direction is better for a metric, by the spec or the key in `Scores.metrics` that names it.

    None if neither is, or the metric is not installed here, as where a file was written on another machine.
    """
    try:
        return declaration(plugins.load("metrics", plugins.parse(key).name)).better
    except UsageError:
        return None


def members(name: str) -> list[str] | None:
    """List the metrics of a set; None if no set has that name."""
    name, known = plugins.canonical(name), plugins.names("metrics")
    if name == ALL:  # the standard ones first: "nearest" of a sample is that of the first metric that knows
        return list(dict.fromkeys([*STANDARD, *known]))
    return [each for each in SETS[name] if each in known] if name in SETS else None


def expanded(metrics: str | plugins.Spec | Sequence[str | plugins.Spec]) -> list[plugins.Spec]:
    """Read specs of metrics, and replace names of sets by their metrics; UsageError for a set with options."""
    found: list[plugins.Spec] = []
    for text in [metrics] if isinstance(metrics, str | plugins.Spec) else metrics:
        spec = plugins.parse(text) if isinstance(text, str) else text
        if plugins.canonical(spec.name) not in (ALL, *SETS):
            found.append(spec)
        elif spec.args or spec.options:
            raise UsageError(
                f"the metric set {spec.name} takes no options; give them to a single metric, such as gini(dead='ignore')"
            )
        else:
            found += [plugins.Spec(name) for name in members(spec.name) or ()]
    return found


def bind(spec: plugins.Spec) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Find a metric and its options, defaults included; UsageError for an unknown metric or option."""
    try:
        function = plugins.load("metrics", spec.name)
    except UsageError:
        known = [*plugins.names("metrics"), *plugins.aliases("metrics"), *SETS, ALL]
        parts = re.split(r"[\s,]+", spec.name.strip(", "))
        if len(parts) > 1 and all(plugins.canonical(part) in known for part in parts):
            raise UsageError(f"'{spec.name}' is not one metric; pass a list: `metrics={parts}`") from None
        raise UsageError(unknown("metric", plugins.canonical(spec.name), known)) from None
    for name, value in spec.options.items():
        if not isinstance(value, str | int | float | bool | None):
            raise UsageError(
                f"option {name} of {spec.name} must be a number, a string, True, False or None, got {str(value)[:40]}"
            )
    return function, plugins.bind(function, spec, hidden=_PASSED)
