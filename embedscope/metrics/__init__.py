"""Metrics: a file each, whose function has the file's name.

`@metric` states beside the definition what reports, `--list` and the law tests have to know. `measure` runs one metric and
collects its value, its values per class and its curves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from embedscope import plugins
from embedscope.errors import UndefinedError
from embedscope.records import Better, Measurement

if TYPE_CHECKING:
    from torch import Tensor

    from embedscope.records import Rows

# What a metric may be invariant to. The law tests hold a metric to what it declares, and to changing under the rest.
INVARIANCES = ("translation", "rotation", "scale", "row_scale", "channel_scale")

# What is measured unless something else is asked for.
STANDARD = ("silhouette", "soft_silhouette", "gini", "class_kl", "explained_variance")

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
            shown by class name; anything else is a number or an array.
        reads: "magnitudes" for a metric of activations, which reads the mean of |activation| over positions where a layer has
            positions, because |mean| is not the mean of | |.
    """

    better: Better | None
    bounds: tuple[float | None, float | None]
    invariant: tuple[str, ...]
    reference: str
    details: Details | None
    reads: Literal["features", "magnitudes"]


def metric(
    *,
    better: Better | None,
    bounds: tuple[float | None, float | None],
    invariant: tuple[str, ...] = (),
    reference: str,
    details: Details | None = None,
    reads: Literal["features", "magnitudes"] = "features",
) -> Callable[[F], F]:
    """Declare a function `(features (N, D), labels (N,), *, options) -> 0-d tensor` as a metric."""
    if unknown := set(invariant) - set(INVARIANCES):
        raise ValueError(f"unknown invariances {unknown}; there are {INVARIANCES}")

    def declare(function: F) -> F:
        function.declaration = MetricDeclaration(better, bounds, invariant, reference, details, reads)  # type: ignore[attr-defined]
        return function

    return declare


def declaration(function: Callable[..., Any]) -> MetricDeclaration:
    """Return what a metric declared; TypeError if it declared nothing."""
    declared = getattr(function, "declaration", None)
    if not isinstance(declared, MetricDeclaration):
        raise TypeError(f"{function!r} is no metric: it lacks the @metric declaration")
    return declared


def measure(
    features: Rows, labels: Tensor, spec: plugins.Spec, class_names: Sequence[str], magnitudes: Rows | None = None
) -> Measurement:
    """Run one metric on (N, D) features and (N,) labels that index `class_names`, and on (N, C) magnitudes if it reads them.

    A metric that is undefined on the data gives a Measurement with the value None and the reason in its note. UsageError for
    an unknown metric or option.
    """
    name = plugins.canonical(spec.name)
    function = plugins.load("metrics", name)
    declared = declaration(function)
    options = plugins.bind(function, spec)
    if declared.reads == "magnitudes" and magnitudes is not None:
        features = magnitudes
    try:
        details = (
            declared.details(features, labels, **options)
            if declared.details
            else {"value": function(features, labels, **options)}
        )
    except UndefinedError as error:
        return Measurement(name, None, declared.better, declared.bounds, options, note=str(error))
    value, per_sample, note = details.pop("value"), details.pop("per_sample", None), details.pop("note", None)
    return Measurement(
        name=name,
        value=float(value),
        better=declared.better,
        bounds=declared.bounds,
        options=options,
        per_class=None if per_sample is None else _by_class(per_sample, labels, class_names),
        details={key: _plain(entry, class_names) for key, entry in details.items()},
        note=note,
    )


def _by_class(per_sample: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, float]:
    from embedscope.ops.class_moments import class_sums, present_classes

    classes = present_classes(labels)
    means = class_sums(per_sample, classes.index, len(classes)) / classes.counts
    return {class_names[label]: mean for label, mean in zip(classes.labels.tolist(), means.tolist(), strict=True)}


def _plain(entry: Any, class_names: Sequence[str]) -> Any:
    # Mapping: label -> number. Tensor -> nested lists. Anything else is plain already.
    if isinstance(entry, Mapping):
        return {class_names[label]: value for label, value in entry.items()}
    return entry.tolist() if hasattr(entry, "tolist") else entry
