"""What may be typed for an optimizer, a schedule, a sampler and weights of samples; none of it needs torch."""

from __future__ import annotations

from typing import Any

from embedscope import plugins
from embedscope.arguments import check_flag, check_number, check_whole
from embedscope.errors import UsageError

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
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "crop": {"size": None, "pad": 0},
    "flip": {"p": 0.5},
    "vflip": {"p": 0.5},
    "erase": {"p": 0.5, "share": 0.1},
}


def check_optimizer(spec: str) -> tuple[str, dict[str, Any]]:
    """Read `adamw(beta1=0.9, beta2=0.999)` or `sgd(momentum=0.9, nesterov=False)` into a name and all of its options."""
    name, options = plugins.choose("optimizer", spec, OPTIMIZERS)
    for option in options.keys() - {"nesterov"}:
        if not 0 <= check_number(option, options[option]) < 1:
            raise UsageError(f"{option} of {name} must be from 0 to below 1, got {options[option]}")
    if name == "sgd" and check_flag("nesterov", options["nesterov"]) and not options["momentum"]:
        raise UsageError("sgd(nesterov=True) needs a momentum above 0")
    return name, options


def check_schedule(spec: str) -> tuple[str, dict[str, Any]]:
    """Read `cosine`, `constant` or `plateau(factor=0.1, patience=5)` into a name and all of its options."""
    name, options = plugins.choose("schedule", spec, SCHEDULES)
    if name == "plateau":
        if not 0 < check_number("factor", options["factor"]) < 1:
            raise UsageError(f"factor of plateau must be between 0 and 1, got {options['factor']}")
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
            f"cannot read '{train}' as the part to train; use all, head (the classifier), or last:N (the last N blocks "
            f"and the classifier)"
        )


def check_augment(spec: str) -> list[tuple[str, dict[str, Any]]]:
    """Read `crop(28, pad=4) + flip` into names and all of their options, in order.

    crop(size, pad=0)          a square of `size` pixels at a random place, after padding with zeros
    flip(p=0.5)                left and right are exchanged, with a probability
    vflip(p=0.5)               top and bottom, likewise
    erase(p=0.5, share=0.1)    a square of a share of the area becomes 0
    """
    found = []
    for part in _summands(spec):
        given = plugins.parse(part)
        if plugins.canonical(given.name).lower() == "crop" and len(given.args) == 1 and "size" not in given.options:
            part = str(plugins.Spec(given.name, (), {"size": given.args[0], **given.options}))
        name, options = plugins.choose("augmentation", part, AUGMENTATIONS)
        if name == "crop":
            if options["size"] is None:
                raise UsageError("a crop needs its size, as in 'crop(32, pad=4)'")
            check_whole("size of crop", options["size"], low=1)
            check_whole("pad of crop", options["pad"], low=0)
        for option in options.keys() & {"p", "share"}:
            if not 0 <= check_number(f"{option} of {name}", options[option]) <= 1:
                raise UsageError(f"{option} of {name} must be from 0 to 1, got {options[option]}")
        found.append((name, options))
    return found


def _summands(text: str) -> list[str]:
    """Split at the plus signs outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "+" and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
