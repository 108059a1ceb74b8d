"""Which rows training never sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from embedscope.errors import InputError, UsageError
from embedscope.store import select

if TYPE_CHECKING:
    from embedscope.records import FeatureSet

_TEST = ("test", "testing")


def hold_out(features: FeatureSet, share: float, seed: int) -> tuple[FeatureSet, FeatureSet, str]:
    """Part labelled rows into those to train on and those held out, and say how.

    The split "test" is held out where there is one. Otherwise a share of every class is drawn; a class with one row stays in
    training.

    Raises:
        UsageError: a share outside (0, 1).
        InputError: fewer than two classes on either side, or a class that only the held-out rows have.
    """
    if not 0 < share < 1:
        raise UsageError(f"the share of rows to hold out has to be between 0 and 1, got {share}")
    mask = (
        np.isin(np.char.lower(features.split.astype(str)), _TEST)
        if features.split is not None
        else np.zeros(len(features.labels), dtype=bool)
    )
    if mask.any():
        how = "the split 'test' of the features"
    else:
        how = f"{share:.0%} of every class, drawn with seed {seed}"
        mask = _drawn(features.labels, share, seed)
    train, test = select(features, ~mask), select(features, mask)
    for name, part in (("to train on", train), ("held out", test)):
        if (count := len(np.unique(part.labels))) < 2:
            raise InputError(f"{features.source}: the rows {name} have {count} classes, a comparison needs at least 2")
    if unseen := sorted(set(test.labels.tolist()) - set(train.labels.tolist())):
        names = ", ".join(features.class_names[label] for label in unseen[:5])
        raise InputError(f"{features.source}: {len(unseen)} classes are held out and never trained on: {names}")
    return train, test, how


def _drawn(labels: np.ndarray[Any, Any], share: float, seed: int) -> np.ndarray[Any, Any]:
    mask = np.zeros(len(labels), dtype=bool)
    generator = np.random.default_rng(seed)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        mask[members[: min(max(1, round(share * len(members))), len(members) - 1)]] = True
    return mask
