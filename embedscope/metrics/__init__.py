"""Metrics: a file each, whose function has the file's name.

`@metric` states beside the definition what reports, `--list` and the law tests have to know. `measure` runs metrics, reads the
rows once for all of them, and collects values, values per class and curves.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from embedscope import plugins
from embedscope.errors import UndefinedError, UsageError
from embedscope.records import Better, Measurement

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from embedscope.ops.gathering import Gatherer
    from embedscope.ops.rows import Rows

# What a metric may be invariant to. The law tests hold a metric to what it declares, and to changing under the rest.
INVARIANCES = ("translation", "rotation", "scale", "row_scale", "channel_scale")

# What is measured unless something else is asked for.
STANDARD = ("silhouette", "soft_silhouette", "gini", "class_kl", "explained_variance")

# Keywords that the program hands to a metric, and a user does not type.
_HANDED = frozenset({"gathered", "anchors"})

Details = Callable[..., dict[str, Any]]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class MetricDeclaration:
    """What is known of a metric beside its values.

    Attributes:
        better: "higher", "lower" or None.
        bounds: lowest and highest possible value with default options; None is unbounded.
        invariant: the names out of INVARIANCES under which the value stays.
        reference: DOI or arXiv id.
        details: a function with the metric's own arguments that returns {"value": ..., name: ...}, computed at once. The key
            "per_sample" (N,) gives the values per class; "note" is a remark for the reader; a mapping from label to number is
            shown by class name; anything else is a number or an array. "nearest" (N,) are labels.
        gathers: makes what the metric needs of a first pass over the rows, a Gatherer (or None for nothing), from (classes,
            width, device) and those options of the metric that it takes. The metric, or its details, is then handed it, filled,
            as `gathered`; alone, the metric gathers for itself. What several metrics need is gathered once.
        reads: "magnitudes" for a metric of activations, which reads the mean of |activation| over positions where a layer has
            positions, because |mean| is not the mean of | |.
    """

    better: Better | None
    bounds: tuple[float | None, float | None]
    invariant: tuple[str, ...]
    reference: str
    details: Details | None
    reads: Literal["features", "magnitudes"]
    gathers: Callable[..., Gatherer | None] | None

    @property
    def per_sample(self) -> bool:
        """Whether the metric has a value per sample, and can so be measured on anchors: its details take `anchors`."""
        return self.details is not None and "anchors" in inspect.signature(self.details).parameters


def metric(
    *,
    better: Better | None,
    bounds: tuple[float | None, float | None],
    invariant: tuple[str, ...] = (),
    reference: str,
    details: Details | None = None,
    reads: Literal["features", "magnitudes"] = "features",
    gathers: Callable[..., Gatherer | None] | None = None,
) -> Callable[[F], F]:
    """Declare a function `(features (N, D), labels (N,), *, options) -> 0-d tensor` as a metric."""
    if unknown := set(invariant) - set(INVARIANCES):
        raise ValueError(f"unknown invariances {unknown}; there are {INVARIANCES}")

    def declare(function: F) -> F:
        function.declaration = MetricDeclaration(better, bounds, invariant, reference, details, reads, gathers)  # type: ignore[attr-defined]
        return function

    return declare


def declaration(function: Callable[..., Any]) -> MetricDeclaration:
    """Return what a metric declared; TypeError if it declared nothing."""
    declared = getattr(function, "declaration", None)
    if not isinstance(declared, MetricDeclaration):
        raise TypeError(f"{function!r} is no metric: it lacks the @metric declaration")
    return declared


def bind(spec: plugins.Spec) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Find a metric and its options, defaults included; UsageError for an unknown metric or option."""
    function = plugins.load("metrics", spec.name)
    for name, value in spec.options.items():
        if not isinstance(value, str | int | float | bool | None):
            raise UsageError(
                f"option {name} of {spec.name} has to be a number, a text, True, False or None, got {str(value)[:40]}"
            )
    return function, plugins.bind(function, spec, hidden=_HANDED)


def measure(
    features: Rows,
    labels: Tensor,
    specs: Sequence[plugins.Spec],
    class_names: Sequence[str],
    *,
    magnitudes: Rows | None = None,
    ids: np.ndarray[Any, Any] | None = None,
    source: str = "",
    anchors: Tensor | None = None,
) -> list[Measured]:
    """Run metrics on (N, D) features and (N,) labels that index `class_names`, on the device of the labels.

    The rows are read once for everything that can be gathered in one pass, and again by metrics that need it. A metric that is
    undefined on the data gives a Measurement with the value None and the reason in its note.

    Args:
        features: (N, D).
        labels: (N,).
        specs: which metrics, with their options.
        class_names: (K,).
        magnitudes: (N, C), for metrics that read them.
        ids: (N,), what an error calls a row.
        source: what an error calls the features.
        anchors: (M,) ascending positions: metrics with a value per sample measure these samples, against all rows.

    Raises:
        InputError: rows that hold NaN or infinite values.
        UsageError: an unknown metric or option.
    """
    from embedscope.ops.class_moments import present_classes
    from embedscope.ops.gathering import gather

    classes = present_classes(labels)
    bound = [bind(spec) for spec in specs]
    sources = {"features": features, "magnitudes": features if magnitudes is None else magnitudes}
    gatherers: dict[tuple[Any, ...], Gatherer] = {}
    keys: list[tuple[Any, ...]] = []
    for function, options in bound:
        declared = declaration(function)
        rows = "features" if magnitudes is None else declared.reads
        key: tuple[Any, ...] = (rows, declared.gathers, *sorted(_taken(declared.gathers, options).items()))
        if declared.gathers and key not in gatherers:
            made = declared.gathers(classes, sources[rows].shape[1], labels.device, **_taken(declared.gathers, options))
            if made is not None:
                gatherers[key] = made
        keys.append(key)
    for name in dict.fromkeys(["features", *(key[0] for key in keys)]):
        wanted = [gatherer for key, gatherer in gatherers.items() if key[0] == name]
        gather(sources[name], wanted, labels.device, ids=ids, source=source)
    return [
        _measured(function, options, sources[key[0]], labels, class_names, gatherers.get(key), anchors)
        for (function, options), key in zip(bound, keys, strict=True)
    ]


@dataclass(frozen=True)
class Measured:
    """A measurement, and what it is made of where the metric has a value per sample.

    Attributes:
        measurement: as reports show it.
        per_sample: (N,) float64, or None; (M,) for anchors.
        nearest: (N,) the label of the nearest other class, or None.
    """

    measurement: Measurement
    per_sample: Tensor | None = None
    nearest: Tensor | None = None


def _measured(
    function: Callable[..., Any],
    options: dict[str, Any],
    rows: Rows,
    labels: Tensor,
    class_names: Sequence[str],
    gathered: Gatherer | None,
    anchors: Tensor | None,
) -> Measured:
    declared = declaration(function)
    name = function.__name__
    handed: dict[str, Any] = {"gathered": gathered} if gathered is not None else {}
    if declared.per_sample:
        handed["anchors"] = anchors
    try:
        if declared.details:
            details = declared.details(rows, labels, **options, **handed)
        else:
            details = {"value": function(rows, labels, **options, **handed)}
    except UndefinedError as error:
        return Measured(Measurement(name, None, declared.better, declared.bounds, options, note=str(error)))
    if not math.isfinite(details["value"]):
        note = f"the value is {float(details['value'])}: the features, or the options, are too large or too small for it"
        return Measured(Measurement(name, None, declared.better, declared.bounds, options, note=note))
    value, per_sample, note = details.pop("value"), details.pop("per_sample", None), details.pop("note", None)
    nearest = details.pop("nearest", None)
    whose = labels if anchors is None else labels[anchors]
    return Measured(
        Measurement(
            name=name,
            value=float(value),
            better=declared.better,
            bounds=declared.bounds,
            options=options,
            per_class=None if per_sample is None else _by_class(per_sample, whose, class_names),
            details={key: _plain(entry, class_names) for key, entry in details.items()},
            note=note,
        ),
        per_sample,
        nearest,
    )


def _taken(gathers: Callable[..., Any] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Choose the options that a maker of gatherers takes."""
    parameters = inspect.signature(gathers).parameters if gathers else {}
    return {name: value for name, value in options.items() if name in parameters}


def _by_class(per_sample: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, float]:
    from embedscope.ops.class_moments import class_sums, present_classes

    classes = present_classes(labels)
    means = class_sums(per_sample, classes.index, len(classes)) / classes.counts
    return {class_names[label]: mean for label, mean in zip(classes.labels.tolist(), means.tolist(), strict=True)}


def _plain(entry: Any, class_names: Sequence[str]) -> Any:
    # Mapping by label -> by class name. Tensor -> nested lists. Anything else is plain already.
    if isinstance(entry, Mapping):
        return {class_names[key] if isinstance(key, int) else key: value for key, value in entry.items()}
    return entry.tolist() if hasattr(entry, "tolist") else entry
