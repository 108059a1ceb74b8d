"""From what a data source gives to what a network takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

TO_INPUT = "image: (C, H, W) float32 in [0, 1], one channel for grey images, otherwise RGB; uint8 array: divided by 255"

_GREY = frozenset({"1", "L", "I", "F", "I;16", "LA"})


def to_input(item: Image | Tensor) -> Tensor:
    """Turn a PIL image into (C, H, W) float32 in [0, 1], and an array into float32 where it is floating or uint8.

    Grey images keep their one channel, all others become RGB. 16-bit grey is divided by 65535. Other integers (token ids) stay
    as they are.
    """
    if isinstance(item, Tensor):
        if item.dtype == torch.uint8:
            return item.float() / 255
        return item.float() if item.is_floating_point() else item
    if item.mode.startswith("I"):
        return torch.from_numpy(np.asarray(item, dtype=np.float32) / 65535)[None]
    pixels = np.array(item.convert("L" if item.mode in _GREY else "RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1)))
