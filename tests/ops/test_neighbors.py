"""The nearest rows equal scikit-learn's brute force."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from embedscope.errors import UndefinedError
from embedscope.ops.neighbors import nearest_neighbors


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_neighbors_equal_scikit_learn(distance):
    x = np.random.default_rng(0).normal(size=(300, 8))
    found = nearest_neighbors(torch.from_numpy(x), 5, distance=distance)
    distances, indices = NearestNeighbors(n_neighbors=5, metric=distance, algorithm="brute").fit(x).kneighbors()
    assert (found.indices.numpy() == indices).all()
    np.testing.assert_allclose(found.distances.numpy(), distances, atol=1e-14)


def test_queries_are_not_left_out():
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = nearest_neighbors(x, 30, queries=x[:7])
    assert found.indices.shape == (7, 20)
    assert (found.indices[:, 0] == torch.arange(7)).all()
    assert float(found.distances[:, 0].max()) == 0


def test_duplicates_are_ordered_by_position():
    found = nearest_neighbors(torch.ones(5, 2), 3)
    assert found.indices[0].tolist() == [1, 2, 3]
    assert found.indices[4].tolist() == [0, 1, 2]
    assert float(found.distances.max()) == 0


def test_one_row_has_no_neighbors():
    with pytest.raises(UndefinedError, match="two rows"):
        nearest_neighbors(torch.ones(1, 2), 3)
