"""Every loss against its oracle, and the laws that all losses keep."""

import copy
import functools
import inspect
import math
import re

import numpy as np
import pytest
import torch

from embedscope import plugins
from embedscope.errors import UndefinedError, UsageError
from embedscope.losses.expression import build
from embedscope.metrics.class_kl import class_kl
from embedscope.metrics.gini import gini
from embedscope.metrics.soft_silhouette import soft_silhouette
from embedscope.ops.spectrum import principal_axes
from tests.oracles import losses as oracles

NAMES = plugins.names("losses")
OPTIONS = {
    "ce": [{}, {"label_smoothing": 0.1}],
    "silhouette": [
        {},
        *({"softmin": form, "tau_s": 0.5, "tau_m": 0.3} for form in ("lse", "lme", "weighted", "hard")),
        *({"distance": distance, "normalize": False} for distance in ("euclidean", "sqeuclidean", "cosine")),
    ],
    "gini": [{}, {"activation": "relu"}, {"dead": "ignore"}, {"activation": "relu", "dead": "ignore"}],
    "class_kl": [{}, {"activation": "relu"}, {"direction": "feature_to_target"}],
    "magnet": [{}, {"alpha": 0.0}, {"alpha": 7.18}, {"hinge": False}],
    "latent_boost": [
        {},
        {"explained_variance": 1.0},
        {"explained_variance": 0.6, "beta_schedule": "paper", "alpha0": 2.0},
        {"explained_variance": 1.0, "beta_schedule": "constant", "beta0": 0.7, "hinge": False},
        {"explained_variance": 1.0, "beta0": 0.5, "beta_min": 0.4, "alpha0": 0.0},
        {"detach_variance": True, "hinge": False},
    ],
    "center": [{}, {"alpha": 1.0}],
    "contrastive": [{}, {"margin": 0.5, "pos_margin": 0.1}, {"normalize": False, "margin": 3.0}],
    "multi_similarity": [
        {},
        {"alpha": 1.0, "beta": 10.0, "base": 0.0},
        {"miner": True},
        {"miner": True, "epsilon": 0.5, "beta": 40.0},
    ],
    "normalized_softmax": [{}, {"temperature": 0.5}],
    "npair": [{}, {"normalize": False}, {"normalize": False, "regularization": 0.02}],
    "pml": [
        {"loss": "SupConLoss(temperature=0.2)"},
        {"loss": "TripletMarginLoss(margin=0.2, distance='CosineSimilarity', miner='MultiSimilarityMiner')"},
        {"loss": "NTXentLoss(reducer='PerAnchorReducer')"},
        {"loss": "CosFaceLoss(scale=16, weight_regularizer='RegularFaceRegularizer')"},
        {"loss": "SoftTripleLoss(centers_per_class=2, embedding_regularizer='LpRegularizer', embedding_reg_weight=0.1)"},
    ],
    "proxy_anchor": [{}, {"margin": 0.2, "alpha": 16.0}],
    "proxy_nca": [{}, {"scale": 9.0}],
    "supcon": [{}, {"temperature": 0.07}, {"temperature": 1.0}],
    "triplet": [
        {},
        {"margin": 0.2, "swap": True},
        {"margin": 0.5, "smooth": True, "normalize": False},
        {"margin": 0.2, "triplets": "semihard"},
        {"margin": 0.2, "triplets": "hard"},
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
    "unpg": [{}, {"kind": "arc"}, {"kind": "cos", "margin": 0.2, "whisker": 0.1, "scale": 8.0}],
    "proto_triplet": [{}, {"margin": 0.1, "normalize": True}],
    "icnn": [{}, {"k": 1}, {"k": 16}, {"scale": "row"}, {"root": True}, {"scale": "row", "root": True}],
    "uniformity": [{}, {"t": 0.5, "normalize": False}],
}
# Those that are pytorch-metric-learning's.
BORROWED = {
    "contrastive",
    "multi_similarity",
    "normalized_softmax",
    "npair",
    "pml",
    "proxy_anchor",
    "proxy_nca",
    "supcon",
    "triplet",
}
CASES = [(name, options) for name in NAMES for options in OPTIONS[name]]
# Options that no oracle follows, and the tests that do.
UNVARIED = {
    "mann_whitney": {"max_pairs"},  # test_sampled_pairs_have_the_mean_of_all
}
# Their forces are constants to the gradient, which is then not the slope of the value; they have a test of their own.
STOPPED = {"sface"}


def make(name, **options):
    if name in BORROWED:
        pytest.importorskip("pytorch_metric_learning")
    torch.manual_seed(3)
    return plugins.load("losses", name)(5, 4, **(options or OPTIONS[name][0]))


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
    torch.manual_seed(3)
    expected = expected_value(name, loss, batch, **options)  # first: what a loss keeps may move when it is called
    assert seeded(loss, *batch).item() == pytest.approx(expected, abs=1e-10)


def test_every_oracle_is_compared(batch, monkeypatch):
    """An oracle that is off by a little fails the comparison of its loss: no oracle is there for show."""
    functions = [name for name, each in vars(oracles).items() if getattr(each, "__module__", "") == oracles.__name__]
    source = inspect.getsource(oracles)
    assert [name for name in functions if name not in NAMES and len(re.findall(rf"\b{name}\(", source)) < 2] == []
    assert sorted(OPTIONS) == NAMES
    for name in NAMES:
        oracle = getattr(oracles, name)
        shifted = functools.wraps(oracle)(lambda *args, oracle=oracle, **options: oracle(*args, **options) + 1e-9)
        with monkeypatch.context() as patched:
            patched.setattr(oracles, name, shifted)
            assert OPTIONS[name]
            for options in OPTIONS[name]:
                with pytest.raises(AssertionError):
                    test_equals_naive_loops(name, options, batch)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_of_a_loss_is_compared_with_its_oracle(name):
    if name == "pml":
        pytest.skip("its options are those of the library")
    known = [p.name for p in inspect.signature(plugins.load("losses", name)).parameters.values() if p.kind is p.KEYWORD_ONLY]
    varied = {option for options in OPTIONS[name] for option in options}
    assert sorted(set(known) - varied - UNVARIED.get(name, set())) == []


def holds_something_constant(name, options):
    return name in STOPPED or (
        name == "latent_boost" and (options.get("explained_variance", 0.95) < 1 or "detach_variance" in options)
    )


# What has no gradient on purpose, finite differences see: such losses have their own tests.
@pytest.mark.parametrize(("name", "options"), [case for case in CASES if not holds_something_constant(*case)])
def test_gradcheck(name, options, batch):
    features, labels, logits = (tensor.clone() for tensor in batch)
    loss = make(name, **options)
    inputs = features.requires_grad_(), logits.requires_grad_()
    # A fresh copy each time: a loss may have state that moves when it is called.
    assert torch.autograd.gradcheck(lambda f, x: seeded(copy.deepcopy(loss), f, labels, x), inputs)


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
    assert value.item() == pytest.approx(exact.item(), abs=0.05, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_features_that_are_not_finite_show(name, batch):
    features, labels, logits = batch[0].clone(), batch[1], batch[2].clone()
    features[3], logits[3] = math.nan, math.nan
    assert not torch.isfinite(make(name)(features, labels, logits))


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
    with pytest.raises(UsageError, match="label_smoothing must be a number from 0 to 1"):
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
    class Center(torch.nn.Module):
        def __init__(self, num_classes, dim):
            super().__init__()
            self.centers = torch.nn.Parameter(torch.zeros(num_classes, dim))

    monkeypatch.setattr(plugins, "load", lambda kind, name: Center)
    assert [tuple(p.shape) for p in build("center + center", 5, 4).parameters()] == [(5, 4), (5, 4)]


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("ce +", "ce +»", "cannot parse this"),
        ("ce + )", "ce + »)", "cannot parse this"),
        (" ", "objective is empty", "expected a loss"),
        ("ce - silhouette", "»ce - silhouette", "expected a loss"),
        ("ce + x*silhouette", "ce + »x*silhouette", "the weight before"),
        ("ce + -1*silhouette", "ce + »-1*silhouette", "the weight before"),
        ("ce + silhouette@0", "silhouette@»0", "the epoch after"),
        ("ce + silhouette@1.5", "silhouette@»1.5", "the epoch after"),
        ("ce + 0.5", "ce + »0.5", "expected a loss"),
        ("ce + silhouette(tau_s=x)", "ce + »silhouette(tau_s=x)", "options must be literals"),
        ("ce + ce.__class__()()", "ce + »ce.__class__()()", "expected a loss"),
        ("ce.__class__()", "no loss 'ce.__class__'", "ce is a single loss and takes no dot"),
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
    with pytest.raises(UsageError, match="silhouette has no option 'tau'"):
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


def test_silhouette_tells_how_many_samples_have_a_negative_b(batch):
    features, labels, logits = batch
    loss = make("silhouette", tau_s=0.1)
    assert loss.negative_share == 0
    loss(features.requires_grad_(), labels, logits)
    assert loss.negative_share == 0
    loss = make("silhouette", tau_s=2.0)  # with distances up to 2, every b(i) is negative from 2 / ln 4 on
    loss(features, labels, logits)
    assert loss.negative_share == 1
    assert loss.negative_share.ndim == 0
    assert not loss.negative_share.requires_grad


@pytest.mark.parametrize("options", [{}, {"activation": "relu"}, {"activation": "none"}, {"dead": "ignore"}])
def test_gini_is_the_metric(options, digits):
    features, labels = digits[0][:300].float(), digits[1][:300]  # some pixels are always 0
    assert float(make("gini", **options)(features, labels, features)) == pytest.approx(
        float(gini(features, labels, **options)), abs=1e-6
    )


@pytest.mark.parametrize("options", [{}, {"activation": "none"}, {"direction": "feature_to_target"}])
def test_class_kl_is_the_metric(options, digits):
    features, labels = digits[0][:300].float(), digits[1][:300]
    assert float(make("class_kl", **options)(features, labels, features)) == pytest.approx(
        float(class_kl(features, labels, **options)), abs=1e-6
    )


@pytest.mark.parametrize("name", ["gini", "class_kl"])
def test_signed_features_need_an_activation(name, batch):
    with pytest.raises(UndefinedError, match="activation='none' needs nonnegative features"):
        make(name, activation="none")(*batch)


@pytest.mark.parametrize(("dead", "expected"), [("keep", 0.5), ("ignore", 0.0)])
def test_a_dead_channel_counts_one_or_is_left_out(dead, expected):
    features = torch.tensor([[1.0, 0], [2, 0], [0, 0]], requires_grad=True)
    value = make("gini", dead=dead)(features, torch.tensor([0, 0, 1]), features)
    value.backward()
    assert value.item() == expected
    assert features.grad[:, 1].abs().max() == 0


@pytest.mark.parametrize(
    ("name", "options"),
    [("gini", {"dead": "ignore"}), ("class_kl", {}), ("class_kl", {"direction": "feature_to_target"})],
)
def test_no_activation_at_all_is_zero_with_a_graph(name, options):
    features = torch.zeros(4, 3, requires_grad=True)
    value = make(name, **options)(features, torch.tensor([0, 0, 1, 2]), features)
    value.backward()
    assert value.item() == 0
    assert features.grad.abs().max() == 0


@pytest.mark.parametrize(("name", "dtype"), [(n, d) for n in ("gini", "class_kl") for d in (torch.float16, torch.float32)])
def test_faint_channels_have_finite_gradients(name, dtype):
    features = torch.tensor([[1.0, 1e-7], [0.5, 0], [0.2, 1e-40]]).to(dtype).requires_grad_()
    make(name)(features, torch.tensor([0, 1, 1]), features).backward()
    assert torch.isfinite(features.grad).all()
    assert (features.grad[:, 1] == 0).all() == (dtype == torch.float16)


def test_a_silent_class_costs_22_times_its_share_and_has_no_gradient():
    features = torch.tensor([[1.0, 2], [3, 1], [-1, -2]], dtype=torch.float64, requires_grad=True)
    value = make("class_kl", activation="relu")(features, torch.tensor([0, 0, 1]), features)
    value.backward()
    assert value.item() == pytest.approx(math.log(2e10 / 3) / 3 + 2 / 3 * math.log(2 / 3), abs=1e-8)
    assert features.grad[2].abs().max() == 0


@pytest.mark.parametrize("name", ["gini", "class_kl"])
def test_classes_missing_from_the_batch_do_not_count(name, batch):
    features, labels, logits = batch
    assert torch.equal(make(name)(features, labels, logits), make(name)(features, labels * 7, logits))


@pytest.mark.parametrize(("name", "options"), [("magnet", {}), ("latent_boost", {}), ("latent_boost", {"hinge": False})])
def test_magnet_and_latent_boost_do_not_depend_on_scale_or_origin(name, options, batch):
    features, labels, logits = batch
    loss = make(name, **options)
    assert float(loss(features * 1e4 + 3e5, labels, logits)) == pytest.approx(float(loss(features, labels, logits)), rel=1e-9)


@pytest.mark.parametrize(("name", "labels"), [("magnet", [1] * 4), ("latent_boost", [1] * 4), ("latent_boost", [0, 1, 2, 3])])
def test_magnet_and_latent_boost_without_an_anchor_are_zero_with_a_graph(name, labels):
    features = torch.randn(4, 4, requires_grad=True)
    value = make(name)(features, torch.tensor(labels), torch.zeros(4, 5))
    value.backward()
    assert value.item() == 0
    assert features.grad.abs().max() == 0


def test_the_pooled_variance_of_magnet_is_in_the_graph(batch):
    """The own terms then sum to (B - 1) / 2 whatever the features are: all the gradient is of the other classes."""
    labels, logits = batch[1:]
    rows = batch[0].clone().requires_grad_()
    means = torch.stack([rows[labels == c].mean(dim=0) for c in range(5)])
    squared = (rows[:, None] - means).square().sum(dim=2)
    exponents = -squared / (2 * squared[torch.arange(18), labels].sum() / 17)
    others = exponents.masked_fill(torch.nn.functional.one_hot(labels, 5).bool(), -math.inf).logsumexp(dim=1).mean()
    value = make("magnet", alpha=0, hinge=False)(rows, labels, logits)
    assert value.item() == pytest.approx(17 / 2 / 18 + others.item(), abs=1e-10)
    found, expected = (torch.autograd.grad(v, rows, retain_graph=True)[0] for v in (value, others))
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("name", ["magnet", "latent_boost"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_equal_rows_that_are_no_binary_fraction(name, dtype):
    rows = torch.full((7, 4), 0.1).to(dtype).requires_grad_()
    value = make(name, hinge=False)(rows, torch.tensor([0, 1, 2, 0, 1, 2, 2]), rows)
    value.backward()
    alpha = 1.0 if name == "magnet" else 1 + math.exp(-1 / 10.5)
    assert value.item() == pytest.approx(alpha + math.log(2), abs=1e-4)
    assert torch.isfinite(rows.grad).all()


def test_latent_boost_holds_its_axes_constant(batch, monkeypatch):
    features, labels, logits = batch
    axes = principal_axes(features, 0.7)
    assert axes.shape == (4, 2)
    loss = make("latent_boost", explained_variance=0.7)
    monkeypatch.setattr("embedscope.losses.latent_boost.principal_axes", lambda rows, share: axes)
    assert torch.autograd.gradcheck(lambda rows: loss(rows, labels, logits), features.requires_grad_())


@pytest.mark.parametrize("hinge", [True, False])
def test_latent_boost_is_inert_without_beta(hinge, batch):
    features, labels, logits = batch
    loss = make("latent_boost", explained_variance=1, beta_schedule="paper", hinge=hinge)
    loss.start_epoch(2, 10)
    assert loss.beta == 0
    members = labels < 4  # without the class that has one member only
    features = features.requires_grad_()
    loss(features[members], labels[members], logits[members]).backward()
    assert features.grad.abs().max() < 1e-12


def test_latent_boost_with_its_variance_detached_pulls_to_the_class_means(batch):
    features, labels, logits = batch
    members = labels < 4
    rows, labels = features[members].requires_grad_(), labels[members]
    options = {"explained_variance": 1, "beta0": 0, "detach_variance": True, "hinge": False}
    make("latent_boost", **options)(rows, labels, logits).backward()
    for c in range(4):
        inside = rows.detach()[labels == c]
        gap = inside - inside.mean(dim=0)
        variance = gap.square().sum() / (len(inside) - 1)
        np.testing.assert_allclose(rows.grad[labels == c], gap / variance / len(rows), atol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "betas"),
    [("rising", [0.5, 1, 1, 1]), ("paper", [0.5, 0.1, 0.1, 0.1]), ("constant", [1, 1, 1, 1])],
)
def test_schedules_of_latent_boost(schedule, betas, batch):
    options = {"beta_schedule": schedule, "beta_min": 0.1}
    loss = make("latent_boost", **options)
    for epoch, beta in zip((1, 2, 3, 10), betas, strict=True):
        loss.start_epoch(epoch, 10)
        assert loss.beta == pytest.approx(beta)
        expected = oracles.latent_boost(*batch, **options, epoch=epoch, epochs=10)
        assert float(loss(*batch)) == pytest.approx(expected, abs=1e-10)
    assert loss.alpha == pytest.approx(1.386, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("magnet", {"alpha": -1}, "alpha must be a number of at least 0"),
        ("magnet", {"hinge": 1}, "hinge must be True or False"),
        ("latent_boost", {"explained_variance": 0}, "explained_variance must be a number above 0"),
        ("latent_boost", {"explained_variance": 95}, "explained_variance must be a number"),
        ("latent_boost", {"beta_min": 2.0}, "beta_min must be a number from 0 to 1"),
        ("latent_boost", {"beta_schedule": "falling"}, "no beta_schedule 'falling'"),
        ("gini", {"dead": "drop"}, "no dead 'drop'"),
        ("class_kl", {"direction": "both"}, "no direction 'both'"),
        ("class_kl", {"activation": "gelu"}, "no activation 'gelu'"),
    ],
)
def test_options_out_of_range(name, options, problem):
    with pytest.raises(UsageError, match=problem):
        make(name, **options)


@pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
def test_principal_axes_are_those_of_a_singular_value_decomposition(shape):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 5
    _, singular, expected = np.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    held = (singular**2).cumsum() / (singular**2).sum()
    for share in (0.1, 0.6, 0.95):
        axes = principal_axes(rows, share)
        dims = int((held < share).sum()) + 1
        np.testing.assert_allclose(axes.T @ axes, np.eye(dims), atol=1e-10)
        np.testing.assert_allclose(axes @ axes.T, expected[:dims].T @ expected[:dims], atol=1e-10)


@pytest.mark.parametrize("name", ["magnet", "latent_boost"])
def test_training_with_a_magnet_separates_classes(name):
    torch.manual_seed(0)
    features = torch.randn(60, 4, requires_grad=True)
    labels = torch.arange(60) % 3
    loss, optimizer = make(name), torch.optim.Adam([features], lr=0.05)
    before = float(soft_silhouette(features.detach(), labels))
    for epoch in range(1, 101):
        if name == "latent_boost":
            loss.start_epoch(epoch, 100)
        optimizer.zero_grad()
        loss(features, labels, features).backward()
        optimizer.step()
    assert before < 0
    assert float(soft_silhouette(features.detach(), labels)) > 0.4


def test_objective_starts_epochs_of_its_losses(batch):
    objective = build("ce + latent_boost + 0.5*silhouette@3 + 2*latent_boost(beta_schedule='paper')@2", 5, 4)
    objective(*batch)
    assert list(objective.terms) == ["ce", "latent_boost"]
    objective.start_epoch(3, 20)
    value = objective(*batch)
    assert objective.epoch == 3
    assert list(objective.terms) == ["ce", "latent_boost", "silhouette", "latent_boost_2"]
    expected = (
        oracles.ce(*batch)
        + oracles.latent_boost(*batch, epoch=3, epochs=20)
        + 0.5 * oracles.silhouette(*batch)
        + 2 * oracles.latent_boost(*batch, beta_schedule="paper", epoch=3, epochs=20)
    )
    assert float(value) == pytest.approx(expected, abs=1e-10)
    objective.epoch = 1  # as before: it switches terms, and tells no loss
    assert float(objective(*batch)) == pytest.approx(
        oracles.ce(*batch) + oracles.latent_boost(*batch, epoch=3, epochs=20), abs=1e-10
    )
