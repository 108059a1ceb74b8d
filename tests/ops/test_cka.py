"""CKA and mutual neighbors against loops over all pairs, and the laws they obey."""

import math

import pytest
import torch

from embedscope.errors import UndefinedError
from embedscope.ops.blocks import limits
from embedscope.ops.cka import linear_cka, mutual_neighbors


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive_hsic(K, L):
    n = len(K)
    off = [(i, j) for i in range(n) for j in range(n) if i != j]
    trace = sum(K[i][j] * L[j][i] for i, j in off)
    total_k, total_l = sum(K[i][j] for i, j in off), sum(L[i][j] for i, j in off)
    chained = sum(K[i][j] * L[j][m] for i, j in off for m in range(n) if m != j)
    return (trace + total_k * total_l / ((n - 1) * (n - 2)) - 2 / (n - 2) * chained) / (n * (n - 3))


def naive_cka(X, Y):
    K, L = ([[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows] for rows in (X.tolist(), Y.tolist()))
    return naive_hsic(K, L) / math.sqrt(naive_hsic(K, K) * naive_hsic(L, L))


@pytest.mark.parametrize(("rows", "one", "other"), [(20, 3, 5), (12, 12, 2), (9, 14, 4), (4, 2, 2), (9, 3, 30)])
def test_cka_against_loops_over_all_pairs(rows, one, other):
    """Sums of a few thousand products in another order differ by some 1e-13."""
    X = draw(rows, one) + 3
    Y = X[:, :1] * draw(1, other, seed=1) + draw(rows, other, seed=2)
    assert linear_cka(X, Y) == pytest.approx(naive_cka(X, Y), abs=1e-11)


def test_cka_stays_under_rotation_scale_translation_and_blocks():
    X, Y = draw(300, 6), draw(300, 4, seed=1)
    Y[:, 0] += 2 * X[:, 0]
    expected = linear_cka(X, Y)
    rotation = torch.linalg.qr(draw(6, 6, seed=2)).Q
    assert linear_cka(1e-3 * X @ rotation + 50, Y) == pytest.approx(expected, abs=1e-9)
    with limits(memory=2**10):
        assert linear_cka(X, Y) == pytest.approx(expected, abs=1e-12)
    assert linear_cka(Y, X) == pytest.approx(expected, abs=1e-12)
    assert linear_cka(X, X @ rotation) == pytest.approx(1, abs=1e-12)
    stretched = X * torch.tensor([9.0, 1, 1, 1, 1, 1], dtype=torch.float64)
    assert abs(linear_cka(X, stretched) - 1) > 0.1


def test_cka_of_unrelated_rows_is_0_on_average():
    """The plug-in estimate is about D / N = 0.5 here; that of 40 draws has a standard error below 0.02."""
    found = [linear_cka(draw(40, 20, seed=seed), draw(40, 20, seed=seed + 1000)) for seed in range(40)]
    assert abs(sum(found) / 40) < 0.05


@pytest.mark.parametrize(
    ("rows", "message"),
    [(draw(3, 2), "at least 4 rows, got 3"), (torch.full((8, 2), 0.1), "all rows of an embedding are equal")],
)
def test_cka_is_undefined(rows, message):
    with pytest.raises(UndefinedError, match=message):
        linear_cka(rows, draw(len(rows), 2))


@pytest.mark.parametrize("k", [1, 3, 24])
def test_mutual_neighbors_against_loops(k):
    X, Y = draw(25, 4), draw(25, 6, seed=1)
    Y[:, :4] += X

    def near(rows, i):
        unit = rows / rows.norm(dim=1, keepdim=True)
        return {j for _, j in sorted((1 - float(unit[i] @ unit[j]), j) for j in range(25) if j != i)[:k]}

    expected = sum(len(near(X, i) & near(Y, i)) for i in range(25)) / (25 * k)
    assert mutual_neighbors(X, Y, k) == pytest.approx(expected, abs=1e-15)
    assert mutual_neighbors(X, 5 * X, k) == 1


def test_mutual_neighbors_need_more_rows_than_neighbors():
    with pytest.raises(UndefinedError, match="10 nearest rows need more than 10 rows, got 10"):
        mutual_neighbors(draw(10, 2), draw(10, 2))
