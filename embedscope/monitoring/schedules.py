"""When a training is measured: every N steps, or as often as a share of the training time allows."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embedscope import distributed
from embedscope.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Steps:
    """Every multiple of a number of steps; at the next reported step if a multiple itself is not reported.

    Attributes:
        due: no step before this one is measured.
    """

    every: int
    due: int = 0

    def agrees(self, step: int) -> bool:
        """Whether a step that is not before `due` is measured; if not, `due` is moved."""
        if step % self.every and not self.due:  # the first call of a resumed run, or one that counts from 1
            self.measured(step, 0.0)
            return False
        return True

    def measured(self, step: int, seconds: float) -> None:
        """Note that a step was measured, and set when the next one is."""
        self.due = (step // self.every + 1) * self.every


@dataclass
class Share:
    """As often as the cumulated cost stays below a share of the time that has passed since the first call.

    The first call is measured, which tells the cost. Process 0 decides for all: their clocks differ.

    Attributes:
        share: between 0 and 1.
        clock: in seconds.
        due: no step before this one is measured.
    """

    share: float
    clock: Callable[[], float] = time.perf_counter
    due: int = 0
    _started: tuple[int, float] | None = None
    _cost: float = 0.0
    _latest: list[float] = field(default_factory=list)
    _count: int = 0

    def agrees(self, step: int) -> bool:
        """Whether a step that is not before `due` is measured; if not, `due` is moved."""
        if self._started is None:
            self._started = step, self.clock()
            return True
        agreed, self.due = distributed.broadcast(lambda: self._decided(step))
        return agreed

    def measured(self, step: int, seconds: float) -> None:
        """Note that a step was measured, and set when the next one may be."""
        if self._started is None:  # by a call of `measure`, before any step was told
            self._started = step, self.clock() - seconds
        self._cost += seconds
        self._count += 1
        # The first one also reads the probe, and says nothing of those that follow.
        self._latest = [seconds] if self._count <= 2 else [*self._latest[-2:], seconds]
        self.due = distributed.broadcast(lambda: self._estimated(step))

    def _decided(self, step: int) -> tuple[bool, int]:
        missing = self._missing()
        return (True, step) if missing <= 0 else (False, self._estimated(step))

    def _missing(self) -> float:
        """How many seconds must pass before the next measurement fits into the share, at the highest of the last costs."""
        assert self._started is not None
        expected = max(self._latest, default=0.0)
        return (self._cost + expected) / self.share - (self.clock() - self._started[1] + expected)

    def _estimated(self, step: int) -> int:
        """At which step to look again: by the duration of the steps so far, but soon enough if they should become slower."""
        assert self._started is not None
        first, started = self._started
        passed = step - first
        if passed <= 0:
            return step + 1
        each = max((self.clock() - started - self._cost) / passed, 1e-9)
        return step + max(1, min(math.ceil(self._missing() / each), passed))


def schedule(every: int | str) -> Steps | Share:
    """Read `every`: a whole number of steps from 1, or a share of the time such as "2%".

    >>> schedule("2%").share
    0.02
    """
    if isinstance(every, str) and (match := re.fullmatch(r"\s*(\d*\.?\d+)\s*%\s*", every)) and 0 < float(match[1]) <= 100:
        return Share(float(match[1]) / 100)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise UsageError(f"`every=` takes a number of steps from 1, or a share of time such as '2%'; got {str(every)[:40]!r}")
    return Steps(every)
