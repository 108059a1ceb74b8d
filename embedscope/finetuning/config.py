"""TrainingConfig: every setting of finetune with its default, its meaning and its limits. Needs no torch."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from embedscope.arguments import check_flag, check_names, check_number, check_seed, check_text, check_whole
from embedscope.errors import UsageError, unknown
from embedscope.finetuning.specs import (
    check_augment,
    check_optimizer,
    check_sampler,
    check_schedule,
    check_train,
    check_weights,
)
from embedscope.metrics import STANDARD

OBJECTIVES = ("ce", "ce + 0.5*silhouette")


def _setting(default: Any, meaning: str, *, low: int | None = None) -> Any:
    """Make a field; `low` makes it a whole number of at least that."""
    return field(default=default, metadata={"help": meaning, "low": low})


@dataclass(frozen=True)
class TrainingConfig:
    """How `finetune` trains and measures; the command line has an option for each of these.

    Values are checked when a config is made. What depends on plugins (objectives, the head, the criterion) is checked by
    `finetune`, before it reads any rows.

    Raises:
        UsageError: a value that could never work; the message names the setting and what it takes.

    >>> TrainingConfig(objectives="ce", trials=5).objectives
    ('ce',)
    """

    objectives: tuple[str, ...] = _setting(
        OBJECTIVES, "Objective, e.g. 'ce + 0.5*silhouette@10'. A list of numbers, e.g. 'ce + [0.1,1]*gini', makes a sweep."
    )
    head: str = _setting("linear", "Head: linear, or mlp with hidden widths, e.g. 'mlp(128, 64)'.")
    train: str = _setting(
        "all", "Part of a network to train: all, head (its classifier), or last:N (its last N blocks and its classifier)."
    )
    trials: int = _setting(1, "Number of trials per objective, each with its own seed.", low=1)
    splits: int = _setting(
        1, "Number of train/test splits, each with all trials; with 5 or more, the verdict accounts for the split.", low=1
    )
    primary: str = _setting(
        "macro_f1", "Metric of the verdict: macro_f1, accuracy, knn_accuracy or any metric, e.g. silhouette."
    )
    epochs: int = _setting(50, "Number of epochs.", low=1)
    batch_size: int = _setting(128, "Batch size; a balanced sampler sets its own.", low=1)
    sampler: str = _setting(
        "shuffled", "Sampler: shuffled, or classes and samples per batch, e.g. 'balanced(classes=32, samples=8)'."
    )
    weights: str | None = _setting(None, "Sample weights that upweight rare samples, e.g. 'dataset_equity(eta=1, gamma=5)'.")
    optimizer: str = _setting("adamw", "Optimizer: adamw or sgd, e.g. 'sgd(momentum=0.9, nesterov=True)'.")
    learning_rate: float = _setting(3e-3, "Initial learning rate.")
    backbone_learning_rate: float | None = _setting(
        None,
        "Initial learning rate of a network below its classifier; by default a tenth of the learning rate if weights were "
        "loaded, otherwise the same.",
    )
    loss_layer: str | None = _setting(
        None,
        "Layer for gini, class_kl (mean |activation| per channel) and latent_boost instead of the embedding, e.g. layer4 or "
        "'features.3:flatten'.",
    )
    augment: str | None = _setting(
        None, "Augmentations of a network's training images (crop, flip, vflip, erase), e.g. 'crop(32, pad=4) + flip'."
    )
    weight_decay: float = _setting(1e-4, "Weight decay.")
    amp: bool = _setting(False, "Train a network in bfloat16 where it is safe; evaluation uses float32.")
    clip: float | None = _setting(None, "Maximum gradient norm; larger gradients are scaled down.")
    ema: float | None = _setting(
        None, "Decay of an exponential moving average of the weights, which is then validated and kept, e.g. 0.999."
    )
    schedule: str = _setting(
        "cosine", "Learning-rate schedule: cosine (decay to 0), constant, or e.g. 'plateau(factor=0.1, patience=5)'."
    )
    patience: int | None = _setting(None, "Stop after N epochs without improvement on the validation rows.", low=1)
    select_by: str = _setting(
        "macro_f1", "Validation criterion: macro_f1, accuracy, or a metric with a direction, e.g. silhouette."
    )
    metrics: tuple[str, ...] = _setting(STANDARD, "Metric, or set of metrics, on the held-out rows, as in score.")
    test_share: float = _setting(0.25, "Share of each class to hold out, unless there is a split named test.")
    val_share: float = _setting(
        0.1, "Share of the remaining rows for choosing the epoch, unless there is a split named val; 0 keeps the last epoch."
    )
    memory: int | str | None = _setting(
        None,
        "Memory limit for rows, e.g. 4GB; by default half of the free memory. Beyond it, rows and network inputs are read "
        "from disk as needed.",
    )
    device: str = _setting("auto", "Device: auto, cpu, cuda or cuda:N. Only auto falls back to the CPU.")
    seed: int = _setting(0, "Random seed of the split and of the first trial.", low=0)
    tensorboard: bool = _setting(False, "Also write TensorBoard event files.")

    def __post_init__(self) -> None:
        """Take one objective or metric for a list of one, and raise UsageError for values that could never work."""
        for name in ("objectives", "metrics"):
            self._set(name, tuple(check_names(f"`{name}=`", getattr(self, name), some=True)))
        for each in fields(self):
            low, value = each.metadata["low"], getattr(self, each.name)
            if low is not None and not (value is None and each.default is None):
                self._set(each.name, check_whole(f"`{each.name}=`", value, low=low))
        self._set("seed", check_seed(self.seed))
        if self.memory is not None:
            from embedscope.devices import memory_limit  # which imports torch

            memory_limit(self.memory, least=1)
        for name in ("head", "sampler", "optimizer", "schedule", "select_by", "primary", "device"):
            check_text(f"`{name}=`", getattr(self, name))
        for name in ("learning_rate", "backbone_learning_rate", "clip"):
            if name == "learning_rate" or getattr(self, name) is not None:
                self._set(name, check_number(f"`{name}=`", getattr(self, name), above=0, high=1e30))
        self._set("weight_decay", check_number("`weight_decay=`", self.weight_decay, low=0))
        if self.loss_layer is not None:
            check_text("`loss_layer=`", self.loss_layer)
        if self.ema is not None:
            self._set("ema", check_number("`ema=`", self.ema))
            if not 0 < self.ema < 1:
                raise UsageError(f"`ema=`, the decay of the weight average, must be between 0 and 1, got {self.ema}")
        check_text("`train=`", self.train)
        check_train(self.train)
        if self.augment is not None:
            check_text("`augment=`", self.augment)
            check_augment(self.augment)
        for name in ("test_share", "val_share"):
            self._set(name, check_number(f"`{name}=`", getattr(self, name)))
        if not 0 < self.test_share < 1:
            raise UsageError(f"`test_share=`, the share of rows to hold out, must be between 0 and 1, got {self.test_share}")
        if not 0 <= self.val_share < 1:
            raise UsageError(f"`val_share=`, the share of rows to validate on, must be from 0 to below 1, got {self.val_share}")
        check_optimizer(self.optimizer)
        check_schedule(self.schedule)
        check_sampler(self.sampler)
        if self.weights is not None:
            check_text("`weights=`", self.weights)
            check_weights(self.weights)
        for name in ("tensorboard", "amp"):
            self._set(name, check_flag(f"`{name}=`", getattr(self, name)))

    def _set(self, name: str, value: Any) -> None:
        """Keep a value in its plain type: a run is written as JSON."""
        object.__setattr__(self, name, value)

    def with_settings(self, **settings: Any) -> TrainingConfig:
        """Replace settings by name; UsageError names the nearest for one that does not exist."""
        for name in settings:
            if name not in meanings():
                raise UsageError(unknown("setting", name, meanings(), place="finetune"))
        return replace(self, **settings)


def meanings() -> dict[str, str]:
    """Name every setting, with what it means."""
    return {each.name: each.metadata["help"] for each in fields(TrainingConfig)}


def default(name: str) -> Any:
    """Return the default of a setting."""
    (found,) = (each.default for each in fields(TrainingConfig) if each.name == name)
    assert found is not MISSING
    return found


TrainingConfig.__doc__ = f"{TrainingConfig.__doc__}\n    Attributes:\n" + "\n".join(
    f"        {name}: {meaning}" for name, meaning in meanings().items()
)
