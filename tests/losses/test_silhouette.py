"""The gradients of the silhouette loss, against loops that autograd follows, and where a slope could break."""

from itertools import product

import pytest
import torch

from embedscope.losses.expression import build
from embedscope.losses.silhouette import silhouette

SOFTMINS = ("lse", "lme", "weighted", "hard")
DISTANCES = ("euclidean", "sqeuclidean", "cosine")
FORMS = list(product(SOFTMINS, DISTANCES, (True, False)))
# Classes of 4, 3, 2 and 1 rows, in no order, and with gaps in their numbers.
LABELS = torch.tensor([7, 0, 3, 7, 0, -2, 7, 3, 0, 7])


@pytest.fixture
def rows():
    return torch.randn(10, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64, requires_grad=True)


def make(**options):
    return silhouette(4, 3, **options)


def value_of(loss, rows, labels=LABELS):
    return loss(rows, labels, rows)


def gradient_of(loss, rows, labels=LABELS):
    (gradient,) = torch.autograd.grad(value_of(loss, rows, labels), rows)
    return gradient


def far(x, y, distance):
    if distance == "cosine":
        return 1 - x @ y / (x.norm() * y.norm())
    squared = ((x - y) ** 2).sum()
    return squared.sqrt() if distance == "euclidean" else squared


def naive(rows, labels, *, softmin, distance, normalize, tau_s, tau_m):
    """arXiv:2604.08573 row by row and class by class, in scalars that autograd follows."""
    points = [row / row.norm() for row in rows] if normalize else list(rows)
    labels = labels.tolist()
    total = rows.new_zeros(())
    for i, label in enumerate(labels):
        to = {
            c: [far(points[i], points[j], distance) for j in range(len(rows)) if labels[j] == c and j != i] for c in set(labels)
        }
        own = to.pop(label)
        if not own:
            continue
        a, d = sum(own) / len(own), torch.stack([sum(each) / len(each) for each in to.values()])
        weights = (-d / tau_s).exp()
        b = {
            "lse": -tau_s * weights.sum().log(),
            "lme": -tau_s * weights.mean().log(),
            "weighted": (weights * d).sum() / weights.sum(),
            "hard": d.min(),
        }[softmin]
        total = total - (b - a) / (tau_m * ((a / tau_m).exp() + (b / tau_m).exp()).log())
    return total / len(labels)


@pytest.mark.parametrize(("softmin", "distance", "normalize"), FORMS)
def test_gradient_equals_that_of_naive_loops(softmin, distance, normalize, rows):
    options = {"softmin": softmin, "distance": distance, "normalize": normalize, "tau_s": 0.4, "tau_m": 0.3}
    expected = naive(rows, LABELS, **options)
    (by_autograd,) = torch.autograd.grad(expected, rows)
    loss = make(**options)
    assert value_of(loss, rows).item() == pytest.approx(expected.item(), abs=1e-12)
    torch.testing.assert_close(gradient_of(loss, rows), by_autograd, atol=1e-12, rtol=1e-10)
    # float32: a few roundings of distances of about 1, divided by temperatures of about 0.3
    short = rows.detach().float().requires_grad_()
    torch.testing.assert_close(gradient_of(loss, short).double(), by_autograd, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize(("softmin", "distance", "normalize"), FORMS)
def test_gradcheck(softmin, distance, normalize, rows):
    loss = make(softmin=softmin, distance=distance, normalize=normalize)
    assert torch.autograd.gradcheck(lambda x: value_of(loss, x), rows)


@pytest.mark.parametrize("distance", DISTANCES)
def test_second_derivatives(distance, rows):
    loss = make(distance=distance, tau_s=0.4)
    assert torch.autograd.gradgradcheck(lambda x: value_of(loss, x), rows)


@pytest.mark.parametrize("distance", DISTANCES)
def test_order_of_the_rows_does_not_matter(distance, rows):
    loss, order = make(distance=distance), torch.randperm(10, generator=torch.Generator().manual_seed(0))
    moved = rows.detach()[order].requires_grad_()
    torch.testing.assert_close(gradient_of(loss, moved, LABELS[order]), gradient_of(loss, rows)[order])


@pytest.mark.parametrize(("softmin", "distance", "normalize"), FORMS)
def test_classes_of_one_row_each_are_zero_without_a_pull(softmin, distance, normalize, rows):
    loss, labels = make(softmin=softmin, distance=distance, normalize=normalize), torch.arange(10)
    assert value_of(loss, rows, labels).item() == 0
    assert gradient_of(loss, rows, labels).abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", DISTANCES)
def test_duplicates_are_not_pulled_apart(distance, dtype, rows):
    """Both of two equal rows of one class move alike."""
    twice = torch.cat([rows, rows]).detach().to(dtype).requires_grad_()
    found = gradient_of(make(distance=distance), twice, torch.cat([LABELS, LABELS]))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[:10], found[10:], atol=100 * torch.finfo(dtype).eps, rtol=0)


def test_negative_b_has_the_gradient_of_naive_loops(rows):
    """With tau_s = 3 and distances up to 2, b is below 2 - 3 ln 3 for every row."""
    options = {"softmin": "lse", "distance": "euclidean", "normalize": True, "tau_s": 3.0, "tau_m": 0.5}
    loss = make(**options)
    expected = naive(rows, LABELS, **options)
    assert value_of(loss, rows).item() == pytest.approx(expected.item(), rel=1e-12)
    assert loss.negative_share == 1
    torch.testing.assert_close(gradient_of(loss, rows), torch.autograd.grad(expected, rows)[0], atol=1e-11, rtol=1e-10)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("softmin", SOFTMINS)
@pytest.mark.parametrize(("tau_s", "tau_m"), [(1e-6, 1e-6), (1e-6, 1e6), (1e6, 1e6)])
def test_extreme_temperatures_are_finite(tau_s, tau_m, softmin, distance, rows):
    short = rows.detach().float().requires_grad_()
    loss = make(softmin=softmin, distance=distance, tau_s=tau_s, tau_m=tau_m)
    assert torch.isfinite(value_of(loss, short))
    assert torch.isfinite(gradient_of(loss, short)).all()


def test_a_cold_minimum_is_the_hard_one(rows):
    torch.testing.assert_close(gradient_of(make(tau_s=1e-4), rows), gradient_of(make(softmin="hard"), rows))


def test_an_only_member_far_below_zero_has_no_infinite_gradient():
    """Its own distance is 0 and its b far below 0, so that its denominator vanishes; it counts as 0 all the same."""
    rows = torch.eye(4)[:, :3].add(0.1).requires_grad_()
    loss = make(tau_s=1e3, tau_m=1.0)
    found = gradient_of(loss, rows, torch.tensor([0, 0, 1, 2]))
    assert loss.negative_share == 1
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_autocast_to_bfloat16_leaves_value_and_gradient(distance, rows):
    half = rows.detach().bfloat16().requires_grad_()
    exact = half.detach().double().requires_grad_()
    loss = make(distance=distance, tau_s=0.4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = value_of(loss, half)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(value_of(loss, exact).item(), abs=1e-6)
    expected = gradient_of(loss, exact)
    # The gradient is rounded to the 8 bits of its rows, nothing before it.
    torch.testing.assert_close(half.grad.double(), expected, atol=1e-5, rtol=2.0**-8)


@pytest.mark.parametrize("distance", DISTANCES)
def test_many_rows_agree_with_float64(distance):
    """More rows than a block of the backward holds (341 of 1,024)."""
    generator = torch.Generator().manual_seed(2)
    exact = torch.randn(1024, 8, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(20, (1024,), generator=generator)
    short = exact.detach().float().requires_grad_()
    loss = make(distance=distance)
    expected = gradient_of(loss, exact, labels)
    scale = expected.abs().max().item()
    torch.testing.assert_close(gradient_of(loss, short, labels).double(), expected, atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize("options", ["", "(softmin='lme')", "(softmin='weighted', distance='cosine')", "(softmin='hard')"])
def test_an_objective_compiles_in_one_graph_with_the_same_value_and_gradient(options):
    objective = build(f"ce + 0.5*silhouette{options}", num_classes=7, dim=8)
    torch._dynamo.reset()
    compiled = torch.compile(objective, backend="aot_eager", fullgraph=True)
    generator = torch.Generator().manual_seed(0)
    for labels in (
        torch.arange(40) % 5,
        torch.arange(40) // 39,
        torch.full((40,), 3),
    ):  # absent classes, one alone, a single one
        rows = torch.randn(40, 8, generator=generator, dtype=torch.float64)
        rows[3] = rows[8]
        rows.requires_grad_()
        logits = torch.randn(40, 7, generator=generator, dtype=torch.float64)
        plain, made = objective(rows, labels, logits), compiled(rows, labels, logits)
        assert made.item() == pytest.approx(plain.item(), rel=1e-12)
        assert torch.allclose(*(torch.autograd.grad(each, rows)[0] for each in (plain, made)), rtol=0, atol=1e-12)
