"""Groups of copies equal naive loops, are found whatever the scale, and do not appear in ordinary data."""

import math

import numpy as np
import pytest
import torch

from embedscope.ops.near_copies import near_copies
from embedscope.ops.neighbors import nearest_neighbors


def groups(x, k=50):
    return near_copies(nearest_neighbors(torch.as_tensor(x), k)).group.numpy()


def naive(x, threshold, k):
    """Connect rows by loops over the pairs: both nearer than the threshold by all rows and by the neighbors of the row."""
    count = len(x)
    between = np.array([[math.dist(one, other) for other in x] for one in x])
    np.fill_diagonal(between, math.inf)
    first = between.min(axis=1)
    usual = sorted(first)[(count - 1) // 2]
    parent = list(range(count))

    def root(row):
        while parent[row] != row:
            row = parent[row]
        return row

    for row in range(count):
        near = sorted(range(count), key=lambda other: (between[row][other], other))[:k]
        around = sorted(first[other] for other in near)[int(0.7 * (len(near) - 1))]
        for other in near:
            if between[row][other] < threshold / usual * min(usual, around) or between[row][other] == 0:
                low, high = sorted((root(row), root(other)))
                parent[high] = low
    return [root(row) for row in range(count)]


def test_groups_equal_loops():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(120, 6))
    x[100:110] = x[:10] + 0.001 * generator.normal(size=(10, 6))
    x[110:113] = x[0]
    found = near_copies(nearest_neighbors(torch.from_numpy(x), 20))
    assert found.group.tolist() == naive(x, found.threshold, 20)
    assert found.group[110:113].tolist() == [0] * 3
    assert found.group[100:110].tolist() == list(range(10))


@pytest.mark.parametrize("width", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("classes", [1, 10])
def test_ordinary_data_have_no_copies(width, classes):
    generator = np.random.default_rng(width)
    false = 0
    for _ in range(3):
        centers = 4 * generator.normal(size=(classes, width))
        x = generator.normal(size=(1000, width)) + centers[np.arange(1000) % classes]
        false += int((groups(x) != np.arange(1000)).sum())
    assert false <= 9  # one row in each is expected by the bound, and Poisson exceeds 9 of 3 once in 1,000 times


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_scale_and_place_change_nothing(scale):
    generator = np.random.default_rng(1)
    x = generator.normal(size=(300, 16))
    x[290:] = x[:10] * (1 + 1e-3 * generator.normal(size=(10, 16)))
    found = groups(x * scale + 100 * scale)
    assert found[290:].tolist() == list(range(10))
    assert (found[:290] == np.arange(290)).all()


def test_a_dense_class_is_no_crowd_of_copies():
    generator = np.random.default_rng(2)
    x = generator.normal(size=(600, 10))
    x[300:] *= 0.02
    assert (groups(x) == np.arange(600)).all()


def test_exact_copies_are_found_in_any_number():
    x = np.random.default_rng(3).normal(size=(200, 4))
    x[50:180] = x[7]
    found = groups(x)
    assert (found[50:180] == 7).all()
    assert len(set(found.tolist())) == 70


def test_constant_features_are_one_group():
    assert (groups(np.ones((80, 3))) == 0).all()


def test_two_rows():
    assert groups(np.array([[0.0, 1.0], [1.0, 0.0]])).tolist() == [0, 1]
    assert groups(np.zeros((2, 2))).tolist() == [0, 0]
