"""The nearest rows equal scikit-learn's brute force, and differences in float64 on inputs that products are bad at."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from embedscope.errors import UndefinedError, UsageError
from embedscope.ops import blocks, neighbor_tiles
from embedscope.ops.neighbors import nearest_neighbors
from tests.conftest import ROOT


class Lazy:
    """Rows that can only be sliced."""

    def __init__(self, rows):
        self._rows, self.shape, self.dtype = rows, rows.shape, rows.dtype

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self._rows[rows]


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def hard(name):
    rows = normal(120, 12)
    if name == "offset":
        rows = rows + 1000
    elif name == "far classes":
        rows = 1e-3 * rows + 1000 * normal(5, 12, seed=1).repeat(24, 1)
    elif name == "outliers":
        rows[3], rows[80] = 1e15, -1e15
    elif name == "outlier beyond float32 squares":
        rows[3] = 1e30
    elif name == "outlier of float64":
        rows = rows.double()
        rows[3] = 1e100
    elif name == "equal rows":
        rows = torch.full((120, 12), 1.1)
    elif name == "collapsed classes":
        rows = normal(4, 12).repeat_interleave(torch.tensor([70, 40, 8, 2]), dim=0)[
            torch.randperm(120, generator=torch.Generator().manual_seed(4))
        ]
    elif name == "duplicates":
        rows = rows[torch.randint(60, (120,), generator=torch.Generator().manual_seed(2))]
    elif name == "lattice":
        rows = torch.randint(2, (120, 12), generator=torch.Generator().manual_seed(3)).float()
    elif name == "float16":
        rows = rows.half()
    elif name == "tiny":
        rows = rows * 1e-30
    elif name == "zero rows":
        rows[[0, 5, 70]] = 0
    elif name == "half zero rows":
        rows[::2] = 0
        rows[1::2] = rows[1::2].abs() * torch.where(torch.arange(60) % 3 == 0, 1, -1)[:, None]
    elif name == "one dimension":
        rows = rows[:, :1].contiguous()
    elif name == "two rows":
        rows = rows[:2]
    elif name == "sorted by distance":
        rows = torch.arange(120.0)[:, None].square().expand(120, 12).contiguous()
    return rows


HARD = [
    "plain", "offset", "far classes", "outliers", "outlier beyond float32 squares", "outlier of float64", "equal rows",
    "collapsed classes", "duplicates", "lattice", "float16", "tiny", "zero rows", "half zero rows", "one dimension", "two rows",
    "sorted by distance",
]  # fmt: skip


def naive(rows, distance):
    """All distances, float64, from differences; a row is infinitely far from itself."""
    x = rows.double().numpy()
    size = 2.0 ** np.frexp(abs(x).max(axis=1, keepdims=True) if distance == "cosine" else abs(x).max())[1]
    x = x / size  # so that squares do not overflow; exact
    if distance == "cosine":
        length = np.sqrt((x**2).sum(axis=1))
        x = x / np.where(length == 0, 1, length)[:, None]
    squared = np.array([[((row - other) ** 2).sum() for other in x] for row in x])
    if distance == "cosine":
        squared[length == 0] = squared[:, length == 0] = 2
    np.fill_diagonal(squared, np.inf)
    return squared / 2 if distance == "cosine" else np.sqrt(squared) * size


def check(found, rows, distance, k, *, exact):
    every = naive(rows, distance)
    k = min(k, len(rows) - 1)
    expected = np.sort(every, axis=1)[:, :k]
    indices, distances = found.indices.numpy(), found.distances.numpy()
    assert indices.shape == distances.shape == (len(rows), k)
    # The directions of rows 1e-6 apart have lost ten digits to the rounding of unit rows, in the reference too.
    tolerance = 2e-9 if distance == "cosine" else 1e-12
    np.testing.assert_allclose(distances, expected, rtol=tolerance, atol=1e-30)
    np.testing.assert_allclose(np.take_along_axis(every, indices, axis=1), expected, rtol=tolerance, atol=1e-30)
    for row, (near, far) in enumerate(zip(indices, distances, strict=True)):
        assert len({*near}) == k
        assert row not in near
        assert (np.diff(far) >= 0).all()
        if distance == "euclidean" or bool(rows[row].any()):
            assert (far[(rows[near] == rows[row]).all(dim=1).numpy()] == 0).all()
        if exact:  # sums without rounding: of those that tie with the last, the first are found
            assert [*near] == [*np.lexsort((np.arange(len(rows)), every[row]))[:k]]


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 7, 200])
@pytest.mark.parametrize("name", HARD)
def test_hard_inputs(name, k, distance):
    rows = hard(name)
    exact = distance == "euclidean" and name in ("equal rows", "lattice", "one dimension", "sorted by distance")
    check(nearest_neighbors(rows, k, distance=distance), rows, distance, k, exact=exact)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("memory", [2**15, 2**18])
@pytest.mark.parametrize("name", ["plain", "far classes", "collapsed classes", "lattice", "zero rows"])
def test_any_memory_and_rows_on_disk_give_the_same(name, memory, distance):
    rows = hard(name)
    expected = nearest_neighbors(rows, 5, distance=distance)
    with blocks.limits(memory=memory):
        for source in (rows, Lazy(rows)):
            found = nearest_neighbors(source, 5, distance=distance)
            assert torch.equal(found.indices, expected.indices)
            assert torch.equal(found.distances, expected.distances)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_many_tiles_equal_scikit_learn(distance, monkeypatch):
    monkeypatch.setattr(neighbor_tiles, "_TILE", 200)  # five tiles, whose last group is not full
    x = normal(930, 8).numpy()
    found = nearest_neighbors(torch.from_numpy(x), 12, distance=distance)
    distances, indices = (
        NearestNeighbors(n_neighbors=12, metric=distance, algorithm="brute").fit(x.astype(np.float64)).kneighbors()
    )
    assert (found.indices.numpy() == indices).all()
    np.testing.assert_allclose(found.distances.numpy(), distances, rtol=1e-9, atol=1e-12)


def test_the_bounds_settle_ordinary_rows_without_float64(monkeypatch):
    def refuse(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr("embedscope.ops.neighbors._thorough", refuse)
    for shift in (0, 1000):
        nearest_neighbors(normal(500, 64) + shift, 10)
        nearest_neighbors(normal(500, 64).abs(), 10, distance="cosine")


def test_bounds_hold():
    from embedscope.ops.neighbor_space import lower_bounds, surveyed

    for name in HARD:
        rows = hard(name)
        for unit in (False, True):
            space = surveyed(rows, None, unit=unit, device=torch.device("cpu"))
            laid = space.laid(rows, slice(0, len(rows)))
            lower = lower_bounds(laid, laid, laid.right(), torch.empty(len(rows), len(rows), dtype=space.dtype)).double()
            upper = space.upper(lower, laid.norms[:, None] + laid.norms)
            exact = space.exact(rows)
            truth = torch.stack([space.squared(row.expand_as(exact), exact) for row in exact])
            assert bool((lower <= truth + space.vanishing).all()), name
            assert bool((upper >= truth).all()), name


def test_queries_are_not_left_out():
    x = normal(20, 3, dtype=torch.float64)
    found = nearest_neighbors(x, 30, queries=x[:7])
    assert found.indices.shape == (7, 20)
    assert (found.indices[:, 0] == torch.arange(7)).all()
    assert float(found.distances[:, 0].max()) == 0


@pytest.mark.parametrize("factor", [1, 1e25])
def test_queries_equal_scikit_learn(factor):
    x, queries = normal(300, 6), normal(40, 6, seed=1) * factor
    found = nearest_neighbors(x, 4, queries=queries)
    nearest = NearestNeighbors(n_neighbors=4, algorithm="kd_tree").fit(x.double().numpy())
    distances, indices = nearest.kneighbors(queries.double().numpy())
    np.testing.assert_allclose(found.distances.numpy(), distances, rtol=1e-12)
    if factor == 1:
        assert (found.indices.numpy() == indices).all()


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("name", ["plain", "equal rows", "lattice", "zero rows"])
def test_anchors_are_searched_for_without_themselves(name, distance):
    rows, anchors = hard(name), torch.arange(3, 120, 11)
    expected = nearest_neighbors(rows, 6, distance=distance).of(anchors)
    for source in (rows, Lazy(rows)):
        found = nearest_neighbors(source, 6, distance=distance, anchors=anchors)
        assert torch.equal(found.indices, expected.indices)
        assert torch.equal(found.distances, expected.distances)


def test_duplicates_are_ordered_by_position():
    found = nearest_neighbors(torch.ones(5, 2), 3)
    assert found.indices[0].tolist() == [1, 2, 3]
    assert found.indices[4].tolist() == [0, 1, 2]
    assert float(found.distances.max()) == 0


def test_one_row_has_no_neighbors():
    with pytest.raises(UndefinedError, match="two rows"):
        nearest_neighbors(torch.ones(1, 2), 3)


def test_unknown_distance():
    with pytest.raises(UsageError, match="euclidean"):
        nearest_neighbors(torch.ones(3, 2), 1, distance="euclidian")


WORKER = """
import os
import datetime, json, sys
import torch
from torch import distributed as group
from embedscope.ops.neighbors import nearest_neighbors
rank, port = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
group.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=60))
rows = torch.randn(151, 12, generator=torch.Generator().manual_seed(0))
rows[[4, 9]] = rows[100].clone()
found = [nearest_neighbors(rows, 5), nearest_neighbors(rows, 5, anchors=torch.arange(0, 151, 10))]
group.destroy_process_group()
print(json.dumps([[each.indices.tolist(), each.distances.tolist()] for each in found]), flush=True)
os._exit(0)  # see embedscope/__main__.py
"""


def test_two_processes_find_the_same():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    running = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), port], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for rank in range(2)
    ]
    outputs = [json.loads(each.communicate(timeout=100)[0]) for each in running]
    rows = normal(151, 12)
    rows[[4, 9]] = rows[100].clone()
    for output in outputs:
        for (indices, distances), anchors in zip(output, (None, torch.arange(0, 151, 10)), strict=True):
            expected = nearest_neighbors(rows, 5, anchors=anchors)
            assert indices == expected.indices.tolist()
            assert distances == expected.distances.tolist()
