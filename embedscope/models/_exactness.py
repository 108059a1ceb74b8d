"""Tensors of a file that cannot be taken for the numbers that they look like: without data, quantized, adapters."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import safetensors
import torch

from embedscope.errors import InputError
from embedscope.models._reading import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import Tensor

    from embedscope.models._choosing import Found
    from embedscope.models._matching import Fit

# Whole numbers up to which float32 is exact.
_EXACT = 2**24

_FLOAT8 = tuple(getattr(torch, name) for name in dir(torch) if name.startswith(("float8_", "float4_")))
_PACKED = (torch.int8, torch.uint8, *_FLOAT8)

_PACKED_KINDS = ("I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4")  # as .safetensors has them

# What stands beside quantized weights: always, and if the weight beside it is of a packed type.
_SCALES = re.compile(
    r"(.*\.)?(SCB|\w*weight_scale(_inv|_2)?|scale_weight|\w*absmax|\w*quant_map|quant_state.*|qweight|qzeros|weight_packed"
    r"|_packed_params.*|\w+_qweight|weight\.(absmax|quant_map|quant_state.*))"
)
_PERHAPS_SCALES = re.compile(r"(.*\.)?\w*(scales?|zero_points?)")

_ADAPTER = re.compile(
    r"(?:^|[._])(?:lora_\w+|hada_w[12]\w*|lokr_w[12]\w*|ia3_l\w*|b?oft_[rRs]\w*|vera_lambda_\w+|dora_scale)(?:\.|$)"
)


def check_numbers(path: str, found: Found) -> None:
    """Raise InputError for tensors that have no data, or not one number per place: meta, sparse, nested, quantized."""
    for key, held in found.items():
        for kind, odd in (
            ("tensors without data (device meta)", [name for name, tensor in held.items() if tensor.is_meta]),
            ("quantized tensors", [name for name, tensor in held.items() if tensor.is_quantized]),
            ("nested tensors", [name for name, tensor in held.items() if tensor.is_nested]),
            ("sparse tensors", [name for name, tensor in held.items() if tensor.layout != torch.strided]),
        ):
            if odd:
                names = [f"{key}.{name}" if key else name for name in odd]
                raise InputError(f"{path} holds {kind} ({shown(names)}); save the weights as dense floating-point tensors")


def check_adapters(path: str, expected: Iterable[str], fit: Fit | None, sets: Iterable[Mapping[str, Tensor]]) -> None:
    """Raise InputError for adapters, such as LoRA's, that the module has no place for: without them it is another network.

    Args:
        path: of the file, for messages.
        expected: names of the module's parameters and buffers.
        fit: the set of weights that was chosen, or None if none fits.
        sets: of tensors by name that could belong to it, if the module has no adapters itself.
    """
    used = set(fit.sources.values()) if fit else set()
    if fit and any(_ADAPTER.search(name) for name in expected):
        sets = [fit.held]
    left = [name for held in sets for name in held if name not in used and _ADAPTER.search(name)]
    if not left:
        return
    kind = "a LoRA adapter" if "lora" in left[0] else "an adapter"
    beside = "with its base weights; the adapter would be ignored" if used else "without the base weights that it modifies"
    raise InputError(
        f"{path} holds {kind} {beside} ({shown(left)}); merge it into the base model first, for example with peft's "
        f"merge_and_unload(), and pass the merged state_dict"
    )


def check_exact(path: str, expected: Mapping[str, Tensor], fit: Fit) -> None:
    """Raise InputError where a tensor of the file would become other numbers in the module than the file means.

    Quantized weights (int8, float8, packed 4-bit) mean nothing without their scales; whole numbers have to stay whole, and
    complex ones complex.
    """
    left = [name for name in fit.held if name not in set(fit.sources.values())]
    scales = [name for name in left if _SCALES.fullmatch(name)]
    for name, source in fit.sources.items():
        held, target = fit.held[source], expected[name].dtype
        if held.dtype == target:
            continue
        what = f"{source} is {held.dtype} and the model's is {target}".replace("torch.", "")
        if held.dtype in _PACKED and target.is_floating_point:
            front = source.rpartition(".")[0]
            scales = scales or [other for other in left if other.startswith(front) and _PERHAPS_SCALES.fullmatch(other)]
            raise _quantized(path, what, scales)
        if (held.is_complex() and not target.is_complex) or not _is_exact(held, target):
            raise InputError(f"{path}: {what}, which cannot represent its values; save it in the model's dtype")
    if scales:
        raise _quantized(path, "its weights are packed", scales)


def check_folder(what: str, folder: Path) -> None:
    """Raise InputError if a folder of transformers holds quantized weights and a configuration that says nothing of it.

    transformers would read them as plain numbers; if the configuration has a `quantization_config`, it dequantizes or refuses.
    Reads the headers of `.safetensors` files alone, those of the folder and of modules of sentence-transformers in it; raises
    what safetensors raises for a file that is damaged.
    """
    for file in [*folder.glob("*.safetensors"), *folder.glob("[0-9]*_*/*.safetensors")]:
        config = file.parent / "config.json"
        if config.is_file() and "quantization_config" in config.read_text(encoding="utf-8", errors="replace"):
            continue
        with safetensors.safe_open(file, "pt") as opened:
            kinds = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118 (not a mapping)
        packed = [name for name, kind in kinds.items() if kind in _PACKED_KINDS and name.endswith("weight")]
        scales = [name for name in kinds if _SCALES.fullmatch(name)]
        if packed or scales:
            said = f"{packed[0]} is {kinds[packed[0]]}" if packed else "its weights are packed"
            raise _quantized(what, said, scales)


def _quantized(path: str, what: str, scales: list[str]) -> InputError:
    beside = f", with separate scales ({shown(scales)})" if scales else ""
    return InputError(
        f"{path} holds quantized weights: {what}{beside}; they cannot be loaded as they are: dequantize the model and save "
        "its state_dict in float32 or bfloat16"
    )


def _is_exact(held: Tensor, target: torch.dtype) -> bool:
    if held.dtype.is_floating_point == target.is_floating_point and target not in _PACKED:
        return True  # between floats rounding is what a dtype means, and integers are counters
    if target.is_floating_point and not held.dtype.is_floating_point:
        return held.numel() == 0 or held.dtype == torch.bool or float(held.double().abs().max()) <= _EXACT
    return torch.equal(held.to(target).to(held.dtype), held)
