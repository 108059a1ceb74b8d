from itertools import islice

import numpy as np
import pytest

from embedscope.errors import UsageError
from embedscope.finetuning.sampling import build_sampler

LABELS = np.repeat(np.arange(6), [30, 20, 10, 7, 3, 1])


def test_shuffled_takes_every_row_once_an_epoch():
    sampler = build_sampler("shuffled", LABELS, 16, 0)
    first, second = (list(sampler.batches(epoch)) for epoch in (1, 2))
    assert [len(batch) for batch in first] == [16, 16, 16, 16, 7]
    assert sorted(np.concatenate(first)) == list(range(71))
    assert not np.array_equal(first[0], second[0])


@pytest.mark.parametrize("spec", ["shuffled", "balanced(classes=3, samples=4)"])
def test_an_epoch_is_the_same_whenever_it_is_asked_for(spec):
    sampler = build_sampler(spec, LABELS, 16, 7)
    list(sampler.batches(1))
    for one, other in zip(sampler.batches(5), build_sampler(spec, LABELS, 16, 7).batches(5), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(next(sampler.batches(5)), next(build_sampler(spec, LABELS, 16, 8).batches(5)))


def test_balanced_batches_have_classes_and_rows_of_each():
    sampler = build_sampler("balanced(classes=3, samples=4)", LABELS, 1, 0)
    batches = list(sampler.batches(1))
    for batch in batches:
        classes, counts = np.unique(LABELS[batch], return_counts=True)
        assert len(classes) == 3
        assert counts.tolist() == [min(4, (code == LABELS).sum()) for code in classes]
        assert len(set(batch.tolist())) == len(batch)
    drawn = sum(map(len, batches))
    assert drawn - len(batches[-1]) < len(LABELS) <= drawn


def test_balanced_classes_and_rows_take_turns():
    sampler = build_sampler("balanced(classes=4, samples=4)", LABELS, 1, 0)
    batches = list(islice(sampler.batches(1), 9))
    drawn = np.concatenate([np.unique(LABELS[batch]) for batch in batches])
    assert np.ptp(np.bincount(drawn)) <= 1  # 36 turns of 6 classes
    for code in range(6):
        rows = np.concatenate([batch[LABELS[batch] == code] for batch in batches])
        counts = np.bincount(rows, minlength=len(LABELS))[code == LABELS]
        assert np.ptp(counts) <= 1


def test_balanced_with_fewer_classes_takes_them_all():
    (first, *_) = build_sampler("balanced", LABELS, 1, 0).batches(1)
    assert sorted(set(LABELS[first])) == list(range(6))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("balance", "no sampler 'balance'; did you mean 'balanced'"),
        ("balanced(3)", "balanced takes classes=32, samples=8"),
        ("balanced(kinds=3)", "balanced takes classes=32, samples=8"),
        ("balanced(classes=1)", "classes of balanced must be an integer of at least 2, got 1"),
        ("shuffled(seed=3)", "shuffled takes no options"),
    ],
)
def test_samplers_that_cannot_be(spec, message):
    with pytest.raises(UsageError, match=message):
        build_sampler(spec, LABELS, 1, 0)
