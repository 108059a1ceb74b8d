import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from embedscope.ops import blocks
from embedscope.ops.pairwise import distance_sums, distances, squared_distances


@pytest.fixture
def rows():
    return torch.randn(40, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def each(rows):
    """The distances of all pairs: every row is a group of its own."""
    return distance_sums(rows, torch.arange(len(rows)), len(rows))


def test_equals_scipy(rows):
    expected = cdist(rows[:15], rows[10:], "sqeuclidean")
    np.testing.assert_allclose(squared_distances(rows[:15], rows[10:]), expected, atol=1e-13)


def test_equal_rows_are_exactly_zero_apart(rows):
    assert squared_distances(rows, rows).diagonal().abs().max() == 0


@pytest.mark.parametrize("gap", [1e-3, 1e-7, 1e-12])
def test_near_rows_keep_their_digits(rows, gap):
    moved = rows.clone()
    moved[:, 0] += gap
    expected = (moved[:, 0] - rows[:, 0]) ** 2
    torch.testing.assert_close(squared_distances(rows, moved).diagonal(), expected, rtol=1e-6, atol=0)


def test_never_negative_in_float32():
    # 64 exact duplicates among 256 rows far from the origin, where a bare product gives square roots of negative numbers.
    rows = torch.randn(256, 768, generator=torch.Generator().manual_seed(1)) + 3
    rows = torch.cat([rows, rows[:64]])
    assert squared_distances(rows, rows).min() == 0


def test_batch_distances_equal_scipy(rows):
    found = each(rows)
    np.testing.assert_allclose(found, cdist(rows, rows), atol=1e-7)  # equal rows: sqrt of rounding
    assert found.diagonal().abs().max() == 0
    torch.testing.assert_close(distances(rows), found, atol=1e-12, rtol=0)


def test_gradients_of_the_sums_of_distances(rows):
    index = torch.arange(len(rows)) % 4
    member = torch.nn.functional.one_hot(index).double()
    weights = torch.randn(4, len(rows), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    by_hand = rows.clone().requires_grad_()
    pairs = (by_hand[:, None] - by_hand[None] + 1e-300).norm(dim=2)  # the gradient of a norm at 0 is 0 in torch
    ((member.T @ pairs) * weights).sum().backward()
    found = rows.clone().requires_grad_()
    (distance_sums(found, index, 4) * weights).sum().backward()
    torch.testing.assert_close(found.grad, by_hand.grad, atol=1e-12, rtol=1e-10)


def test_second_derivatives_of_the_sums_of_distances(rows):
    few, index = rows[:8, :3].clone().requires_grad_(), torch.arange(8) % 3
    assert torch.autograd.gradgradcheck(lambda x: distance_sums(x, index, 3), few)


def test_gradients_do_not_depend_on_the_blocks(rows, monkeypatch):
    found = []
    for size in (1, 2**11, 2**22):  # 1, 2 and all rows at a time
        monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
        x = rows.clone().requires_grad_()
        distance_sums(x, torch.arange(len(x)) % 4, 4).square().sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(found[0], found[2], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(found[1], found[2], atol=1e-12, rtol=1e-12)


def test_batch_distances_have_finite_gradients_at_duplicates(rows):
    rows = torch.cat([rows, rows[:5], torch.zeros(2, 7, dtype=torch.float64)]).requires_grad_()
    each(rows).sum().backward()
    assert torch.isfinite(rows.grad).all()
