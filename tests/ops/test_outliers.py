"""Outliers equal naive loops; healthy data are not flooded."""

import math

import numpy as np
import pytest
import torch

from embedscope.errors import UndefinedError
from embedscope.ops.neighbors import nearest_neighbors
from embedscope.ops.outliers import outliers


def found_in(x, labels=None):
    return outliers(nearest_neighbors(torch.as_tensor(x), 15), None if labels is None else torch.as_tensor(labels))


def threshold_of(values, middle):
    above = sorted(value / middle for value in values if value > middle)
    return above[(len(above) - 1) // 2] ** (4 / 0.6745)


@pytest.mark.parametrize("labeled", [False, True])
def test_outliers_equal_loops(labeled):
    x = np.random.default_rng(0).normal(size=(101, 5))
    x[7] += 8
    x[30] -= 5
    y = np.arange(101) % 3
    y[:15] = -1, *14 * [7]  # 14 rows: too few to compare with
    near = [sorted((math.dist(x[one], x[other]), other) for other in range(101) if other != one)[:10] for one in range(101)]
    mean = [sum(distance for distance, _ in row) / 10 for row in near]
    usual = sorted(mean)[50]
    local = [mean[row] / sorted(mean[other] for _, other in near[row])[4] for row in range(101)]
    flagged = []
    for row in range(101):
        out = mean[row] / usual > threshold_of(mean, usual) and local[row] > max(1.25, threshold_of(local, 1))
        own = sorted(mean[other] for other in range(101) if y[other] == y[row])
        if labeled and y[row] >= 0 and len(own) >= 20:
            middle = own[(len(own) - 1) // 2]
            out = out and mean[row] / middle > threshold_of(own, middle)
        flagged.append(out)
    found = found_in(x, y if labeled else None)
    np.testing.assert_allclose(found.ratio.numpy(), np.array(mean) / usual, rtol=1e-12)
    assert found.threshold == pytest.approx(threshold_of(mean, usual), rel=1e-12)
    assert found.found.tolist() == flagged
    assert {7, 30} <= set(found.found.nonzero().squeeze(1).tolist())


@pytest.mark.parametrize(("width", "share"), [(2, 0.01), (8, 0.001), (64, 0.001)])
def test_healthy_data_are_not_flooded(width, share):
    generator = np.random.default_rng(width)
    for classes in (1, 10):
        x = generator.normal(size=(2000, width)) + 4 * generator.normal(size=(classes, width))[np.arange(2000) % classes]
        assert float(found_in(x).found.double().mean()) <= share


@pytest.mark.parametrize("wide", [200, 500])
def test_wide_class_is_not_flooded(wide):
    x, y = np.random.default_rng(4).normal(size=(1000, 16)), np.arange(1000) < wide
    x[:wide] *= 5
    assert int(found_in(x, y.astype(int)).found.sum()) == 0
    x[:wide] += 100
    assert int(found_in(x).found.sum()) == 0


@pytest.mark.parametrize("width", [16, 64])
@pytest.mark.parametrize("scale", [3, 5])
def test_a_wide_concentric_group_without_labels_is_not_flooded(width, scale):
    x = np.random.default_rng(4).normal(size=(1000, width))
    x[:200] *= scale
    found = found_in(x)
    assert found.group > 100
    assert int(found.found.sum()) == 0
    x[990:] *= 5 * scale  # ten rows beyond the wide group
    assert found_in(x).found.nonzero().squeeze(1).tolist() == list(range(990, 1000))


def test_one_row_in_twenty_may_be_an_outlier():
    x = np.random.default_rng(5).normal(size=(1000, 16))
    x[:50] *= 3
    found = found_in(x)
    assert found.found.nonzero().squeeze(1).tolist() == list(range(50))
    assert found.group == 0
    x[50:60] *= 3
    found = found_in(x)
    assert (int(found.found.sum()), found.group) == (0, 60)
    y = np.arange(1000) % 4  # with labels, rows are compared with their class
    assert found_in(x, y).found.nonzero().squeeze(1).tolist() == list(range(60))


def test_collapsed_features_are_refused():
    with pytest.raises(UndefinedError, match="exact copies"):
        found_in(np.repeat(np.eye(3), 20, axis=0))


def test_few_rows_are_refused():
    with pytest.raises(UndefinedError, match="at least 20 rows, got 2"):
        found_in(np.eye(2))
