"""Losses of pytorch-metric-learning by name, and the traps of those that have a name of ours."""

import math
import sys

import pytest
import torch

from embedscope.errors import InputError, MissingExtraError, UsageError
from embedscope.losses.expression import build

pytest.importorskip("pytorch_metric_learning")
from pytorch_metric_learning import losses

PAIRS = torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.fixture
def features():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(5))


def value(objective, features, labels=PAIRS):
    return build(objective, 3, 4)(features, labels, torch.zeros(len(labels), 3)).item()


def test_members_of_the_family_are_reached_by_their_class_name(features):
    objective = build("ce + 0.5*pml.TripletMarginLoss(margin=0.2)@2 + pml.ProxyNCALoss + pml.TripletMarginLoss", 3, 4)
    assert objective.names == ("ce", "pml.TripletMarginLoss", "pml.ProxyNCALoss", "pml.TripletMarginLoss_2")
    assert [tuple(parameter.shape) for parameter in objective.parameters()] == [(3, 4)]
    assert objective.schedule[1] == (0.5, 2)
    objective.epoch = 2
    objective(features, PAIRS, torch.zeros(6, 3))
    assert objective.terms["pml.TripletMarginLoss"].item() == losses.TripletMarginLoss(margin=0.2)(features, PAIRS).item()


def test_the_short_form_is_the_option(features):
    short = "pml.SupConLoss(temperature=0.2, distance='LpDistance(p=1)')"
    assert value(short, features) == value("pml(loss=\"SupConLoss(temperature=0.2, distance='LpDistance(p=1)')\")", features)


def test_class_weights_are_a_list(features):
    weighted = value("pml.TripletMarginLoss(margin=3, reducer='ClassWeightedReducer(weights=[2.0, 2.0, 2.0])')", features)
    assert weighted == pytest.approx(2 * value("pml.TripletMarginLoss(margin=3)", features))


def test_memory_around_another_loss(features):
    objective = build("pml.CrossBatchMemory(loss='ContrastiveLoss', memory_size=12, miner='MultiSimilarityMiner')", 3, 4)
    first, second = (objective(features, PAIRS, torch.zeros(6, 3)).item() for _ in range(2))
    assert 0 < first < math.inf
    assert 0 < second < math.inf
    assert second != first  # the first batch is in the memory


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pml", "pml needs the name of a pytorch-metric-learning loss"),
        ("pml.TripletMarginLos", "pytorch-metric-learning has no loss 'TripletMarginLos'; did you mean 'TripletMarginLoss'?"),
        ("plm.TripletMarginLoss", "no loss 'plm'; did you mean 'pml'?"),
        ("ce.TripletMarginLoss", "no loss 'ce.TripletMarginLoss': ce is a single loss"),
        ("pml.TripletMarginLoss(margn=1)", "pml.TripletMarginLoss has no option 'margn'; did you mean 'margin'?"),
        ("pml.TripletMarginLoss(0.2)", "need a name, as in pml.TripletMarginLoss(option=0.2)"),
        ("pml.TripletMarginLoss(margin='wide')", "pml.TripletMarginLoss cannot be used this way"),
        ("pml.TripletMarginLoss(distance='Cosine')", "pytorch-metric-learning has no distance 'Cosine'"),
        ("pml.TripletMarginLoss(distance='LpDistance(q=1)')", "LpDistance has no option 'q'"),
        ("pml.TripletMarginLoss(reducer='MeanReducr')", "did you mean 'MeanReducer'?"),
        ("pml.TripletMarginLoss(miner='MultiMiner')", "did you mean 'MultiSimilarityMiner'?"),
        ("pml.TripletMarginLoss(miner=3)", "must be a string"),
        ("pml.ProxyNCALoss(num_classes=7)", "pml.ProxyNCALoss has no option 'num_classes'"),
        ("pml.RankedListLoss", "pml.RankedListLoss needs margin and Tn"),
        (
            "pml.InstanceLoss(miner='BatchHardMiner')",
            "pml.InstanceLoss cannot be used this way: indices_tuple is not supported",
        ),
        ("pml.ManifoldLoss", "takes no labels"),
        ("pml.VICRegLoss", "needs two views"),
        ("pml.SelfSupervisedLoss(loss='SupConLoss')", "needs several views"),
        ("pml.MultipleLosses", "write them as a sum"),
        ("pml.GenericPairLoss", "pytorch-metric-learning has no loss 'GenericPairLoss'"),
    ],
)
def test_errors_of_usage(text, message):
    with pytest.raises(UsageError) as caught:
        build(f"ce + {text}", 3, 4)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["supcon", "triplet", "proxy_nca", "pml.SupConLoss"])
def test_missing_library(monkeypatch, name):
    for module in [module for module in sys.modules if module.startswith("pytorch_metric_learning")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'embedscope\[losses\]'"):
        build(name, 3, 4)


def test_center_needs_no_library(monkeypatch, features):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    assert value("center", features) == pytest.approx(features.square().sum().item() / 12)


def test_a_batch_that_the_library_refuses(features):
    if not hasattr(pytest.importorskip("pytorch_metric_learning.losses"), "SmoothAPLoss"):
        pytest.skip("this pytorch-metric-learning has no SmoothAPLoss")
    objective = build("pml.SmoothAPLoss", 3, 4)
    with pytest.raises(InputError, match="SmoothAPLoss of pytorch-metric-learning cannot use this batch: All classes must"):
        objective(features, torch.tensor([0, 0, 0, 1, 1, 2]), torch.zeros(6, 3))


def test_making_a_loss_draws_only_its_proxies():
    torch.manual_seed(0)
    build("pml.ProxyAnchorLoss", 3, 4)
    after = torch.rand(1)
    torch.manual_seed(0)
    losses.ProxyAnchorLoss(3, 4)
    assert after == torch.rand(1)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("contrastive(margin=-1)", "margin must be a number of at least 0, got -1"),
        ("triplet(triplets='easy')", "no triplets 'easy'. There are: all, semihard, hard"),
        ("triplet(smooth=1)", "smooth must be True or False, got 1"),
        ("npair(regularization=-1)", "regularization must be a number of at least 0, got -1"),
        ("supcon(temperature=0)", "temperature must be a number above 0, got 0"),
        ("proxy_nca(scale=0)", "scale must be a number above 0, got 0"),
        ("proxy_anchor(margin=2)", "margin must be a number from 0 to 1, got 2"),
        ("multi_similarity(base=2)", "base must be a number from -1 to 1, got 2"),
        ("multi_similarity(miner='yes')", "miner must be True or False, got 'yes'"),
        ("normalized_softmax(temperature='hot')", "temperature must be a number above 0, got 'hot'"),
        ("center(alpha=1.5)", "alpha must be a number from 0 to 1, got 1.5"),
    ],
)
def test_options_out_of_range(option, message):
    with pytest.raises(UsageError, match=f"^{message}$"):
        build(option, 3, 4)


@pytest.mark.parametrize(
    "name", ["contrastive", "triplet", "npair", "supcon", "multi_similarity", "multi_similarity(miner=True)"]
)
def test_no_pairs_is_zero_with_a_graph(name):
    features = torch.randn(1, 4, requires_grad=True)
    found = build(name, 3, 4)(features, torch.tensor([1]), torch.zeros(1, 3))
    found.backward()
    assert found.item() == 0
    assert features.grad.abs().max() == 0


@pytest.mark.parametrize("name", ["triplet", "npair", "supcon"])
@pytest.mark.parametrize("labels", [[0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5]])
def test_one_class_or_none_twice_is_zero_with_a_graph(name, labels):
    features = torch.randn(6, 4, requires_grad=True)
    found = build(name, 6, 4)(features, torch.tensor(labels), torch.zeros(6, 6))
    found.backward()
    assert found.item() == 0
    assert features.grad.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "name", ["normalized_softmax", "proxy_anchor", "proxy_nca", "supcon", "multi_similarity", "pml.SupConLoss"]
)
def test_a_zero_row_among_others_gets_no_gradient(name, dtype, features):
    rows = torch.cat([torch.zeros(1, 4), features[1:]]).to(dtype).requires_grad_()
    build(name, 3, 4)(rows, PAIRS, torch.zeros(6, 3)).backward()
    assert rows.grad[0].abs().max() == 0
    assert torch.isfinite(rows.grad).all()
    assert rows.grad[1:].abs().max() > 0


def test_supcon_is_the_mean_over_anchors_with_positives(features):
    """The library's mean is over anchors whose loss is not 0: the scale jumps as anchors reach it."""
    rows = torch.eye(4)[[0, 0, 1, 1, 2, 3]] + 0.4 * torch.eye(4)[[0, 0, 0, 0, 3, 0]]
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    ours, library = value("supcon(temperature=0.01)", rows, labels), value("pml.SupConLoss(temperature=0.01)", rows, labels)
    assert library > 1.5 * ours > 0
    assert value("supcon", features, torch.tensor([0, 0, 1, 1, 2, 3])) == pytest.approx(
        losses.SupConLoss()(features, torch.tensor([0, 0, 1, 1, 2, 3])).item()
    )


def test_proxy_nca_counts_samples_whose_probability_vanishes():
    """The library leaves them out, and is NaN where it leaves out all."""
    rows, labels = torch.tensor([[1.0, 0.0], [0.9, 0.1]]), torch.tensor([1, 1])
    found = build("proxy_nca(scale=100) + pml.ProxyNCALoss(softmax_scale=100)", 2, 2)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    found(rows, labels, torch.zeros(2, 2))
    assert found.terms["proxy_nca"].item() == pytest.approx(100 * (4 + 4 * 0.9 / math.hypot(0.9, 0.1)) / 2, rel=1e-5)
    assert not torch.isfinite(found.terms["pml.ProxyNCALoss"])


def test_proxy_nca_is_a_normalized_softmax():
    torch.manual_seed(1)
    features, labels = torch.randn(8, 4, dtype=torch.float64), torch.arange(8) % 3
    found = build("proxy_nca(scale=5) + normalized_softmax(temperature=0.1)", 3, 4)
    proxies, weights = found.parameters()
    with torch.no_grad():
        weights.copy_(proxies.T)
    found(features, labels, torch.zeros(8, 3))
    assert found.terms["proxy_nca"].item() == pytest.approx(found.terms["normalized_softmax"].item(), abs=1e-10)


def test_contrastive_is_linear_and_averages_what_violates():
    rows = torch.tensor([[0.0], [0.5], [0.75], [3.0]])
    found = value("contrastive(normalize=False)", rows, torch.tensor([0, 0, 1, 2]))
    # Positive: 0.5. Negative within the margin of 1: distances 0.75 and 0.25; the three others cost nothing and do not count.
    assert found == pytest.approx(0.5 + (0.25 + 0.75) / 2)


def test_center_follows_the_rule_of_the_paper(features):
    loss = build("center(alpha=0.3)", 3, 4).losses[0].double()
    centers = [[0.0] * 4 for _ in range(3)]
    for labels in ([0, 0, 1, 1, 1, 0], [2, 1, 1, 1, 1, 1], [2, 2, 2, 2, 2, 2]):
        rows = features.double() + len(centers)
        expected = sum(
            (x - c) ** 2 for row, y in zip(rows.tolist(), labels, strict=True) for x, c in zip(row, centers[y], strict=True)
        )
        assert loss(rows, torch.tensor(labels), rows).item() == pytest.approx(expected / 12, abs=1e-10)
        for j in range(3):
            members = [row for row, y in zip(rows.tolist(), labels, strict=True) if y == j]
            for d in range(4):
                gap = sum(row[d] - centers[j][d] for row in members) / (1 + len(members))
                centers[j][d] += 0.3 * gap if members else 0.0
        torch.testing.assert_close(loss.centers, torch.tensor(centers, dtype=torch.float64))
    loss.eval()
    loss(features.double(), PAIRS, features)
    torch.testing.assert_close(loss.centers, torch.tensor(centers, dtype=torch.float64))
    assert list(loss.parameters()) == []
    assert set(loss.state_dict()) == {"centers"}


@pytest.mark.parametrize(
    "name",
    [
        "contrastive",
        "triplet",
        "npair",
        "supcon",
        "proxy_nca(scale=9)",
        "proxy_anchor",
        "multi_similarity",
        "normalized_softmax",
    ],
)
def test_training_separates_classes(name):
    torch.manual_seed(0)
    features, labels = torch.randn(60, 4, requires_grad=True), torch.arange(60) % 3
    objective = build(name, 3, 4)
    optimizer = torch.optim.Adam([features, *objective.parameters()], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        objective(features, labels, features).backward()
        optimizer.step()
    used = 6 if name == "npair" else 60  # npair reads one pair a class
    rows = torch.nn.functional.normalize(features.detach()[:used], dim=1)
    means = torch.stack([rows[labels[:used] == k].mean(dim=0) for k in range(3)])
    assert (rows @ torch.nn.functional.normalize(means, dim=1).T).argmax(dim=1).tolist() == labels[:used].tolist()
