"""From what a data source gives to what a network takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from embedscope.arguments import check_number, check_whole, displayed
from embedscope.errors import InputError, UsageError
from embedscope.models.images import parse_range, reading, standard, to_tensor
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

    from embedscope.models.encoder import Items

# How bright red, green and blue are, as Pillow has it (ITU-R 601-2).
_LUMA = (0.299, 0.587, 0.114)
# Pixels per side to resize images to.
_LARGEST = 2**14


@dataclass(frozen=True)
class Pixels:
    """How images and arrays become float32 tensors where the model says nothing about it.

    Images become (C, H, W) in [0, 1]: one channel for gray ones, otherwise RGB (see `images.standard`). Arrays stay as they
    are, but for uint8, which is divided by 255, and other floating types, which become float32. Whole numbers of other types
    (token ids) are left alone.

    Attributes:
        size: (height, width) that images are brought to: the shorter side is resized (bicubic), the center is cut out.
        mean: a number a channel, or one for all, subtracted from what lies in [0, 1].
        std: likewise, divided by afterwards.
        channels: 1 makes all images gray, 3 all RGB; None leaves gray images gray and makes all others RGB.
        value_range: what is black and white in images of more than 8 bits, or None for what their mode implies.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: int | None = None
    value_range: tuple[float, float] | None = None

    @property
    def text(self) -> str:
        """What is done, for the record."""
        resized = "" if self.size is None else f"shorter side to {self.size[0]}x{self.size[1]} (bicubic), center; "
        colors = {1: "gray", 3: "RGB", None: "one channel for gray images, otherwise RGB"}[self.channels]
        scaled = "" if self.mean is None and self.std is None else f"; minus {self.mean or (0.0,)}, over {self.std or (1.0,)}"
        images = f"image: {resized}(C, H, W) float32 in [0, 1], {colors}; uint8 array: divided by 255{scaled}"
        return f"{images}; {reading(self.value_range)}"

    def adjusted(self, **values: Any) -> Pixels:
        """Return one with another size, mean, std or number of channels."""
        return replace(self, **values)

    def __call__(self, items: Items) -> Tensor:
        """Prepare a batch: B images or arrays of one shape -> (B, ...)."""
        if isinstance(items, Tensor) and self.size is None and self.channels is None:
            return self._scaled(to_input(items), batched=True)
        return stack([self._scaled(self._prepared(item), batched=False) for item in items])

    def _prepared(self, item: Image | Tensor | str) -> Tensor:
        if isinstance(item, Tensor):
            is_image = self.size is not None or (self.channels is not None and item.dtype == torch.uint8)
            if not is_image:
                return self._colored(to_input(item))
        image = standard(as_image(item), self.channels, self.value_range)
        if self.size is not None:
            from PIL import ImageOps

            height, width = self.size
            image = ImageOps.fit(image, (width, height), method=3)  # 3: bicubic, with antialiasing
        return to_tensor(image, self.channels)

    def _colored(self, pixels: Tensor) -> Tensor:
        """Make (C, H, W) arrays gray or RGB where that is asked for; arrays that are not images stay as they are."""
        if pixels.ndim != 3 or self.channels in (None, pixels.shape[0]) or pixels.shape[0] not in (1, 3):
            return pixels
        if self.channels == 3:
            return pixels.repeat(3, 1, 1)
        return (pixels * torch.tensor(_LUMA)[:, None, None]).sum(dim=0, keepdim=True)

    def _scaled(self, values: Tensor, *, batched: bool) -> Tensor:
        for numbers, change in ((self.mean, torch.sub), (self.std, torch.div)):
            if numbers is not None:
                axis = 1 if batched else 0
                channels = values.shape[axis] if values.ndim > axis else 0
                if len(numbers) not in (1, channels):
                    raise InputError(
                        f"mean and std have {counted(len(numbers), 'number')}, but the inputs have "
                        f"{counted(channels, 'channel')} and the shape {tuple(values.shape[axis:])}"
                    )
                shape = (-1, *[1] * (values.ndim - axis - 1))
                values = change(values.float(), torch.tensor(numbers).reshape(shape))
        return values


@dataclass(frozen=True)
class ImagePreset:
    """A model's own preprocessing of one image, as its library has it.

    Attributes:
        transform: PIL image, or (C, H, W) float32 in [0, 1] of an image of more than 8 bits -> (C, H, W) float32.
        channels: that images are brought to first: 3 for RGB, or 1.
        steps: what the transform does, for the record.
        make: builds the preset anew with another size, mean or std, given by keyword.
        value_range: what is black and white in images of more than 8 bits, or None for what their mode implies.
    """

    transform: Callable[[Any], Tensor]
    channels: int
    steps: str
    make: Callable[..., ImagePreset]
    value_range: tuple[float, float] | None = None

    @property
    def text(self) -> str:
        """What is done, for the record."""
        return f"image: {'RGB' if self.channels == 3 else 'gray'}; {self.steps}; {reading(self.value_range)}"

    def adjusted(self, **values: Any) -> ImagePreset:
        """Return one with another size, mean or std."""
        return replace(self.make(**values), value_range=self.value_range)

    def __call__(self, items: Items) -> Tensor:
        """Prepare a batch of images, or of uint8 arrays that are images; floating arrays are taken to be prepared already."""
        if isinstance(items, Tensor) and items.is_floating_point():
            return items.float()
        return stack([self._prepared(item) for item in items])

    def _prepared(self, item: Image | Tensor | str) -> Tensor:
        if isinstance(item, Tensor) and item.is_floating_point():
            return item.float()
        image = standard(as_image(item), self.channels, self.value_range)
        return self.transform(to_tensor(image, self.channels) if image.mode == "F" else image)


def to_input(item: Image | Tensor | str) -> Tensor:
    """Turn a PIL image into (C, H, W) float32 in [0, 1], and an array into float32 where it is floating or uint8.

    Gray images keep their one channel, all others become RGB. Other integers (token ids) stay as they are. InputError for text.
    """
    if isinstance(item, Tensor):
        if item.dtype == torch.uint8:
            return item.float() / 255
        # A copy: the first layer of a model may work in place, and the data are read again.
        return item.to(torch.float32, copy=True) if item.is_floating_point() else item
    return to_tensor(standard(as_image(item)))


def as_image(item: Image | Tensor | str) -> Image:
    """Return a PIL image: an image as it is, a uint8 array (H, W), (H, W, C) or (C, H, W) with C of 1, 3 or 4 as one."""
    from PIL import Image

    if isinstance(item, str):
        raise InputError("the data are text, but the model takes images or arrays; use hf: or st: for text models")
    if not isinstance(item, Tensor):
        return item
    if item.ndim == 3 and item.shape[2] not in (1, 3, 4) and item.shape[0] in (1, 3, 4):
        item = item.permute(1, 2, 0)
    if item.dtype != torch.uint8 or item.ndim not in (2, 3) or (item.ndim == 3 and item.shape[2] not in (1, 3, 4)):
        raise InputError(
            f"an array {tuple(item.shape)} of {str(item.dtype).removeprefix('torch.')} is not an image; expected uint8 (H, W), "
            "(H, W, 3) or (3, H, W); scale other integers to floats, as the model takes them"
        )
    return Image.fromarray(item.numpy().squeeze(2) if item.ndim == 3 and item.shape[2] == 1 else item.numpy())


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors of one shape; InputError names the shapes where they differ."""
    shapes = sorted({tuple(tensor.shape) for tensor in tensors})
    if len(shapes) > 1:
        raise InputError(f"inputs differ in shape: {shapes[0]} and {shapes[1]}; {advice(shapes[0], shapes[1])}")
    return torch.stack(list(tensors))


def advice(one: tuple[int, ...], other: tuple[int, ...]) -> str:
    """Say what brings two shapes of inputs together."""
    if len(one) == len(other) == 3 and one[1:] == other[1:]:
        return "`channels=3` converts all images to RGB, `channels=1` to grayscale"
    return "resize them with `size=`"


def parse_size(text: str) -> tuple[int, int]:
    """Read 224 or 224x160 (height x width) -> (224, 160); UsageError if it is neither.

    >>> parse_size("224")
    (224, 224)
    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and 0 < int(part) <= _LARGEST for part in parts):
        limit = f"with at most {_LARGEST:,} pixels per side"
        raise UsageError(f"cannot read the size '{text}'; write 224, or 224x160 for height x width, {limit}")
    return int(parts[0]), int(parts[-1])


def as_size(given: Any) -> tuple[int, int]:
    """Return (height, width) of a size given as both, as one number for both, or as text; UsageError for anything else."""
    if isinstance(given, str):
        return parse_size(given)
    several = given.tolist() if isinstance(given, np.ndarray | Tensor) else given
    sides = tuple(several) if isinstance(several, list | tuple) else (several, several)
    if len(sides) != 2:
        raise UsageError(f"`size=` takes (height, width), or one number for both, got {displayed(given)}")
    height, width = (check_whole("`size=`", side, low=1) for side in sides)
    if max(height, width) > _LARGEST:
        raise UsageError(f"`size=` must be at most {_LARGEST:,} pixels per side, got {max(height, width):,}")
    return height, width


def as_numbers(what: str, given: Any) -> tuple[float, ...]:
    """Return numbers given as several, as one, or as text; UsageError for anything else, and for a std that is not above 0."""
    if isinstance(given, str):
        return parse_numbers(what, given)
    several = given.tolist() if isinstance(given, np.ndarray | Tensor) else given
    listed = several if isinstance(several, list | tuple) else [several]
    if not listed:
        raise UsageError(f"`{what}=` takes one number per channel, got {displayed(given)}")
    above = {"above": 0.0} if what == "std" else {}
    return tuple(check_number(f"`{what}=`", each, **above) for each in listed)


def as_range(given: Any) -> tuple[float, float]:
    """Return (black, white) of a range given as two numbers or as text; UsageError unless black is below white."""
    numbers = parse_range(given) if isinstance(given, str) else as_numbers("value_range", given)
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise UsageError(f"`value_range=` takes two numbers, black and a larger one for white, got {displayed(given)}")
    return numbers[0], numbers[1]


def parse_numbers(what: str, text: str) -> tuple[float, ...]:
    """Read 0.5 or 0.485,0.456,0.406; UsageError if it is neither, or if std is not above zero."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(np.isfinite(number) for number in numbers) or (what == "std" and min(numbers) <= 0):
        raise UsageError(f"cannot read the {what} '{text}'; write one number per channel, as in 0.485,0.456,0.406")
    return numbers
