"""Weights from a file into a module: safely, whatever they are wrapped in, and never in part without a word."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from embedscope.errors import InputError, explained
from embedscope.models._choosing import choose, fits_nothing, state_dicts
from embedscope.models._exactness import check_adapters, check_exact, check_numbers
from embedscope.models._matching import Fit, same_shape
from embedscope.models._reading import read_weights, sha256_of, shown
from embedscope.models.encoder import Weights

if TYPE_CHECKING:
    from collections.abc import Mapping


def load_checkpoint(module: nn.Module, path: str, *, weights: str | None = None, unsafe_pickle: bool = False) -> Weights:
    """Fill a module from a file, in place, and say what was filled and what was not.

    Reads `.safetensors`, what torch saved, the tensors of TorchScript, and the index of a sharded checkpoint
    (`model.safetensors.index.json`, `pytorch_model.bin.index.json`): a state dict, bare or wrapped (`state_dict`, `model`,
    `ema` ..., Lightning's `.ckpt`), with what DataParallel, torch.compile, FSDP and activation checkpointing put into names, or
    a prefix that its names have and the module's lack, or the other way round. Of several prefixes the one whose tensors fit
    most wins. Names that the module's own load hooks translate are handed to them.

    Args:
        module: whose parameters and buffers are filled; what the file lacks stays as it is and is reported as missing.
        path: of the file.
        weights: "raw", "ema", or a key or prefix of the names in the file; by default raw weights if it has both.
        unsafe_pickle: read pickled objects other than tensors and plain values, which may run any code they bring.

    Raises:
        InputError: not there, cut short, refused as unsafe (with the names it wanted), no tensors in it, none that fits,
            several sets of weights that fit equally well, quantized weights, or an adapter that would be left out.
        UsageError: weights that the file does not have.
    """
    found = state_dicts(read_weights(Path(path), unsafe_pickle))
    if not found:
        raise InputError(f"{path} contains no named tensors; give a file with the state_dict of the model")
    check_numbers(path, found)
    kept = module.state_dict(keep_vars=True)
    expected = {name: tensor for name, tensor in kept.items() if isinstance(tensor, Tensor)}
    fit, notes = choose(path, expected, found, weights)
    check_adapters(path, expected, fit, found.values() if fit is None or weights in (None, "raw", "ema") else [fit.held])
    if fit is None:
        if not _translating(module):
            raise fits_nothing(path, expected, found)
        key = max(found, key=lambda key: len(found[key]))
        fit = Fit(key, found[key], {})
    check_exact(path, expected, fit)
    fits = {name: source for name, source in fit.sources.items() if same_shape(expected[name], fit.held[source])}
    reshaped = [
        f"{name} is {tuple(expected[name].shape)} in the model but {tuple(fit.held[source].shape)} in the file"
        for name, source in fit.sources.items()
        if name not in fits
    ]
    if reshaped:
        notes = [*notes, f"{len(reshaped):,} tensor{'s' * (len(reshaped) > 1)} with a different shape: {shown(reshaped)}"]
    filled, taken = _fill(module, path, fit, expected, fits)
    if not filled:
        raise fits_nothing(path, expected, found)
    tied = {id(expected[name]) for name in filled}  # under another name the same tensor, which is filled with it
    matched = {name: None for name in expected if name in filled or id(expected[name]) in tied}
    return Weights(
        file=path,
        sha256=sha256_of(path),
        matched=tuple(matched),
        missing=tuple(name for name in expected if name not in matched),
        left_over=tuple(name for name in fit.held if name not in taken),
        origin=", ".join(part for part in (fit.key, fit.words) if part),
        notes=tuple(notes),
    )


def _fill(
    module: nn.Module, path: str, fit: Fit, expected: Mapping[str, Tensor], fits: Mapping[str, str]
) -> tuple[set[str], set[str]]:
    """Fill a module; returns the names of the module that were filled, and the names in the file that were used.

    What is left over goes to the modules that translate names themselves, under their own.
    """
    sources = dict(fits)
    owners = tuple(f"{name}." if name else "" for name in _translating(module))
    known = set(fit.sources.values())
    for source in fit.held if owners else ():
        name = fit.put + source.removeprefix(fit.prefix)
        if source not in known and source.startswith(fit.prefix) and name.startswith(owners) and name not in expected:
            sources[name] = source
    with explained(f"{path} cannot be loaded into the model"):
        rest = module.load_state_dict({name: fit.held[source] for name, source in sources.items()}, strict=False)
    missing, unused = set(rest.missing_keys), set(rest.unexpected_keys)
    translated = {name for name in expected if owners and name.startswith(owners) and name not in missing}
    if len(sources) - len(fits) == len(unused):  # nothing was translated
        translated = set()
    return translated | set(fits), {source for name, source in sources.items() if name not in unused}


def _translating(module: nn.Module) -> list[str]:
    """Name the modules that translate names while they are loaded; what torch's own layers do for older versions is apart."""
    return [
        name
        for name, child in module.named_modules()
        if child._load_state_dict_pre_hooks
        or (
            type(child)._load_from_state_dict is not nn.Module._load_from_state_dict
            and not type(child)._load_from_state_dict.__module__.startswith("torch.nn.")
        )
    ]
