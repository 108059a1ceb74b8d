"""The traps of single losses: limits, invariances, degenerate batches, other libraries."""

import math

import pytest
import torch

from embedscope import plugins
from embedscope.errors import UsageError
from embedscope.losses.soft_top_k import Threshold

HEADS = ("elastic_face", "sface", "unpg")


def make(name, num_classes=5, dim=4, **options):
    torch.manual_seed(7)
    return plugins.load("losses", name)(num_classes, dim, **options)


@pytest.fixture
def batch():
    """(12, 4) features, labels of 4 classes one of which has one member, (12, 5) logits."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 4])
    features = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    return features, labels, 2 * torch.randn(12, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", ["decoupled_softmax", "mann_whitney", "proto_triplet", "icnn"])
@pytest.mark.parametrize("labels", [[0] * 8, [3]])
def test_one_class_is_zero_with_a_graph(name, labels):
    features = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    value = make(name)(features, torch.tensor(labels), torch.zeros(len(labels), 5))
    value.backward()
    assert value.item() == 0
    assert features.grad.abs().max() == 0


@pytest.mark.parametrize("name", ["decoupled_softmax", "soft_top_k", "mann_whitney", "proto_triplet"])
def test_no_positives_are_zero_with_a_graph(name):
    features = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    value = make(name, **({"k": 2} if name == "soft_top_k" else {}))(features, torch.arange(5), torch.zeros(5, 5))
    value.backward()
    assert value.item() == 0
    assert features.grad.abs().max() == 0


@pytest.mark.parametrize("name", HEADS)
def test_class_vectors_learn(name, batch):
    loss = make(name)
    assert [tuple(parameter.shape) for parameter in loss.parameters()] == [(5, 4)]
    features, labels, logits = batch
    loss(features.float(), labels, logits).backward()
    assert torch.isfinite(loss.weight.grad).all()
    assert loss.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["elastic_face", "unpg"])
def test_gradient_of_class_vectors(name, batch):
    loss = make(name, scale=4.0, **({"sd": 0} if name == "elastic_face" else {})).double()

    def value(weight):
        return torch.func.functional_call(loss, {"weight": weight}, batch)

    assert torch.autograd.gradcheck(value, loss.weight.detach().clone().requires_grad_())


# any_loss


def test_any_loss_of_certain_and_right_logits_is_near_zero():
    labels = torch.arange(5).repeat(4)
    logits = 50 * torch.nn.functional.one_hot(labels, 5).double()
    for score in ("f1", "accuracy", "balanced_accuracy", "g_mean"):
        assert 0 <= float(make("any_loss", score=score)(logits, labels, logits)) < 1e-4


@pytest.mark.parametrize(("score", "expected"), [("balanced_accuracy", 1), ("g_mean", 1)])
def test_any_loss_of_one_class_has_no_negatives(score, expected):
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    value = make("any_loss", score=score)(logits, torch.full((6,), 2), logits)
    value.backward()
    assert value.item() == expected
    assert logits.grad.abs().max() == 0


# z_loss


def test_z_loss_ignores_scale_and_shift(batch):
    features, labels, logits = batch
    loss = make("z_loss")
    expected = float(loss(features, labels, logits))
    for changed in (logits * 1e-9, logits * 1e200, 3 * logits - 100):
        assert float(loss(features, labels, changed)) == pytest.approx(expected, abs=1e-10)


def test_z_loss_is_bounded_below():
    labels = torch.arange(5)
    value = make("z_loss", a=2.0)(labels, labels, torch.eye(5, dtype=torch.float64))
    assert float(value) == pytest.approx(math.log(1 + math.exp(-2 * 2)) / 2, abs=1e-12)  # z = sqrt(5 - 1)


def test_z_loss_of_two_classes_has_no_gradient():
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5]], dtype=torch.float64, requires_grad=True)
    make("z_loss", num_classes=2)(logits, torch.tensor([0, 1]), logits).backward()
    assert logits.grad.abs().max() < 1e-15


@pytest.mark.parametrize("value", [0.1, 1e4, 0.0])
def test_z_loss_of_equal_logits_is_at_z_zero(value):
    logits = torch.full((3, 5), value, requires_grad=True)
    found = make("z_loss")(logits, torch.tensor([0, 1, 2]), logits)
    found.backward()
    assert found.item() == pytest.approx(math.log(2))
    assert logits.grad.abs().max() == 0


# comp_sum


def test_comp_sum_of_one_is_cross_entropy(batch):
    features, labels, logits = batch
    expected = float(make("ce")(features, labels, logits))
    assert float(make("comp_sum", tau=1)(features, labels, logits)) == pytest.approx(expected, abs=1e-12)
    for tau in (1 - 1e-9, 1 + 1e-9):
        assert float(make("comp_sum", tau=tau)(features, labels, logits)) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("tau", [0.0, 0.9, 1.0, 1.7, 2.0, 50.0])
def test_comp_sum_of_hopeless_logits_is_finite(tau):
    logits = torch.tensor([[0.0, 6e4], [6e4, 0.0]], requires_grad=True)
    value = make("comp_sum", tau=tau)(logits, torch.tensor([0, 0]), logits)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


def test_truncated_samples_have_no_gradient():
    logits = torch.tensor([[0.0, 3.0], [3.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value = make("comp_sum", truncation=0.4)(logits, torch.tensor([0, 0]), logits)
    value.backward()
    p = 1 / (1 + math.exp(-3))
    assert float(value.detach()) == pytest.approx(((1 - 0.4**0.7) / 0.7 + (1 - p**0.7) / 0.7) / 2, abs=1e-12)
    assert logits.grad[0].abs().max() == 0
    assert logits.grad[1].abs().max() > 0


# ldr


def test_ldr_without_margin_is_cross_entropy_less_ln_k(batch):
    expected = float(make("ce")(*batch)) - math.log(5)
    assert float(make("ldr", lam=1, margin=0)(*batch)) == pytest.approx(expected, abs=1e-12)


def test_ldr_goes_to_the_hinge_of_crammer_and_singer(batch):
    _, labels, logits = batch
    own = logits.gather(1, labels[:, None])
    margins = 1.0 - torch.nn.functional.one_hot(labels, 5)
    expected = float((logits - own + margins).amax(dim=1).mean())
    assert float(make("ldr", lam=1e-6)(*batch)) == pytest.approx(expected, abs=1e-5)


def test_normalized_ldr_of_hopeless_logits_is_finite():
    logits = torch.tensor([[-6e4, -6e4], [6e4, -6e4]], requires_grad=True)
    value = make("ldr", normalize=True)(logits, torch.tensor([0, 1]), logits)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


# decoupled_softmax


def test_decoupled_softmax_is_nt_xent_per_anchor(batch):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    from pytorch_metric_learning.reducers import PerAnchorReducer

    features, labels, logits = batch
    other = losses.NTXentLoss(temperature=0.2, reducer=PerAnchorReducer())
    expected = float(other(features, labels))
    assert float(make("decoupled_softmax", temperature=0.2)(features, labels, logits)) == pytest.approx(expected, abs=1e-9)


# soft_top_k


@pytest.mark.parametrize("k", [0.5, 3.0, 6.9])
def test_threshold_lets_k_in(k):
    scores = 5 * torch.randn(6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = Threshold.apply(scores, k, 2.0)
    torch.testing.assert_close(
        torch.sigmoid(2 * (scores + found[:, None])).sum(dim=1), torch.full((6,), k, dtype=torch.float64)
    )


def test_gradient_of_the_threshold_is_the_implicit_one():
    scores = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: Threshold.apply(s, 2.5, 2.0), scores)
    shift = torch.autograd.grad(Threshold.apply(scores, 2.5, 2.0).sum(), scores)[0].sum(dim=1)
    torch.testing.assert_close(shift, torch.full((4,), -1.0, dtype=torch.float64))  # t(s + c) = t(s) - c


def test_gradient_of_a_threshold_between_far_scores_is_finite():
    scores = torch.tensor([[1e4, 1e4, -1e4, -1e4], [0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    Threshold.apply(scores, 2.0, 2.0).sum().backward()
    torch.testing.assert_close(scores.grad.sum(dim=1), torch.tensor([-1.0, -1.0]))


@pytest.mark.parametrize(("dtype", "gap"), [(torch.float32, 40.0), (torch.float64, 40.0), (torch.float64, 4000.0)])
def test_threshold_on_a_plateau_is_where_both_sides_balance(dtype, gap):
    """Two scores at gap, three at -gap: 2 exp(-2 (gap + t)) = 3 exp(2 (t - gap)), whatever the sum of sigmoids rounds to."""
    scores = torch.tensor([[gap, gap, -gap, -gap, -gap]], dtype=dtype)
    found = Threshold.apply(scores, 2.0, 2.0)
    assert found.item() == pytest.approx(math.log(2 / 3) / 4, abs=1e-4 if dtype == torch.float32 else 1e-9)


def test_threshold_for_part_of_a_candidate_between_far_scores():
    """2.5 of five: one of the three far ones is in by half, as far as a sixth of each."""
    found = Threshold.apply(torch.tensor([[50.0, 50.0, -50.0, -50.0, -50.0]], dtype=torch.float64), 2.5, 2.0)
    assert found.item() == pytest.approx(50 + math.log((1 / 6) / (5 / 6)) / 2, abs=1e-9)


def test_all_are_in_where_there_are_no_more_than_k():
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    value = make("soft_top_k", k=5)(features, torch.tensor([0, 0, 0, 1, 1, 1]), features)
    value.backward()
    assert value.item() == 0
    assert features.grad.abs().max() == 0


def test_k_is_below_the_number_of_classes():
    with pytest.raises(UsageError, match=r"k must be less than the number of classes \(5\), got 5"):
        make("soft_top_k", on="logits")


# mann_whitney


def test_mann_whitney_bounds_one_minus_auc(batch):
    from sklearn.metrics import roc_auc_score

    features, labels, logits = batch
    unit = torch.nn.functional.normalize(features, dim=1)
    i, j = torch.triu_indices(12, 12, offset=1)
    missed = 1 - roc_auc_score((labels[i] == labels[j]).numpy(), (unit @ unit.T)[i, j].numpy())
    value = float(make("mann_whitney", temperature=0.01)(features, labels, logits)) / math.log(2)
    assert missed <= value


def test_sampled_pairs_have_the_mean_of_all(batch):
    exact = float(make("mann_whitney")(*batch))
    loss = make("mann_whitney", max_pairs=8)
    torch.manual_seed(0)
    draws = torch.stack([loss(*batch) for _ in range(2000)])
    assert draws.std() > 0
    assert abs(float(draws.mean()) - exact) < 4 * float(draws.std()) / 2000**0.5


# elastic_face


@pytest.mark.parametrize(("kind", "other"), [("arc", "ArcFaceLoss"), ("cos", "CosFaceLoss")])
def test_without_spread_it_is_arcface_and_cosface(kind, other, batch):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    features, labels, logits = batch
    loss = make("elastic_face", kind=kind, sd=0, margin=0.3).double()
    # That library continues the arc on a line where the angle is above pi - margin.
    margin = math.degrees(0.3) if kind == "arc" else 0.3
    reference = getattr(losses, other)(5, 4, margin=margin, scale=64).double()
    reference.W.data = loss.weight.data.T.clone()
    cosine = torch.nn.functional.normalize(features) @ torch.nn.functional.normalize(loss.weight.detach()).T
    assert float(torch.acos(cosine.gather(1, labels[:, None])).max()) < math.pi - 0.3
    expected = float(reference(features, labels).detach())
    assert float(loss(features, labels, logits).detach()) == pytest.approx(expected, abs=1e-6)


def test_margins_are_drawn_in_training_alone(batch):
    loss = make("elastic_face")
    assert float(loss(*batch).detach()) != float(loss(*batch).detach())
    loss.eval()
    state = torch.get_rng_state()
    value = float(loss(*batch).detach())
    assert torch.equal(torch.get_rng_state(), state)
    assert value == float(make("elastic_face", sd=0, margin=0)(*batch).detach())


def test_plus_gives_the_smallest_margin_to_the_nearest(batch):
    labels = batch[1]
    loss = make("elastic_face", kind="cos", plus=True, sd=0.2)
    cosine = torch.rand(12, 5, generator=torch.Generator().manual_seed(2))
    margins = loss._margins(cosine, labels)
    own = cosine.gather(1, labels[:, None]).squeeze(1)
    assert torch.equal(own.argsort(descending=True), margins.argsort())


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", HEADS)
def test_features_on_the_class_vectors_have_finite_gradients(name, sign):
    loss = make(name)
    features = (sign * loss.weight.detach()).clone().requires_grad_()
    loss(features, torch.arange(5), features).backward()
    assert torch.isfinite(features.grad).all()
    assert torch.isfinite(loss.weight.grad).all()


# sface


def test_forces_of_sface_are_constants(batch):
    features, labels, logits = batch
    features = features.clone().requires_grad_()
    loss = make("sface").double()
    found = torch.autograd.grad(loss(features, labels, logits), features)[0]
    cosine = torch.nn.functional.normalize(features) @ torch.nn.functional.normalize(loss.weight.detach()).T
    angle = torch.acos(cosine).detach()
    total = torch.zeros((), dtype=torch.float64)
    for i in range(12):
        for j in range(5):
            if j == labels[i]:
                total = total - 64 * cosine[i, j] / (1 + math.exp(-80 * (angle[i, j] - 0.8)))
            else:
                total = total + 64 * cosine[i, j] / (1 + math.exp(80 * (angle[i, j] - 1.23)))
    torch.testing.assert_close(found, torch.autograd.grad(total / 12, features)[0])


# unpg


def test_unpg_of_one_class_is_cosface():
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.full((6,), 3)
    expected = make("elastic_face", kind="cos", sd=0)(features, labels, features)
    torch.testing.assert_close(make("unpg")(features, labels, features), expected)


def test_unpg_appends_one_list_to_every_row():
    """Every row has the pairs of all as columns, those that it is not part of too."""
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    loss = make("unpg", whisker=100, scale=1.0).double()
    value = float(loss(features, labels, features).detach())
    pairs = torch.nn.functional.normalize(features) @ torch.nn.functional.normalize(features).T
    listed = [float(pairs[i, j]) for i in range(6) for j in range(i + 1, 6) if labels[i] != labels[j]]
    cosine = torch.nn.functional.normalize(features) @ torch.nn.functional.normalize(loss.weight.detach()).T
    cosine[torch.arange(6), labels] -= 0.35
    columns = torch.cat([cosine, torch.tensor(listed, dtype=torch.float64).expand(6, -1)], dim=1)
    assert float(torch.nn.functional.cross_entropy(columns, labels)) == pytest.approx(value, abs=1e-12)


def test_tukeys_filter_drops_what_stands_out():
    loss = make("unpg", whisker=1.5)
    pairs = torch.tensor([0.1, 0.2, 0.15, 0.99, 0.12, -0.9, 0.18, 0.17])
    assert sorted(loss._kept(pairs).tolist()) == pytest.approx([0.1, 0.12, 0.15, 0.17, 0.18, 0.2])


# proto_triplet


def test_an_only_member_asks_nothing_and_competes():
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.0]], dtype=torch.float64)
    value = make("proto_triplet", margin=0.5)(features, torch.tensor([0, 0, 1]), features)
    own, other = math.sqrt(1 + 1e-6), math.sqrt(0.25 + 1e-6)
    assert float(value) == pytest.approx(own - other + 0.5, abs=1e-12)


def test_a_sample_is_not_part_of_its_prototype():
    """With itself in the mean, two members would be half as far from it as they are."""
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 5.0], [2.0, 5.0]], dtype=torch.float64)
    value = make("proto_triplet", margin=10.0)(features, torch.tensor([0, 0, 1, 1]), features)
    assert float(value) == pytest.approx(math.sqrt(4 + 1e-6) - math.sqrt(26 + 1e-6) + 10, abs=1e-12)


# icnn


def test_icnn_of_pure_and_tight_classes_is_near_zero():
    centers = 100 * torch.eye(4, dtype=torch.float64)
    labels = torch.arange(24) % 4
    features = centers[labels] + 1e-3 * torch.randn(24, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert 0 <= float(make("icnn")(features, labels, features)) < 1e-4


def test_icnn_of_foreign_neighborhoods_only_is_not_perfect():
    """Pairs of two classes, far from one another: no sample has one of its class among its k=1 neighbors."""
    features = torch.tensor([[0.0], [0.1], [10.0], [10.1]], dtype=torch.float64, requires_grad=True)
    value = make("icnn", k=1)(features, torch.tensor([0, 1, 0, 1]), features)
    # same = 0 and not 1, diff = 1, gamma = 0
    assert float(value.detach()) == pytest.approx(-math.log(1 / 4), abs=1e-12)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_icnn_ignores_scale(factor, batch):
    features, labels, logits = batch
    expected = float(make("icnn")(features, labels, logits))
    assert float(make("icnn")(features * factor, labels, logits)) == pytest.approx(expected, abs=1e-9)


def test_icnn_scales_by_the_batch_or_by_the_row():
    """Two pairs of two classes each, one ten times as wide: by rows both are at 1, by the batch the narrow one is at 0.1."""
    features = torch.tensor([[0.0], [1.0], [100.0], [110.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1])
    assert float(make("icnn", k=1)(features, labels, features)) == pytest.approx(-math.log((1.0 + 0.1) / 2 / 4), abs=1e-12)
    assert float(make("icnn", k=1, scale="row")(features, labels, features)) == pytest.approx(-math.log(1 / 4), abs=1e-12)


# uniformity


def test_uniformity_is_without_the_diagonal():
    """Opposite points: the only pair is at squared distance 4; with the diagonal it would be ln((1 + exp(-8)) / 2)."""
    features = torch.tensor([[2.0, 0.0], [-3.0, 0.0]], dtype=torch.float64)
    assert float(make("uniformity")(features, torch.tensor([0, 1]), features)) == pytest.approx(-8, abs=1e-12)


@pytest.mark.parametrize("rows", [1, 3])
def test_uniformity_of_one_place_is_zero(rows):
    features = torch.ones(rows, 4, requires_grad=True)
    value = make("uniformity")(features, torch.zeros(rows, dtype=torch.int64), features)
    value.backward()
    assert abs(value.item()) < 1e-6
    assert features.grad.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("any_loss", {"score": "acuracy"}, "no score 'acuracy'; did you mean 'accuracy'"),
        ("any_loss", {"amplification": 0}, "amplification must be a number above 0"),
        ("z_loss", {"a": 0}, "a must be a number above 0"),
        ("comp_sum", {"tau": -1}, "tau must be a number of at least 0"),
        ("comp_sum", {"truncation": 2}, "truncation must be a number from 0 to 1"),
        ("ldr", {"lam": 0}, "lam must be a number above 0"),
        ("ldr", {"normalize": 1}, "normalize must be True or False"),
        ("soft_top_k", {"on": "logit"}, "no on 'logit'; did you mean 'logits'"),
        ("mann_whitney", {"max_pairs": 1.5}, "max_pairs must be an integer of at least 1, got 1.5"),
        ("elastic_face", {"kind": "ark"}, "no kind 'ark'; did you mean 'arc'"),
        ("elastic_face", {"sd": -1}, "sd must be a number of at least 0"),
        ("unpg", {"whisker": -1}, "whisker must be a number of at least 0"),
        ("icnn", {"k": 0}, "k must be an integer of at least 1, got 0"),
        ("icnn", {"scale": "rows"}, "no scale 'rows'; did you mean 'row'"),
        ("icnn", {"k": True}, "k must be an integer of at least 1, got True"),
    ],
)
def test_options_are_checked(name, options, problem):
    with pytest.raises(UsageError) as caught:
        make(name, **options)
    assert problem in str(caught.value)
