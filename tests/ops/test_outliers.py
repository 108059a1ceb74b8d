"""Outliers equal naive loops; healthy data are not flooded."""

import math

import numpy as np
import pytest
import torch

from embedscope.errors import UndefinedError
from embedscope.ops.neighbors import nearest_neighbors
from embedscope.ops.outliers import outliers


def found_in(x):
    return outliers(nearest_neighbors(torch.as_tensor(x), 15))


def test_outliers_equal_loops():
    x = np.random.default_rng(0).normal(size=(101, 5))
    x[7] += 8
    x[30] -= 5
    near = [sorted((math.dist(x[one], x[other]), other) for other in range(101) if other != one)[:10] for one in range(101)]
    mean = [sum(distance for distance, _ in row) / 10 for row in near]
    usual = sorted(mean)[50]
    above = sorted(value / usual for value in mean if value > usual)
    threshold = above[(len(above) - 1) // 2] ** (4 / 0.6745)
    flagged = []
    for row in range(101):
        around = sorted(mean[other] for _, other in near[row])[4]
        flagged.append(mean[row] / usual > threshold and mean[row] > 1.25 * around)
    found = found_in(x)
    np.testing.assert_allclose(found.ratio.numpy(), np.array(mean) / usual, rtol=1e-12)
    assert found.threshold == pytest.approx(threshold, rel=1e-12)
    assert found.found.tolist() == flagged
    assert {7, 30} <= set(found.found.nonzero().squeeze(1).tolist())


@pytest.mark.parametrize(("width", "share"), [(2, 0.01), (8, 0.001), (64, 0.001)])
def test_healthy_data_are_not_flooded(width, share):
    generator = np.random.default_rng(width)
    for classes in (1, 10):
        x = generator.normal(size=(2000, width)) + 4 * generator.normal(size=(classes, width))[np.arange(2000) % classes]
        assert float(found_in(x).found.double().mean()) <= share


def test_wide_class_is_not_flooded():
    x = np.random.default_rng(4).normal(size=(1000, 16))
    x[:500] = 5 * x[:500] + 100
    assert int(found_in(x).found.sum()) <= 2


def test_collapsed_features_are_refused():
    with pytest.raises(UndefinedError, match="exact copies"):
        found_in(np.repeat(np.eye(3), 20, axis=0))


def test_few_rows_are_refused():
    with pytest.raises(UndefinedError, match="at least 20 rows, got 2"):
        found_in(np.eye(2))
