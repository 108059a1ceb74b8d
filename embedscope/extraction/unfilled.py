"""Which layers depend on weights that were not loaded."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from embedscope.errors import InputError
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from embedscope.models.encoder import Encoder

# Up to this many missing tensors are tried one by one, to name those that matter.
_NAMED = 20


def check_weights(
    encoder: Encoder, run: Callable[[], Mapping[str, Tensor]], *, allow_partial: bool, say: Callable[[str], None]
) -> None:
    """Refuse layers that depend on weights which were not loaded: with other numbers in their place, they change.

    `run` gives the features (B, D) of each layer for a sample. InputError, unless `allow_partial`, which says it instead.
    """
    weights = encoder.weights
    if weights is None or not weights.missing:
        return
    torch.manual_seed(0)
    before = run()
    spoiled = _spoiled_by(encoder.module, run, weights.missing, before)
    if spoiled:
        few = len(weights.missing) <= _NAMED
        guilty = [name for name in weights.missing if _spoiled_by(encoder.module, run, [name], before)] if few else []
        named = guilty or weights.missing
        shown = ", ".join(named[:3]) + (", …" if len(named) > 3 else "")
        if allow_partial:
            say(f"warning: layer {', '.join(spoiled)} depends on weights that were not filled ({shown})")
            return
        reasons = "".join(f"; {note}" for note in weights.notes)
        raise InputError(
            f"layer {spoiled[0]} depends on {counted(len(named), 'tensor')} that {weights.file or 'the model source'} does "
            f"not fill ({shown}): they would be random{reasons}; pass `allow_partial=True` to measure it anyway"
        )
    run()


def _spoiled_by(
    module: nn.Module, run: Callable[[], Mapping[str, Tensor]], names: Sequence[str], before: Mapping[str, Tensor]
) -> list[str]:
    spoiled: dict[str, None] = {}
    for poison in (lambda values: values * torch.nan, lambda values: -3 * values - 1):  # a threshold hides NaN
        with _poisoned(module, names, poison):
            try:
                torch.manual_seed(0)  # a model that draws numbers draws the same
                found = run()
            except InputError:  # a model may check its numbers itself
                return list(before)
        for name, features in found.items():
            was = before[name]
            if not torch.allclose(features, was, rtol=1e-3, atol=1e-3 * _size(was), equal_nan=True):
                spoiled[name] = None
    return list(spoiled)


@contextmanager
def _poisoned(module: nn.Module, names: Sequence[str], poison: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Change parameters and buffers for a while; those of whole numbers, which hold constants, are left alone."""
    buffers = dict(module.named_buffers(remove_duplicate=False))
    tensors = dict(module.named_parameters(remove_duplicate=False)) | buffers
    poisoned = [tensors[name] for name in names if name in tensors and tensors[name].is_floating_point()]
    saved = [(tensor, tensor.data) for tensor in {id(each): each for each in [*poisoned, *buffers.values()]}.values()]
    changed = {id(tensor) for tensor in poisoned}
    for tensor, values in saved:  # other data for a while; a model may also update its buffers when it runs
        tensor.data = poison(values) if id(tensor) in changed else values.clone()
    try:
        yield
    finally:
        for tensor, values in saved:
            tensor.data = values


def _size(values: Tensor) -> float:
    """The largest finite magnitude."""
    return float(values.nan_to_num(0, 0, 0).abs().max()) if values.numel() else 0.0
