"""Ranks from short products and from float64 keys: the same, and the neighbors that are found on the way are the nearest."""

import pytest
import torch

from embedscope.ops import blocks, rank_candidates, retrieval
from embedscope.ops.class_moments import present_classes
from embedscope.ops.neighbor_space import surveyed
from embedscope.ops.neighbors import nearest_neighbors
from embedscope.ops.rank_candidates import ranks_by_candidates
from embedscope.ops.rank_keys import ranks_by_keys
from embedscope.ops.retrieval import retrieved


def drawn(name, rows=600):
    """(N, 8) rows and (N,) labels of 20 classes, in an order that has nothing to do with the classes."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 20, (rows,), generator=generator)
    noise = torch.randn(rows, 8, generator=generator)
    means = torch.randn(20, 8, generator=generator)
    return {
        "overlapping": means[labels] + noise,
        "separate": 30 * means[labels] + noise,
        "noise": noise,
        "copies": torch.cat([noise[: rows // 4]] * 4),
        "far": 1e4 + 1e-2 * noise,
        "outlier": torch.cat([noise[:-1], noise[-1:] * 1e6]),
        "whole numbers": (means[labels] + noise).round(),
        "half": (means[labels] + noise).half(),
        "double": (means[labels] + noise).double(),
        "zeros": torch.cat([torch.zeros(40, 8), noise[40:]]),
        "equal": torch.ones(rows, 8),
    }[name], labels


DRAWN = ["overlapping", "separate", "noise", "copies", "far", "outlier", "whole numbers", "half", "double", "zeros", "equal"]


# The directions of rows far from the origin differ by less than their rounding: their order is not defined.
@pytest.mark.parametrize(
    ("name", "distance"),
    [(name, distance) for name in DRAWN for distance in ("euclidean", "cosine") if (name, distance) != ("far", "cosine")],
)
def test_ranks_and_neighbors_equal_loops(name, distance):
    """Sorted differences in float64, rounded to 40 bits, ties by position."""
    features, labels = drawn(name)
    exact = features.double()
    if distance == "cosine":
        norms = exact.norm(dim=1, keepdim=True)
        exact = torch.where(norms > 0, exact / norms, torch.zeros_like(exact))
    found = retrieved(features, labels, distance=distance, k=10)
    for row in range(0, 600, 7):
        squared = (exact - exact[row]).square().sum(dim=1)
        if distance == "cosine":
            zero = exact.abs().sum(dim=1) == 0
            squared = torch.where(zero | zero[row], torch.tensor(2.0, dtype=torch.float64), squared)
        mantissa, exponent = torch.frexp(squared)
        squared = torch.ldexp((mantissa * 2**40).round(), exponent)
        squared[row] = torch.inf
        order = squared.argsort(stable=True)[:-1]
        hits = (labels[order] == labels[row]).tolist()
        size = sum(hits)
        assert int(found.first[row]) == hits.index(True) + 1
        assert float(found.r_precision[row]) == pytest.approx(sum(hits[:size]) / size, abs=1e-12)
        average = sum(sum(hits[: i + 1]) / (i + 1) for i in range(size) if hits[i]) / size
        assert float(found.average[row]) == pytest.approx(average, abs=1e-12)
    expected = nearest_neighbors(features, 10, distance=distance)
    assert torch.equal(found.neighbors.indices, expected.indices)
    assert torch.equal(found.neighbors.distances, expected.distances)


@pytest.mark.parametrize("name", ["overlapping", "separate", "noise", "half", "double"])
def test_candidates_settle_ordinary_rows(name):
    """Otherwise the cheap way would be the dear one in disguise."""
    features, labels = drawn(name, rows=2000)
    space = surveyed(features, None, unit=True, device=torch.device("cpu"))
    found = ranks_by_candidates(space, features, present_classes(labels), torch.arange(2000))
    assert found.open.double().mean() < 0.02
    exact = ranks_by_keys(space, features, present_classes(labels), torch.arange(2000))
    torch.testing.assert_close(found.ranks[~found.open], exact[~found.open], rtol=0, atol=1e-14)


def test_a_class_of_most_rows_is_ranked_by_keys(monkeypatch):
    monkeypatch.setattr(rank_candidates, "_FEW", 16)
    features, labels = drawn("overlapping")
    labels = torch.where(labels < 12, 0, labels)
    asked = []
    original = retrieval.ranks_by_keys
    monkeypatch.setattr(
        retrieval, "ranks_by_keys", lambda *rest: asked.append(set(labels[rest[-1]].tolist())) or original(*rest)
    )
    found = retrieved(features, labels, distance="cosine", k=5)
    assert found.neighbors is None  # a search of its own is cheaper
    assert 0 in set().union(*asked)
    monkeypatch.setattr(rank_candidates, "_FEW", 1000)
    every = retrieved(features, labels, distance="cosine", k=5)
    for one, other in ((found.first, every.first), (found.average, every.average), (found.r_precision, every.r_precision)):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_any_memory_gives_the_same(distance):
    features, labels = drawn("overlapping")
    expected = retrieved(features, labels, distance=distance, k=4)
    with blocks.limits(memory=2**21):
        assert torch.equal(
            retrieved(features, labels, distance=distance, k=4).neighbors.distances, expected.neighbors.distances
        )
    with blocks.limits(memory=2**17):  # too little to keep the rows, or what becomes of neighbors
        found = retrieved(features, labels, distance=distance, k=4)
    assert found.neighbors is None
    assert torch.equal(found.average, expected.average)
    assert torch.equal(found.first, expected.first)


def test_the_excess_holds():
    """No squared distance is further above its lower bound than `Space.excess` says, wherever the rows lie."""
    for name in ("overlapping", "far", "outlier", "separate", "zeros"):
        for unit in (False, True):
            features, _ = drawn(name)
            space = surveyed(features, None, unit=unit, device=torch.device("cpu"))
            laid = space.laid(features, slice(0, 600))
            lower = torch.mm(laid.left, laid.right()).double()
            exact = space.exact(features)
            squared = (exact[:, None] - exact[None]).square().sum(dim=2)
            for column in range(0, 600, 50):
                kept = torch.ones(600, dtype=torch.bool) if laid.zero is None else ~(laid.zero | laid.zero[column])
                excess = space.excess(laid.norms, lower[:, column])
                assert (squared[:, column] - lower[:, column] <= excess)[kept].all()
                assert (squared[:, column] >= lower[:, column])[kept].all()
