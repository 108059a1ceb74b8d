"""Measure one embedding: decide what fits into memory, read the rows once for all metrics, and collect what they return."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope import devices, distributed, plugins
from embedscope.errors import UndefinedError
from embedscope.evaluation.findings import with_findings
from embedscope.evaluation.intervals import check_ci, estimated, with_interval
from embedscope.evaluation.scores import Measurement, Samples, Scores
from embedscope.metrics import STANDARD, MetricDeclaration, Result, bind, declaration, expanded
from embedscope.ops import statistics
from embedscope.ops.blocks import allowance, limits
from embedscope.ops.class_moments import class_sums, present_classes
from embedscope.ops.gathering import sharing
from embedscope.ops.rows import SelectedColumns
from embedscope.ops.shared_neighbors import sharing as sharing_neighbors
from embedscope.progress import Track, silent, untracked
from embedscope.store import select_labeled
from embedscope.store.in_memory import feature_set
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from embedscope.ops.rows import Rows
    from embedscope.store.features import FeatureSet

    Array = np.ndarray[Any, Any]

# Bytes of features from which a run says beforehand what it plans; smaller ones are done before it is read.
_WORTH_SAYING = 2**26


@dataclass(frozen=True)
class Metric:
    """A metric with its options bound."""

    name: str
    function: Callable[..., Result]
    options: Mapping[str, Any]

    @property
    def spec(self) -> plugins.Spec:
        """The spec that finds the metric again."""
        return plugins.Spec(self.name, (), self.options)

    @property
    def declared(self) -> MetricDeclaration:
        """What the metric declares."""
        return declaration(self.function)

    def __call__(self, rows: Rows, labels: Tensor, **more: Any) -> Result:
        """Measure (N, D) rows and (N,) labels; UndefinedError where the metric is undefined, or its value is not finite."""
        found = self.function(rows, labels, **self.options, **more)
        result = found if isinstance(found, Result) else Result(found)
        if not math.isfinite(result.value):
            raise UndefinedError(f"the value is {result.value}: the features or the options are too large or too small for it")
        return result


def bound(metrics: str | plugins.Spec | Sequence[str | plugins.Spec]) -> list[Metric]:
    """Find metrics by their specs or the names of sets, each once; UsageError for an unknown metric or option.

    All are looked up before any is run: a typo in the last one should not cost the time of the first.
    """
    found: list[Metric] = []
    for spec in expanded(metrics):
        function, options = bind(spec)
        each = Metric(plugins.canonical(spec.name), function, options)
        if each not in found:
            found.append(each)
    return found


def per_sample_metrics(metrics: str | Sequence[str]) -> list[str]:
    """List the metrics that have a value per sample."""
    return [each.name for each in bound(metrics) if each.declared.takes_anchors]


def evaluate(
    features: FeatureSet | tuple[Any, Any],
    metrics: str | Sequence[str | plugins.Spec] = STANDARD,
    *,
    sample: int | None = None,
    anchors: Array | None = None,
    ci: str | bool = False,
    memory: int | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    say: Callable[[str], None] = silent,
    track: Track = untracked,
) -> Scores:
    """Measure one embedding with any number of metrics.

    The rows are read once for everything that can be gathered in one pass, and again by metrics that need it. A metric that is
    undefined on the data gives a Measurement with the value None and the reason in its note. Under torchrun the processes
    share the rows, and all of them get the scores.

    Args:
        features: a FeatureSet, or features (N, D) and labels (N,); rows whose label is -1 are left out.
        metrics: one spec or several, such as "soft_silhouette(tau_s=0.2)", or the name of a set such as "collapse".
        sample: metrics with a value per sample measure this many samples, drawn class by class, against all rows, and give the
            stratified (unbiased) mean with its 95% interval; the other metrics stay exact.
        anchors: (M,) ascending positions among the labeled rows: measure these samples instead of drawing them.
        ci: add 95% intervals, see `evaluation.intervals`: True or "drawn" where the numbers of samples per class are drawn
            with the samples, "fixed" if they are given.
        memory: bytes that a run may take in addition to what torch itself takes; half of what is free by default. Features
            that fit, with the copy that is computed with, are read into memory; others are read in blocks.
        device: "auto", "cpu", "cuda" or "cuda:N". Measurements are in float64, which MPS lacks: "auto" takes the CPU there.
        seed: of the sample and of resampling.
        say: called beforehand with what is planned, if that takes time: large features, features on disk, samples.
        track: shows progress over blocks.

    Raises:
        InputError: rows that hold NaN or infinite values, or no labeled row.
        UsageError: an unknown metric or option; a sample smaller than the number of classes.

    Example:
        >>> scores = evaluate(([[0.0, 1.0], [0.1, 1.0], [4.0, 0.0], [4.2, 0.0]], ["a", "a", "b", "b"]), "silhouette")
        >>> round(scores.metrics["silhouette"].value, 3)
        0.964
    """
    chosen, question = bound(metrics), check_ci(ci)
    if isinstance(features, tuple):
        features = feature_set(*features)
    where = devices.choose(device, float64=True) if isinstance(device, str) else device
    budget = distributed.all_reduce_object(allowance(where, memory), min)  # all processes plan alike
    features, unlabeled = select_labeled(features)
    labels = torch.from_numpy(features.labels).to(where)
    if anchors is not None:
        drawn = None if len(anchors) == len(labels) else torch.from_numpy(anchors).to(where)
    else:
        drawn = None if sample is None or sample >= len(labels) else statistics.stratified_sample(labels, sample, seed)
    with ExitStack() as stack:
        stack.enter_context(limits(memory=budget, track=track, say=say))
        rows = _at_hand(features.features, where, budget)
        by_channel = any(each.declared.reads == "magnitudes" for each in chosen) and features.magnitudes is not None
        magnitudes = _at_hand(features.magnitudes, where, budget) if by_channel and features.magnitudes is not None else None
        if not isinstance(rows, torch.Tensor) or drawn is not None or rows.nbytes >= _WORTH_SAYING:
            say(_plan(features, rows, drawn, budget))
        reads = [rows if magnitudes is None or each.declared.reads == "features" else magnitudes for each in chosen]
        needs = [(each.declared.needs, read, each.options) for each, read in zip(chosen, reads, strict=True)]
        stack.enter_context(
            sharing(
                [(make, read, options) for make, read, options in needs if make is not None],
                present_classes(labels),
                {"": rows} if magnitudes is None else {"": rows, "magnitudes": magnitudes},
                ids=features.ids,
                source=features.source,
            )
        )
        logits = _logits(features, labels, where, budget) if any(each.declared.takes_logits for each in chosen) else None
        near = [
            (read, *each.declared.neighbors(**each.options), not each.declared.takes_anchors)
            for each, read in zip(chosen, reads, strict=True)
            if each.declared.neighbors
        ]
        stack.enter_context(sharing_neighbors(near, drawn, labels))
        found: dict[str, tuple[Measurement, Result | None]] = {}
        for each, read in zip(chosen, reads, strict=True):
            # A metric asked for twice is told apart by the options that were used.
            key = each.name if each.name not in found else str(plugins.Spec(each.name, (), each.options))
            found[key] = _measured(
                each, read, labels, features.class_names, drawn, logits=logits, splits=features.split, ci=question, seed=seed
            )
    counts = np.bincount(features.labels)
    scores = Scores(
        name=features.name,
        source=features.source,
        layer=features.layer,
        samples=len(labels),
        dimensions=features.features.shape[1],
        classes=int((counts > 0).sum()),
        device=str(where),
        metrics={key: measurement for key, (measurement, _) in found.items()},
        warnings=_warnings([measurement for measurement, _ in found.values()], counts, unlabeled),
        ids=features.ids,
        labels=np.array(features.class_names, dtype=object)[features.labels],
        table=_samples(features, {key: result for key, (_, result) in found.items() if result is not None}, drawn),
    )
    return with_findings(scores)


def _measured(
    metric: Metric,
    rows: Rows,
    labels: Tensor,
    class_names: Sequence[str],
    anchors: Tensor | None,
    *,
    logits: Rows | None,
    splits: Array | None,
    ci: str | None,
    seed: int,
) -> tuple[Measurement, Result | None]:
    """Run one metric; the Result is None if it is undefined."""
    declared = metric.declared
    blank = Measurement(metric.name, None, declared.better, declared.bounds, metric.options)
    taken = {"anchors": declared.takes_anchors, "logits": declared.takes_logits, "splits": declared.takes_splits}
    given = {"anchors": anchors, "logits": logits, "splits": splits}
    try:
        result = metric(rows, labels, **{name: given[name] for name, takes in taken.items() if takes})
    except UndefinedError as error:
        return replace(blank, note=str(error)), None
    whose = labels if anchors is None else labels[anchors]
    measurement = replace(
        blank,
        value=result.value,
        per_class=None if result.per_sample is None else _by_class(result.per_sample, whose, class_names),
        arrays={name: _plain(value) for name, value in result.arrays.items()},
        by_class={
            name: {class_names[label]: value for label, value in values.items()} for name, values in result.by_class.items()
        },
        note=result.note,
    )
    if result.per_sample is not None and anchors is not None:
        measurement = estimated(measurement, result.per_sample, labels, anchors)
    elif ci:
        measurement = with_interval(measurement, metric, result, rows, labels, splits, seed, ci)
    return measurement, result


def _by_class(per_sample: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, float]:
    """Average over the samples of each class; NaN, for samples that the metric leaves out, is ignored."""
    kept = ~per_sample.isnan()
    classes = present_classes(labels[kept])
    means = class_sums(per_sample[kept], classes.index, len(classes)) / classes.counts
    return {class_names[label]: mean for label, mean in zip(classes.labels.tolist(), means.tolist(), strict=True)}


def _plain(value: Any) -> Any:
    """Turn tensors and arrays into nested lists; leave everything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _warnings(found: Sequence[Measurement], counts: Array, unlabeled: int) -> list[str]:
    warnings = [f"{each.name} is undefined: {each.note}" for each in found if each.value is None]
    if alone := int((counts == 1).sum()):
        whose = counted(alone, "class has one sample; its", "classes have one sample; their")
        warnings.append(f"{whose} silhouette is 0 by convention")
    if unlabeled:
        warnings.append(
            f"{counted(unlabeled, 'unlabeled row is', 'unlabeled rows are')} left out (labels below 0, NaN or empty)"
        )
    return warnings


def _samples(features: FeatureSet, found: Mapping[str, Result], anchors: Tensor | None) -> Samples | None:
    """Collect the per-sample values; None if no metric has any."""
    columns = {key: each.per_sample.cpu().numpy() for key, each in found.items() if each.per_sample is not None}
    if not columns:
        return None
    chosen = np.arange(len(features.labels)) if anchors is None else anchors.cpu().numpy()
    names = np.array(features.class_names, dtype=object)
    known = {key: each.nearest for key, each in found.items() if each.nearest is not None}
    silhouettes = [
        each for key, each in known.items() if plugins.parse(key).name == "silhouette"
    ]  # findings read it with these
    nearest = next(iter([*silhouettes, *known.values()]), None)
    return Samples(
        ids=features.ids[chosen],
        labels=names[features.labels[chosen]],
        values=columns,
        nearest=None if nearest is None else names[nearest.cpu().numpy()],
        split=None if features.split is None else features.split[chosen],
    )


def _at_hand(rows: Rows, device: torch.device, budget: int) -> Rows:
    """Read rows into the memory of the device if they and the copy that is computed with fit; leave them on disk otherwise."""
    itemsize = rows.dtype.itemsize + max(rows.dtype.itemsize, 4)
    fits = rows.shape[0] * (rows.shape[1] + 2) * itemsize <= budget * 3 // 4
    return rows[:].to(device) if fits or isinstance(rows, torch.Tensor) else rows


def _logits(features: FeatureSet, labels: Tensor, device: torch.device, budget: int) -> Rows | None:
    """Take the logits of the classes that occur; leave a different number of classes as it is, for a metric to refuse."""
    if features.logits is None or features.logits.shape[1] != len(features.class_names):
        return features.logits
    return SelectedColumns(_at_hand(features.logits, device, budget), present_classes(labels).labels)


def _plan(features: FeatureSet, rows: Rows, anchors: Tensor | None, budget: int) -> str:
    count, width = rows.shape
    size = _bytes(count * width * rows.dtype.itemsize)
    place = "read into memory" if isinstance(rows, torch.Tensor) else "read from disk in blocks"
    against = "" if anchors is None else f"; {len(anchors):,} sampled rows against all"
    return f"{features.name}: {count:,} x {width:,} ({size}) {place}{against}; at most {_bytes(budget)} of memory"


def _bytes(size: int) -> str:
    for unit, factor in (("GB", 2**30), ("MB", 2**20)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 2**10:.0f} kB"
