"""The fused GPU kernel for passes over all pairs, if it is available and gives correct results.

A kernel is compiled by the Triton and the driver at hand, for whatever GPU is there. On its first use on a device,
it is therefore checked against plain torch on a small problem; if it fails or differs, a warning says why, and plain
torch is used.
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embedscope.ops.all_pairs import all_pairs_once, some_against_all
from embedscope.ops.class_moments import present_classes
from embedscope.ops.minima import MinimumForm, RunningMinimum
from embedscope.ops.pairwise import Frame

if TYPE_CHECKING:
    from embedscope.ops._class_distances_triton import Tiling
    from embedscope.ops.class_moments import Classes

# What is known of each device: whether its kernel may be used.
_CHECKED: dict[str, bool] = {}

# How far the kernel's distances of order 10 may be from those in float64: products of float32 rows.
_TOLERANCE = 1e-4


def fusible(features: Tensor) -> bool:
    """Tell whether to use the kernel for these rows: they are on a GPU, not in float64, and the kernel is right there."""
    if features.device.type != "cuda" or features.dtype == torch.float64 or not importlib.util.find_spec("triton"):
        return False
    return checked(features.device)


def checked(device: torch.device, tiling: Tiling | None = None) -> bool:
    """Compare the kernel with plain torch on a small problem, once per device; warn if it cannot be used."""
    if str(device) not in _CHECKED:
        # Whatever a compiler, a driver or a chip may do: plain torch can do the work, and the warning carries the reason.
        try:
            reason = _difference(device, tiling)
        except Exception as error:
            reason = f"it fails with {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        if reason:
            warnings.warn(f"using plain torch instead of the fused kernel on {device}: {reason}", RuntimeWarning, stacklevel=2)
        _CHECKED[str(device)] = not reason
    return _CHECKED[str(device)]


def _difference(device: torch.device, tiling: Tiling | None) -> str:
    """Return how the kernel differs from plain torch in float64, "" if it does not."""
    from embedscope.ops._class_distances_triton import fused_class_distances

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 5 * (torch.arange(300) > 100)  # one class of several tiles, four of one
    rows = torch.randn(300, 40, generator=generator) + torch.randn(5, 40, generator=generator)[labels]
    classes, frame = present_classes(labels.to(device)), Frame(torch.zeros(40, dtype=torch.float64), 1.0)
    for form in (MinimumForm(), MinimumForm("weighted", 0.5)):
        own, found, _ = fused_class_distances(rows.to(device), classes, frame, unit=False, form=form, tiling=tiling)
        exact_own, exact = all_pairs_once(rows.double().to(device), classes, frame, unit=False, form=form)
        others = len(classes) - 1
        off = float(
            torch.maximum((own - exact_own).abs() / len(rows), (found.result(others) - exact.result(others)).abs()).max()
        )
        if not off <= _TOLERANCE:
            return f"its distances differ by {off:.1e}"
        if not torch.equal(found.nearest, exact.nearest):
            return "it finds other nearest classes"
    return ""


def fused(
    features: Tensor, classes: Classes, frame: Frame, *, unit: bool, form: MinimumForm, tiling: Tiling | None = None
) -> tuple[Tensor, RunningMinimum]:
    """Do what `all_pairs_once` does by one kernel, and again, exactly, for rows with neighbors too near for that."""
    from embedscope.ops._class_distances_triton import fused_class_distances

    own, found, again = fused_class_distances(features, classes, frame, unit=unit, form=form, tiling=tiling)
    wanted = again.nonzero().squeeze(1)
    if len(wanted) > len(again) // 2:
        return all_pairs_once(features, classes, frame, unit=unit, form=form)
    if len(wanted):
        own[wanted], exact = some_against_all(features, classes, wanted, frame, unit=unit, form=form)
        found.replace(wanted, exact)
    return own, found
