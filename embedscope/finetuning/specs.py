"""What may be typed for an optimizer, a schedule, a sampler and weights of samples; none of it needs torch."""

from __future__ import annotations

from typing import Any

from embedscope import plugins
from embedscope.errors import UsageError, check_flag, check_number, check_whole

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"beta1": 0.9, "beta2": 0.999},
    "sgd": {"momentum": 0.9, "nesterov": False},
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "cosine": {},
    "plateau": {"factor": 0.1, "patience": 5},
    "constant": {},
}
SAMPLERS: dict[str, dict[str, Any]] = {"shuffled": {}, "balanced": {"classes": 32, "samples": 8}}
WEIGHTS: dict[str, dict[str, Any]] = {"dataset_equity": {"eta": 1.0, "gamma": 5.0, "clusters": None}}


def check_optimizer(spec: str) -> tuple[str, dict[str, Any]]:
    """Read `adamw(beta1=0.9, beta2=0.999)` or `sgd(momentum=0.9, nesterov=False)` into a name and all of its options."""
    name, options = plugins.choose("optimizer", spec, OPTIMIZERS)
    for option in options.keys() - {"nesterov"}:
        if not 0 <= check_number(option, options[option]) < 1:
            raise UsageError(f"{option} of {name} has to be from 0 to below 1, got {options[option]}")
    if name == "sgd" and check_flag("nesterov", options["nesterov"]) and not options["momentum"]:
        raise UsageError("sgd(nesterov=True) needs a momentum above 0")
    return name, options


def check_schedule(spec: str) -> tuple[str, dict[str, Any]]:
    """Read `cosine`, `constant` or `plateau(factor=0.1, patience=5)` into a name and all of its options."""
    name, options = plugins.choose("schedule", spec, SCHEDULES)
    if name == "plateau":
        if not 0 < check_number("factor", options["factor"]) < 1:
            raise UsageError(f"factor of plateau has to be between 0 and 1, got {options['factor']}")
        check_whole("patience of plateau", options["patience"], low=0)
    return name, options


def check_sampler(spec: str) -> tuple[str, dict[str, Any]]:
    """Read `shuffled`, or `balanced(classes=32, samples=8)`, into a name and all of its options."""
    name, options = plugins.choose("sampler", spec, SAMPLERS)
    for option, value in options.items():
        check_whole(f"{option} of {name}", value, low=2)
    return name, options


def check_weights(spec: str) -> dict[str, Any]:
    """Read `dataset_equity(eta=1, gamma=5, clusters=10)` into all of its options."""
    _, options = plugins.choose("weighting of samples", spec, WEIGHTS)
    for name in ("eta", "gamma"):
        check_number(f"{name} of dataset_equity", options[name], low=0)
    if options["clusters"] is not None:
        check_whole("clusters of dataset_equity", options["clusters"], low=1)
    return options


def check_train(train: str) -> None:
    """Raise UsageError for what is neither `all`, `head` nor `last:N`."""
    kind, _, count = train.partition(":")
    if train not in ("all", "head") and not (kind == "last" and count.isdecimal() and int(count)):
        raise UsageError(
            f"cannot read what to train, '{train}'; write all, head for the classifier alone, or last:N for the classifier and "
            "the N last blocks before it"
        )
