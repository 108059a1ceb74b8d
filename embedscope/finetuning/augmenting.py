"""Random changes of the images that a network is trained on; each row draws its own, from the seed and the epoch alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from embedscope.errors import InputError
from embedscope.finetuning.specs import check_augment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Uniform numbers that one change may use for a row.
_NUMBERS = 4


class Augmentation:
    """Changes prepared images (B, C, H, W): `crop(28, pad=4) + flip`, see `specs.check_augment`.

    Which numbers a row draws depends on the seed, the epoch and its position alone, not on the batch or the process it is in.

    Args:
        spec: of the changes, in order.
        rows: N, of the training.
        seed: of the training.
    """

    def __init__(self, spec: str, rows: int, seed: int) -> None:
        self._changes = check_augment(spec)
        self._rows, self._seed = rows, seed
        self._epoch, self._drawn = 0, np.empty(0)

    def __call__(self, images: Any, positions: Tensor, epoch: int) -> Tensor:
        """Change the images of the rows at some positions (B,); InputError for what is not (B, C, H, W)."""
        if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
            shape = f"of shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            raise InputError(f"augmentation needs images (B, C, H, W), but the inputs are {shape}; omit `augment=`")
        if epoch != self._epoch:
            generator = np.random.default_rng((self._seed, epoch, 1))
            self._drawn = generator.random((self._rows, len(self._changes), _NUMBERS))
            self._epoch = epoch
        drawn = torch.from_numpy(self._drawn[positions.cpu().numpy()])  # (B, changes, _NUMBERS)
        changed: Tensor = images
        for number, (name, options) in enumerate(self._changes):
            changed = _CHANGES[name](changed, drawn[:, number].to(images.device, torch.float32), options)
        return changed


def _crop(images: Tensor, drawn: Tensor, options: Mapping[str, Any]) -> Tensor:
    size, pad = options["size"], options["pad"]
    padded = nn.functional.pad(images, (pad, pad, pad, pad))
    height, width = padded.shape[2:]
    if min(height, width) < size:
        shape = f"{images.shape[2]} x {images.shape[3]}"
        raise InputError(f"a crop of {size} is larger than the images, {shape} with a pad of {pad}")
    top, left = (drawn[:, 0] * (height - size + 1)).long(), (drawn[:, 1] * (width - size + 1)).long()
    steps = torch.arange(size, device=images.device)
    rows, columns = top[:, None] + steps, left[:, None] + steps  # (B, size)
    which = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _flip(images: Tensor, drawn: Tensor, options: Mapping[str, Any]) -> Tensor:
    return torch.where((drawn[:, 0] < options["p"])[:, None, None, None], images.flip(3), images)


def _vflip(images: Tensor, drawn: Tensor, options: Mapping[str, Any]) -> Tensor:
    return torch.where((drawn[:, 0] < options["p"])[:, None, None, None], images.flip(2), images)


def _erase(images: Tensor, drawn: Tensor, options: Mapping[str, Any]) -> Tensor:
    """Set a square of a share of the area to 0."""
    height, width = images.shape[2:]
    side = max(1, round((options["share"] * height * width) ** 0.5))
    places = []
    for number, extent in ((1, height), (2, width)):
        first = (drawn[:, number] * max(1, extent - side + 1)).long()[:, None]
        steps = torch.arange(extent, device=images.device)[None]
        places.append((steps >= first) & (steps < first + side))
    hit = (places[0][:, None, :, None] & places[1][:, None, None, :]) & (drawn[:, 0] < options["p"])[:, None, None, None]
    return images.masked_fill(hit, 0.0)


_CHANGES: dict[str, Callable[[Tensor, Tensor, Mapping[str, Any]], Tensor]] = {
    "crop": _crop,
    "flip": _flip,
    "vflip": _vflip,
    "erase": _erase,
}
