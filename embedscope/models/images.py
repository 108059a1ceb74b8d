"""What any image of Pillow is to a network: upright, one channel or RGB, in [0, 1], with nothing clipped or guessed.

Every model source gets its pixels from here, whichever data source gave the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from embedscope.errors import InputError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

# Modes of one channel. Those of more than 8 bits are the second group.
_GRAY = frozenset({"1", "L", "LA", "La"})
_DEEP = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})

# Modes that Pillow takes to RGB by way of another one only.
_BY_WAY_OF = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}


def reading(value_range: tuple[float, float] | None) -> str:
    """Say how images become pixels, for the record."""
    deep = "16-bit gray over 65535, float gray as it is in [0, 1]"
    if value_range is not None:
        deep = f"gray of more than 8 bits from {value_range[0]:g}..{value_range[1]:g} to [0, 1]"
    return (
        f"images upright by EXIF, first frame, alpha dropped, CMYK by Pillow's formula, 16-bit color by its high byte, {deep}"
    )


def standard(image: Image, channels: int | None = None, value_range: tuple[float, float] | None = None) -> Image:
    """Return an image upright and in mode "L" or "RGB" (8 bits), or "F" (gray in [0, 1]) if it has more than 8 bits.

    Alpha is dropped, as `convert("RGB")` does, so that the colors are those the file holds. Palettes and bilevel images are
    converted here, before anything resizes them, because Pillow resizes those by the nearest pixel.

    Args:
        image: of any mode; it is not changed.
        channels: 1 gives "L", 3 gives "RGB"; None keeps gray images gray and makes all others RGB. "F" has one channel always.
        value_range: what is black and what is white in images of more than 8 bits; None stands for 0..65535 in whole numbers
            and 0..1 in floats.

    Raises:
        InputError: values outside of the range, which a conversion would clip.
    """
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP:
        return _unit(image, value_range)
    if "transparency" in image.info:  # Pillow would warn, or carry it over
        image = image.copy()
        del image.info["transparency"]
    gray = image.mode in _GRAY
    if image.mode in _BY_WAY_OF:
        image = image.convert(_BY_WAY_OF[image.mode])
    if image.mode == "LAB":
        image = _from_lab(image)
    if not gray:
        image = image.convert("RGB")
    return image.convert("L" if channels == 1 or (channels is None and gray) else "RGB")


def _unit(image: Image, value_range: tuple[float, float] | None) -> Image:
    from PIL.Image import fromarray

    values = np.asarray(image).astype(np.float64)
    low, high = value_range or ((0.0, 1.0) if image.mode == "F" else (0.0, 65535.0))
    least, most = float(values.min()), float(values.max())
    if not low <= least <= most <= high:  # NaN too
        raise InputError(
            f"an image of mode {image.mode} has values from {least:g} to {most:g}, outside {low:g}..{high:g}; set the "
            f"black and white values, as in `value_range='0,4095'`"
        )
    return fromarray(((values - low) / (high - low)).astype(np.float32))


def _from_lab(image: Image) -> Image:
    from PIL import ImageCms

    profiles = (ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"))
    converted = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "LAB", "RGB"))
    assert converted is not None  # only None in place
    return converted


def to_tensor(image: Image, channels: int | None = None) -> Tensor:
    """Turn what `standard` returned into (1, H, W) or (3, H, W) float32 in [0, 1]; with `channels` 3, gray three times."""
    if image.mode == "F":  # resizing may have gone beyond, as it cannot in 8 bits
        pixels = torch.from_numpy(np.array(image)).clamp_(0, 1)[None]
    else:
        array = np.array(image, dtype=np.float32) / 255
        pixels = torch.from_numpy(array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1)))
    return pixels.repeat(3, 1, 1) if channels == 3 and len(pixels) == 1 else pixels


def eight_bits(image: Image) -> Image:
    """Round what `standard` returned to 8 bits, for what takes no more."""
    from PIL.Image import fromarray

    if image.mode != "F":
        return image
    return fromarray((np.asarray(image) * 255).round().astype(np.uint8))


def visible(image: Image) -> Image:
    """Return an image for people to look at, upright and in 8 bits; more bits are stretched from the lowest to the highest."""
    from PIL import ImageOps
    from PIL.Image import fromarray

    image = ImageOps.exif_transpose(image)
    if image.mode not in _DEEP:
        return standard(image)
    values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0, neginf=0)
    return fromarray(((values - values.min()) / (np.ptp(values) or 1) * 255).astype(np.uint8))


def parse_range(text: str) -> tuple[float, float]:
    """Read 0,4095 -> (0.0, 4095.0); UsageError unless it is two finite numbers, the lower one first.

    >>> parse_range("0,4095")
    (0.0, 4095.0)
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not -np.inf < low < high < np.inf:
        raise UsageError(f"cannot read the range '{text}'; give the black and white values, as in 0,4095")
    return low, high
