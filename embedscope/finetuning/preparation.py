"""What is looked at before anything is trained: settings that depend on plugins, objectives, and rows in the wrong part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedscope import plugins
from embedscope.errors import InputError, UsageError
from embedscope.evaluation.evaluating import bound
from embedscope.finetuning.config import default
from embedscope.finetuning.measuring import primary_name
from embedscope.finetuning.sampling import build_sampler
from embedscope.finetuning.specs import check_schedule
from embedscope.finetuning.validation import criterion
from embedscope.losses import expression
from embedscope.models.head import build_head
from embedscope.ops.blocks import row_slices
from embedscope.store.heads import HeadNotes
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedscope.finetuning.config import TrainingConfig
    from embedscope.finetuning.splitting import Parts
    from embedscope.store.features import FeatureSet


def check(config: TrainingConfig) -> None:
    """Raise UsageError for settings that no rows could make right, and MissingExtraError without TensorBoard."""
    criterion(config.select_by)
    bound(config.metrics)
    primary_name(config.primary)
    if not config.val_share:
        refuse_without_validation(config, "a val_share of 0 leaves none")
    if config.tensorboard:
        plugins.imported("tensorboard", extra="tensorboard")


def refuse_without_validation(config: TrainingConfig, why: str) -> None:
    """Raise UsageError for whatever needs validation rows, without any."""
    asked = {
        "patience": config.patience is not None,
        "the schedule plateau": check_schedule(config.schedule)[0] == "plateau",
        f"selecting by {config.select_by}": config.select_by != default("select_by"),
        "a sweep": any(len(expression.expand(objective)) > 1 for objective in config.objectives),
    }
    for what in (what for what, wanted in asked.items() if wanted):
        raise UsageError(f"{what} needs validation rows, but there are none: {why}")


def refuse_for_heads(config: TrainingConfig) -> None:
    """Raise UsageError for settings of a network where a head is trained."""
    for name in ("train", "backbone_learning_rate", "loss_layer", "augment", "amp"):
        if getattr(config, name) != default(name):
            raise UsageError(f"`{name}=` applies to networks, but features were given; give a model and a data set")


def refuse_for_networks(config: TrainingConfig) -> None:
    """Raise UsageError for settings of a head where a network is trained."""
    if config.head != default("head"):
        raise UsageError("a network has its own classifier; omit `head=`, or give stored features to train a head on")


def grids(config: TrainingConfig, parts: Parts, *, network: bool = False) -> list[list[str]]:
    """Expand and build all objectives: a typo in the last one should not cost the training of the first."""
    count = len(np.unique(parts.train.labels))
    width = parts.train.features.shape[1]
    if not network:
        width = build_head(config.head, width, count, 1.0).width
    build_sampler(config.sampler, np.searchsorted(np.unique(parts.train.labels), parts.train.labels), config.batch_size, 0)
    found = [expression.expand(objective) for objective in config.objectives]
    read: set[str] = set()
    for point in (point for grid in found for point in grid):
        for term in expression.parse(point):
            if term.start > config.epochs:
                raise UsageError(
                    f"'{point}': {term.spec} would start in epoch {term.start}, after the last one ({config.epochs})"
                )
        built = expression.build(point, count, width)
        read.update(built.reads)
        if config.weights is not None and not any(hasattr(each, "per_sample") for each in built.losses):
            raise UsageError(f"'{point}' has no term with per-sample values, such as ce, that sample weights could multiply")
    if config.loss_layer is not None and not read & {"layer", "magnitudes"}:
        names = [name for name in plugins.names("losses") if expression.reads(plugins.load("losses", name)) != "embedding"]
        raise UsageError(f"`loss_layer=` is only used by {', '.join(names)}, and no objective has any of them; omit it")
    return found


def warn_of_overlap(parts: Parts, say: Callable[[str], None]) -> None:
    """Tell of test rows of another file that are rows of the training too; InputError if all are."""

    def keys(features: FeatureSet) -> np.ndarray[Any, Any]:
        # A row's product with fixed numbers tells rows apart, and is the same number for the same row wherever it stands.
        rows, width = features.features.shape
        numbers = torch.randn(width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        blocks = row_slices(rows, width * 8)
        return torch.cat([(features.features[block].double() * numbers).sum(dim=1) for block in blocks]).numpy()

    shared = int(np.isin(keys(parts.test), keys(parts.train)).sum())
    if shared == len(parts.test.labels):
        raise InputError(f"{parts.test.source}: all of its rows are also training rows; give rows of another data set")
    if shared:
        of = f"the {len(parts.test.labels):,} rows of {parts.test.source}"
        say(f"warning: {counted(shared, 'is also a training row', 'are also training rows', of=of)}")


def head_notes(config: TrainingConfig, features: FeatureSet, parts: Parts, *, network: bool = False) -> HeadNotes:
    """Say what a head or a network is trained on: the layer of a model, how it was pooled, and the head before it, if any."""
    model = features.provenance.model
    behind = None if model is None else model.head
    return HeadNotes(
        head=f"network({config.train})" if network else config.head,
        dim=features.features.shape[1],
        classes=tuple(features.class_names[label] for label in np.unique(parts.train.labels)),
        objective="",
        layer=features.layer if model else None,
        pooling=features.provenance.pooling(features.layer) if model else None,
        weights=None if model is None else model.weights,
        behind=None if behind is None else behind.file,
    )
