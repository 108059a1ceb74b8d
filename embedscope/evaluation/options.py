"""What is checked of the options that several verbs share, before any source is opened."""

from __future__ import annotations

from typing import Any

from embedscope import devices
from embedscope.arguments import check_flag, check_seed, check_text, check_whole
from embedscope.evaluation.intervals import check_ci


def check_options(
    *, split: Any = None, sample: Any = None, ci: Any = False, device: Any = "auto", seed: Any = 0, **flags: Any
) -> None:
    """Raise UsageError for a value that no rows could make right, InputError for a device that is not there.

    `flags` are True or False, each under its name.
    """
    if split is not None:
        check_text("`split=`", split)
    if sample is not None:
        check_whole("`sample=`", sample, low=1)
    check_ci(ci)
    devices.choose(device, float64=True)
    check_seed(seed)
    for name, value in flags.items():
        check_flag(f"`{name}=`", value)
