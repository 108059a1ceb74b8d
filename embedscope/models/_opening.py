"""What several model sources share: silence while another library loads, and names among many."""

from __future__ import annotations

import importlib.util
import logging
import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from embedscope.errors import InputError, UsageError, nearest, unknown
from embedscope.plugins import imported
from embedscope.text import counted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence


@contextmanager
def quiet(*packages: str) -> Iterator[None]:
    """Keep packages from logging (below critical) and from FutureWarnings and DeprecationWarnings; all as before afterwards.

    What they have to say is for their developers; what matters to a user comes as an exception, or is read off the result.
    Where "transformers" is among them, its progress bars are off too.
    """
    loggers = [logging.getLogger(package) for package in packages]
    levels = [logger.level for logger in loggers]
    bars = sys.modules.get("transformers.utils.logging") if "transformers" in packages else None
    shown = bars is not None and bars.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    if bars is not None and shown:
        bars.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars is not None and shown:
            bars.enable_progress_bar()


def check_torchvision() -> None:
    """Raise InputError if torchvision was built for another torch: transformers imports it, and hides why that fails."""
    if importlib.util.find_spec("torchvision") is not None:
        imported("torchvision", extra="vision")


def unknown_among_many(what: str, got: str, known: Collection[str], listed: str) -> str:
    """Word the message for a name among more than one wants to read: the close ones, and the call that lists all."""
    close = nearest(got, known, count=5)
    found = unknown(what, got, close) if close else f"no {what} '{got}'"
    return f"{found}; {listed} lists all {len(known):,}"


def sole_input(path: str, names: Sequence[str]) -> str:
    """Return the name of a program's only input; InputError names them if it takes several, or none."""
    if len(names) != 1:
        raise InputError(
            f"{path} takes {counted(len(names), 'input')} ({', '.join(names) or 'none'}), but only one can be passed; wrap "
            "the model in one that takes a single tensor before saving it"
        )
    return names[0]


def per_channel(what: str, numbers: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return a number a channel, one given for all repeated; UsageError for another count, which would add channels."""
    if len(numbers) not in (1, channels):
        raise UsageError(
            f"{what} has {counted(len(numbers), 'value')}, but the model takes {counted(channels, 'channel')}; give 1 or "
            f"{channels}"
        )
    return numbers * channels if len(numbers) == 1 else numbers


def no_image(sentence: str, item: Any) -> Any:
    """Refuse an image, as the transform of a model that takes prepared arrays only."""
    raise InputError(sentence)


def not_adjustable(sentence: str, **values: Any) -> Any:
    """Refuse a size, mean or std, as the preset of a model whose preprocessing has none."""
    raise UsageError(f"{', '.join(f'`{name}=`' for name in values)}: {sentence}")
