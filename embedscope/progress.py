"""Progress reporting: a Track wraps an iterable; the default one shows nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")


class Track(Protocol):
    """Wraps an iterable to show how far it is: a progress bar from the command line, nothing in the library."""

    def __call__(
        self, items: Iterable[T], description: str, total: int, *, size: Callable[[T], int] | None = None
    ) -> Iterable[T]:
        """Give the items on, one by one; `total` is their number, or that of the rows where `size` counts those of an item."""
        ...


def untracked(items: Iterable[T], description: str, total: int, *, size: Callable[[T], int] | None = None) -> Iterable[T]:
    """Show nothing: what a Track is in the library."""
    return items


def silent(text: str) -> None:
    """Drop a message, as functions do with all of theirs by default."""
