"""Every loss against its oracle, and the laws that all losses keep."""

import inspect
import math

import numpy as np
import pytest
import torch

from embedscope import plugins
from embedscope.errors import UsageError
from embedscope.losses.expression import build
from embedscope.metrics.soft_silhouette import soft_silhouette
from tests.oracles import losses as oracles

NAMES = plugins.names("losses")
OPTIONS = {
    "ce": [{}, {"label_smoothing": 0.1}],
    "silhouette": [
        {},
        *({"softmin": form, "tau_s": 0.5, "tau_m": 0.3} for form in ("lse", "lme", "weighted", "hard")),
        *({"distance": distance, "normalize": False} for distance in ("euclidean", "sqeuclidean", "cosine")),
    ],
    "any_loss": [
        {},
        *({"score": score, "amplification": 7.0} for score in ("f1", "accuracy", "balanced_accuracy", "g_mean")),
    ],
    "z_loss": [{}, {"a": 2.5, "b": 0.5}],
    "comp_sum": [{}, *({"tau": tau} for tau in (0.0, 0.5, 1.0, 1.000001, 2.0)), {"tau": 1.7, "truncation": 0.2}],
    "ldr": [{}, {"lam": 0.3, "margin": 0.0}, {"lam": 1.0, "margin": 2.0, "normalize": True}],
    "decoupled_softmax": [{}, {"temperature": 0.5}],
    "soft_top_k": [{}, {"k": 2.5, "alpha": 1.0, "temperature": 0.3}, {"on": "logits", "k": 2.0}],
    "mann_whitney": [{}, {"temperature": 0.1}],
    "elastic_face": [
        {},
        {"kind": "cos"},
        {"kind": "arc", "sd": 0.0, "margin": 0.3, "scale": 16.0},
        {"kind": "cos", "sd": 0.0, "scale": 16.0},
        {"kind": "arc", "plus": True},
        {"kind": "cos", "plus": True, "sd": 0.2},
    ],
    "sface": [{}, {"scale": 16.0, "k": 10.0, "a": 0.87, "b": 1.2}],
    "unpg": [{}, {"kind": "arc"}, {"kind": "cos", "whisker": 0.1, "scale": 8.0}],
    "proto_triplet": [{}, {"margin": 0.1, "normalize": True}],
    "icnn": [{}, {"k": 1}, {"k": 16}],
    "uniformity": [{}, {"t": 0.5, "normalize": False}],
}
CASES = [(name, options) for name in NAMES for options in OPTIONS[name]]
# Their forces are constants to the gradient, which is then not the slope of the value; they have a test of their own.
STOPPED = {"sface"}


def make(name, **options):
    torch.manual_seed(7)
    return plugins.load("losses", name)(5, 4, **options)


def expected_value(name, module, batch, **options):
    oracle = getattr(oracles, name)
    owned = {"module": module} if "module" in inspect.signature(oracle).parameters else {}
    return float(oracle(*batch, **owned, **options))


def seeded(module, *inputs):
    """Call a loss that may draw random numbers, always the same."""
    torch.manual_seed(3)
    return module(*inputs)


@pytest.fixture
def batch():
    """(18, 4) features, labels of 5 classes one of which has one member, (18, 5) logits."""
    generator = torch.Generator().manual_seed(11)
    labels = torch.tensor([0, 1, 2, 3] * 4 + [3, 4])
    features = torch.randn(18, 4, generator=generator, dtype=torch.float64)
    return features, labels, torch.randn(18, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_equals_naive_loops(name, options, batch):
    loss = make(name, **options)
    found = seeded(loss, *batch).detach()
    torch.manual_seed(3)
    assert float(found) == pytest.approx(expected_value(name, loss, batch, **options), abs=1e-10)


@pytest.mark.parametrize(("name", "options"), [case for case in CASES if case[0] not in STOPPED])
def test_gradcheck(name, options, batch):
    features, labels, logits = (tensor.clone() for tensor in batch)
    loss = make(name, **options)
    inputs = features.requires_grad_(), logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda f, x: seeded(loss, f, labels, x), inputs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("case", "labels"),
    [("one class", [2] * 6), ("all but one alone", [0, 1, 2, 3, 4, 0]), ("two", [0, 0, 0, 1, 1, 1])],
)
def test_odd_batches_have_finite_values_and_gradients(name, case, labels):
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    logits = torch.zeros(6, 5, requires_grad=True)
    value = make(name)(features, torch.tensor(labels), logits)
    (value + 0 * features.sum() + 0 * logits.sum()).backward()
    assert torch.isfinite(value)
    assert torch.isfinite(features.grad).all()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_duplicates_and_collapse_have_finite_gradients(name, options, dtype):
    for features in (torch.ones(8, 4), torch.zeros(8, 4), torch.eye(4).repeat(2, 1)):
        rows = features.to(dtype).requires_grad_()
        logits = torch.zeros(8, 5, dtype=dtype, requires_grad=True)
        value = make(name, **options)(rows, torch.tensor([0, 1, 2, 3] * 2), logits)
        (value + 0 * rows.float().sum()).backward()
        assert torch.isfinite(value), features
        assert torch.isfinite(rows.grad).all(), features


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_autocast(name, batch):
    features, labels, logits = (tensor.float() if tensor.is_floating_point() else tensor for tensor in batch)
    exact = seeded(make(name), features, labels, logits).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = seeded(make(name), features @ torch.eye(4), labels, logits @ torch.eye(5)).detach()
    # The inputs were rounded to 8 bits before they reached the loss.
    assert float(value) == pytest.approx(float(exact), rel=0.02, abs=0.05)


def test_silhouette_is_minus_the_metric(digits):
    features, labels = digits[0][:300].float(), digits[1][:300]
    loss = make("silhouette")(features, labels, torch.zeros(300, 10))
    assert float(loss) == pytest.approx(-float(soft_silhouette(features, labels)), abs=1e-6)


def test_silhouette_of_one_class_is_zero_with_a_graph():
    features = torch.randn(4, 4, requires_grad=True)
    value = make("silhouette")(features, torch.zeros(4, dtype=torch.int64), torch.zeros(4, 5))
    value.backward()
    assert value.item() == 0
    assert features.grad.abs().max() == 0


@pytest.mark.parametrize(("tau", "others"), [(0.5, 2), (0.1, 9)])
def test_gradient_identity_of_the_soft_silhouette(tau, others):
    """ds/da = -(b + tau H) / m², ds/db = (a + tau H) / m², with H the entropy of softmax([a, b] / tau)."""
    from embedscope.ops.silhouettes import soft_silhouette as softened

    a = torch.linspace(0.05, 1.5, 7, dtype=torch.float64, requires_grad=True)
    b = torch.linspace(1.2, -0.1, 7, dtype=torch.float64, requires_grad=True)
    softened(a, b, torch.zeros(7, dtype=torch.bool), tau=tau).sum().backward()
    share = torch.softmax(torch.stack([a, b]).detach() / tau, dim=0)
    entropy = -(share * share.log()).sum(dim=0)
    largest = tau * torch.logaddexp(a / tau, b / tau).detach()
    np.testing.assert_allclose(a.grad, (-(b.detach() + tau * entropy) / largest**2), rtol=1e-9)
    np.testing.assert_allclose(b.grad, ((a.detach() + tau * entropy) / largest**2), rtol=1e-9)


def test_training_separates_classes():
    torch.manual_seed(0)
    features = torch.randn(60, 4, requires_grad=True)
    labels = torch.arange(60) % 3
    loss, optimizer = make("silhouette"), torch.optim.Adam([features], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        value = loss(features, labels, features)
        value.backward()
        optimizer.step()
    assert value.item() < -0.95


@pytest.mark.parametrize("value", [-0.1, 1.1, "some", True])
def test_label_smoothing_is_a_share(value):
    with pytest.raises(UsageError, match="label_smoothing has to be a number from 0 to 1"):
        make("ce", label_smoothing=value)


def test_expression_sums_weighted_terms(batch):
    objective = build("ce + 0.5*silhouette(tau_s=0.2)", 5, 4)
    value = objective(*batch)
    assert list(objective.terms) == ["ce", "silhouette"]
    expected = oracles.ce(*batch) + 0.5 * oracles.silhouette(*batch, tau_s=0.2)
    assert float(value) == pytest.approx(expected, abs=1e-10)
    assert float(objective.terms["silhouette"]) == pytest.approx(oracles.silhouette(*batch, tau_s=0.2), abs=1e-10)


def test_terms_switch_on_at_their_epoch(batch):
    objective = build("ce + 0.5*silhouette@3", 5, 4)
    assert float(objective(*batch)) == pytest.approx(oracles.ce(*batch), abs=1e-10)
    assert list(objective.terms) == ["ce"]
    objective.epoch = 3
    objective(*batch)
    assert list(objective.terms) == ["ce", "silhouette"]


def test_objective_without_a_term_is_zero_with_a_graph(batch):
    features = batch[0].clone().requires_grad_()
    value = build("silhouette@2", 5, 4)(features, *batch[1:])
    value.backward()
    assert value.item() == 0
    assert features.grad.abs().max() == 0


def test_terms_of_one_name_are_numbered(batch):
    objective = build("silhouette + silhouette(tau_s=0.5) + 2*silhouette(tau_s=1.0)", 5, 4)
    objective(*batch)
    assert list(objective.terms) == ["silhouette", "silhouette_2", "silhouette_3"]


def test_parameters_of_a_loss_join(monkeypatch, batch):
    class Centre(torch.nn.Module):
        def __init__(self, num_classes, dim):
            super().__init__()
            self.centres = torch.nn.Parameter(torch.zeros(num_classes, dim))

    monkeypatch.setattr(plugins, "load", lambda kind, name: Centre)
    assert [tuple(p.shape) for p in build("centre + centre", 5, 4).parameters()] == [(5, 4), (5, 4)]


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("ce +", "ce +»", "cannot be read"),
        ("ce + )", "ce + »)", "cannot be read"),
        (" ", "objective is empty", "expected a loss"),
        ("ce - silhouette", "»ce - silhouette", "expected a loss"),
        ("ce + x*silhouette", "ce + »x*silhouette", "the weight before"),
        ("ce + -1*silhouette", "ce + »-1*silhouette", "the weight before"),
        ("ce + silhouette@0", "silhouette@»0", "the epoch after"),
        ("ce + silhouette@1.5", "silhouette@»1.5", "the epoch after"),
        ("ce + 0.5", "ce + »0.5", "expected a loss"),
        ("ce + silhouette(tau_s=x)", "ce + »silhouette(tau_s=x)", "options have to be literals"),
        ("ce + ce.__class__()()", "ce + »ce.__class__()()", "expected a loss"),
    ],
)
def test_errors_point_at_the_place(text, place, problem):
    with pytest.raises(UsageError) as caught:
        build(text, 5, 4)
    assert place in str(caught.value)
    assert problem in str(caught.value)


def test_unknown_loss_names_the_nearest():
    with pytest.raises(UsageError, match="no loss 'siloette'; did you mean 'silhouette'"):
        build("ce + siloette", 5, 4)


def test_unknown_option_names_the_nearest():
    with pytest.raises(UsageError, match="no option of silhouette 'tau'"):
        build("silhouette(tau=1)", 5, 4)


def test_dashes_inside_text_stay():
    with pytest.raises(UsageError, match="no distance 'a-b'"):
        build("silhouette(distance='a-b')", 5, 4)


@pytest.mark.parametrize("option", ["normalize='no'", "softmin=3", "distance=None", "tau_s=1" + "0" * 400])
def test_options_of_the_wrong_kind(option):
    with pytest.raises(UsageError):
        build(f"silhouette({option})", 5, 4)


def test_metric_and_loss_agree_far_from_the_origin(batch):
    features, labels = batch[0].float() + 1e4, batch[1]
    loss = make("silhouette", normalize=False)(features, labels, batch[2])
    # float32 keeps 1e-3 of the features here; their distances are of order 1.
    assert float(loss) == pytest.approx(-float(soft_silhouette(features, labels, normalize=False)), abs=1e-5)


def test_weights_may_not_be_infinite():
    with pytest.raises(UsageError, match="the weight before"):
        build(f"{math.inf}*ce".replace("inf", "1e999"), 5, 4)
