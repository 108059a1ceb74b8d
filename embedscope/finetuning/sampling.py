"""Which rows come in which batch: decided by the labels, the seed and the epoch, and by nothing that went before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from embedscope.finetuning.specs import check_sampler

if TYPE_CHECKING:
    from collections.abc import Iterator

    Array = np.ndarray[Any, Any]


class Sampler(Protocol):
    """Gives the batches of an epoch."""

    def batches(self, epoch: int) -> Iterator[Array]:
        """Positions of rows, (B,) int64 each; the same for the same epoch, whenever it is asked for."""
        ...


@dataclass(frozen=True)
class Shuffled:
    """Every row once per epoch, in an order of its own; the last batch may be smaller."""

    rows: int
    batch_size: int
    seed: int

    def batches(self, epoch: int) -> Iterator[Array]:
        """Cut a permutation into batches."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
        for start in range(0, self.rows, self.batch_size):
            yield order[start : start + self.batch_size]


@dataclass(frozen=True)
class Balanced:
    """Some classes per batch and some rows of each: what losses on pairs need, since otherwise most pairs have two classes.

    Classes take turns: each comes once before any comes again. So do the rows of a class, over the batches of an epoch. A class
    with fewer rows gives them all, and none twice in a batch. An epoch has as many batches as it takes to draw as many rows as
    there are.
    """

    members: tuple[Array, ...]  # (K,) of (n_c,) positions
    classes: int
    samples: int
    seed: int

    def batches(self, epoch: int) -> Iterator[Array]:
        """Draw classes in turn, and rows of each in turn."""
        generator = np.random.default_rng((self.seed, epoch))
        turns = _in_turn(len(self.members), self.classes, generator)
        rows = [_in_turn(len(group), min(self.samples, len(group)), generator) for group in self.members]
        left = sum(map(len, self.members))
        while left > 0:
            batch = np.concatenate([self.members[code][next(rows[code])] for code in next(turns)])
            left -= len(batch)
            yield batch


def _in_turn(count: int, size: int, generator: np.random.Generator) -> Iterator[Array]:
    """Give `size` distinct ones of `count` places without end; each comes once before any comes again."""
    queue = generator.permutation(count)
    while True:
        if len(queue) < size:  # the rest of this round, and of the next one those that are not among it
            fresh = generator.permutation(count)
            later = np.isin(fresh, queue)
            queue = np.concatenate([queue, fresh[~later], fresh[later]])
        yield queue[:size]
        queue = queue[size:]


def build_sampler(spec: str, labels: Array, batch_size: int, seed: int) -> Sampler:
    """Make a sampler from `shuffled`, or `balanced(classes=32, samples=8)`, for (N,) labels in 0..K-1.

    With fewer classes than a batch would take, it takes them all. UsageError for another name or option, fewer than two
    classes or samples per batch.
    """
    name, options = check_sampler(spec)
    if name == "shuffled":
        return Shuffled(len(labels), batch_size, seed)
    members = tuple(np.flatnonzero(labels == code) for code in range(int(labels.max()) + 1))
    return Balanced(members, min(options["classes"], len(members)), options["samples"], seed)
