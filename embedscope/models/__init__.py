"""Model sources: a file each, `foo(location, *args, **options) -> Encoder`; checkpoint.py fills them with weights.

layers.py finds layers and taps them, pooling.py makes rows of what goes through, listing.py lists modules. head.py and
network.py are what finetune trains.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from embedscope import plugins
from embedscope.arguments import check_choice, check_path, check_seed, check_text, displayed
from embedscope.errors import InputError, UsageError, nearest
from embedscope.models._reading import sha256_of
from embedscope.models.checkpoint import load_checkpoint
from embedscope.models.preparation import Pixels, as_numbers, as_range, as_size
from embedscope.store.limits import check_not_empty

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedscope.models.encoder import Encoder


def open_model(
    spec: str,
    checkpoint: str | None = None,
    *,
    weights: str | None = None,
    unsafe_pickle: bool = False,
    size: int | tuple[int, int] | str | None = None,
    mean: float | tuple[float, ...] | None = None,
    std: float | tuple[float, ...] | None = None,
    channels: int | None = None,
    value_range: tuple[float, float] | None = None,
    seed: int = 0,
) -> Encoder:
    """Open the model of a spec, load its weights and return it as an Encoder.

    `source:location` names a model source (timm, torchvision, hf, st ...), a bare path is opened by the source that recognizes
    it (program.pt2, scripted.pt, model.onnx); `path/to/file.py:Factory` and `package.module:Factory` are Python code. Options
    in brackets are passed to the source or the factory.

    Args:
        spec: the model, as above.
        checkpoint: weights file, or the index of a sharded one; the source then downloads no weights of its own.
        weights: which weights to load if the checkpoint has several: "raw", "ema", or a prefix of its names.
        unsafe_pickle: let a checkpoint, a `.pt2` or a TorchScript program run code while loading.
        size: (height, width), or one number for both, to resize images to, instead of the model's own.
        mean: channel means, instead of the model's own.
        std: channel standard deviations, instead of the model's own.
        channels: 1 converts images to grayscale, 3 to RGB, for models without preprocessing of their own.
        value_range: black and white values of images with more than 8 bits; by default 0..65535, or 0..1 for floats.
        seed: torch seed while the model is created, so that weights that are not loaded are reproducible.

    Raises:
        UsageError: the spec does not name a source.
        InputError: the model cannot be created, or the checkpoint does not match it.
        MissingExtraError: the source needs a package that is not installed.

    Example:
        >>> open_model("torch.nn:Linear(3, 2)")
        Encoder 'torch.nn:Linear(3, 2)': Linear with 8 parameters
    """
    spec, checkpoint, seed = _checked(spec, checkpoint, weights, seed)
    size = None if size is None else as_size(size)
    mean, std = (None if each is None else as_numbers(what, each) for what, each in (("mean", mean), ("std", std)))
    value_range = None if value_range is None else as_range(value_range)
    source, location, parsed = _sourced(spec)
    plugin = plugins.load("models", source)
    parameters = inspect.signature(plugin).parameters
    options = dict(parsed.options)
    if checkpoint is not None and "pretrained" in parameters:
        options.setdefault("pretrained", False)
    if not any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters.values()):
        options = plugins.bind(plugin, replace(parsed, name=source, options=options), hidden=("unsafe_pickle",))
        parsed = replace(parsed, args=())
        if "unsafe_pickle" in parameters:
            options["unsafe_pickle"] = unsafe_pickle

    def made(number: int) -> Encoder:
        with torch.random.fork_rng([]):  # models are made on the CPU
            torch.manual_seed(number)
            found: Encoder = replace(plugin(location, *parsed.args, **options), spec=spec)
            return found

    encoder = _adjusted(made(seed), {"size": size, "mean": mean, "std": std}, channels, value_range)
    if checkpoint is None:
        if encoder.weights is not None and Path(location).is_file():  # a program that holds its own weights
            encoder = replace(encoder, weights=replace(encoder.weights, file=location, sha256=sha256_of(location)))
        return encoder if encoder.weights is not None else replace(encoder, remake=lambda number: made(number).module)
    if not encoder.module.state_dict():
        raise InputError(f"{spec} includes its own weights, which `checkpoint=` cannot replace; omit it")
    return replace(encoder, weights=load_checkpoint(encoder.module, checkpoint, weights=weights, unsafe_pickle=unsafe_pickle))


def _checked(spec: Any, checkpoint: Any, weights: Any, seed: Any) -> tuple[str, str | None, int]:
    """Return the spec, the checkpoint and the seed in their plain types; UsageError for arguments of another kind."""
    if not isinstance(spec, str | os.PathLike) or not str(spec):
        raise UsageError(f"the model must be a spec, such as 'timm:resnet18', or a path, got {displayed(spec)}")
    if checkpoint is not None:
        checkpoint = str(check_path("`checkpoint=`", checkpoint))
    if weights is not None:
        check_text("`weights=`", weights)
    return os.fspath(spec), checkpoint, check_seed(seed)


def _adjusted(
    encoder: Encoder, numbers: Mapping[str, Any], channels: int | None, value_range: tuple[float, float] | None
) -> Encoder:
    """Change how the inputs of a model are prepared, where that is asked for; UsageError for one that does not allow it."""
    spec, prepare = encoder.spec, cast("Any", encoder.prepare)
    if changed := {name: value for name, value in numbers.items() if value is not None}:
        if not hasattr(prepare, "adjusted"):
            named = ", ".join(f"`{name}=`" for name in changed)
            raise UsageError(f"{spec} has its own preprocessing, which {named} cannot change; omit them")
        prepare = prepare.adjusted(**changed)
    if channels is not None:
        check_choice("number of channels", str(channels), ("1", "3"))
        if not isinstance(prepare, Pixels):
            raise UsageError(f"{spec} has its own preprocessing, which sets the channels; omit `channels=`")
        prepare = prepare.adjusted(channels=channels)
    if value_range is not None:
        if not hasattr(prepare, "value_range"):
            raise UsageError(f"{spec} does not read images through embedscope, so `value_range=` does not apply; omit it")
        prepare = replace(prepare, value_range=value_range)
    return replace(encoder, prepare=prepare)


def _sourced(spec: str) -> tuple[str, str, plugins.Spec]:
    """Find the source of a spec, and the location that it gets."""
    if Path(spec).is_file() and not spec.endswith(".py"):  # its name may hold brackets and colons
        return _recognized(spec), spec, plugins.Spec(spec)
    parsed = plugins.parse(spec)
    source, separator, location = parsed.name.partition(":")
    if separator and plugins.canonical(source) in plugins.names("models"):
        if not location:
            raise UsageError(f"'{spec}' does not name a model; write {source}:NAME")
        return source, location, parsed
    if separator:
        _check_module(source, location)
        return "python", parsed.name, parsed
    if Path(parsed.name).is_file() and not parsed.name.endswith(".py"):
        return _recognized(parsed.name), parsed.name, parsed
    raise UsageError(
        f"cannot read the model '{spec}'; give path/to/file.py:Factory, package.module:Factory, a file (.pt2, .pt, .onnx) that "
        f"is there, or SOURCE:NAME, where SOURCE is one of {', '.join(plugins.names('models'))}"
    )


def _check_module(module: str, name: str) -> None:
    """Raise UsageError for a name that is not a Python module, but nearly that of a model source."""
    if module.isidentifier() and (near := nearest(module, plugins.names("models"))):
        with suppress(ImportError, ValueError):
            if importlib.util.find_spec(module) is not None:
                return
        if not Path(f"{module}.py").exists() and not Path(module).exists():
            raise UsageError(f"no model source or Python module '{module}'; did you mean '{near[0]}:{name}'?")


def _recognized(path: str) -> str:
    check_not_empty(path)
    source = plugins.recognizing("models", Path(path))
    if source is None:
        raise UsageError(
            f"{path} is not a model by itself; give the model and the file as its weights: MODEL DATA `checkpoint={path}` "
            "(of files, .pt2, TorchScript .pt and .onnx are models)"
        )
    return source
