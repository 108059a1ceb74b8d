import math

import pytest
import torch

from embedscope.ops.cosines import angles, cosines, directions, with_margin


@pytest.mark.parametrize("size", [1e-11, 1e-3, 1.0, 1e30])
def test_directions_of_any_length(size):
    rows = (torch.tensor([[3.0, 4.0], [0.0, -2.0]]) * size).requires_grad_()
    found = directions(rows)
    torch.testing.assert_close(found.detach(), torch.tensor([[0.6, 0.8], [0.0, -1.0]]))
    found[0, 0].backward()
    # d(x / |x|) / dx of (3, 4): (16, -12) / 125
    torch.testing.assert_close(rows.grad[0] * size, torch.tensor([0.128, -0.096]))


def test_zero_rows_have_no_direction_and_no_gradient():
    rows = torch.tensor([[0.0, 0.0], [1.0, 1.0]], requires_grad=True)
    (cosines(rows, torch.eye(2)) * 64).sum().backward()
    assert torch.equal(directions(rows)[0], torch.zeros(2))
    assert torch.equal(rows.grad[0], torch.zeros(2))


def test_gradient_of_directions():
    rows = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(directions, rows)


def test_angles_are_exact_and_their_gradients_finite():
    cosine = torch.tensor([-1.0001, -1.0, 0.0, 0.5, 1.0, 1.0001], requires_grad=True)
    found = angles(cosine)
    torch.testing.assert_close(found.detach(), torch.tensor([math.pi, math.pi, math.pi / 2, math.pi / 3, 0.0, 0.0]))
    found.sum().backward()
    torch.testing.assert_close(cosine.grad, torch.tensor([0.0, 0.0, -1.0, -1 / math.sqrt(0.75), 0.0, 0.0]))


def test_margin_is_on_the_own_class_alone():
    cosine = torch.tensor([[0.5, 0.2], [0.1, -0.3]])
    labels = torch.tensor([0, 1])
    expected = [[math.cos(math.acos(0.5) + 0.4), 0.2], [0.1, math.cos(math.acos(-0.3) + 0.4)]]
    torch.testing.assert_close(with_margin(cosine, labels, 0.4, kind="arc"), torch.tensor(expected))
    torch.testing.assert_close(with_margin(cosine, labels, 0.4, kind="cos"), torch.tensor([[0.1, 0.2], [0.1, -0.7]]))
