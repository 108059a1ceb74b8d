"""Metrics that read the classifier's logits: their laws, the classifier they recover, and features with and without logits."""

import numpy as np
import pytest
import torch

from embedscope import plugins
from embedscope.errors import UndefinedError
from embedscope.evaluation import evaluate
from embedscope.metrics import declaration
from embedscope.ops.blocks import limits
from embedscope.ops.heads import linear_head
from embedscope.store.in_memory import feature_set
from embedscope.store.selection import select

NAMES = [name for name in plugins.names("metrics") if declaration(plugins.load("metrics", name)).takes_logits]


def load(name):
    return plugins.load("metrics", name)


@pytest.fixture
def sample():
    """(90, 6) rows of 4 unequal classes, (90,) labels, the (4, 6) weights of a head and its (90, 4) logits."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.tensor([0, 1, 2, 3, 3, 1] * 15)
    means = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    features = torch.randn(90, 6, generator=generator, dtype=torch.float64) + 2 * means[labels] + 1
    weight = means + 0.3 * torch.randn(4, 6, generator=generator, dtype=torch.float64)
    return features, labels, weight, features @ weight.T + torch.tensor([0.5, -1, 2, 0], dtype=torch.float64)


def test_the_metrics_that_read_logits():
    assert NAMES == ["nc3", "nc4"]


@pytest.mark.parametrize("name", NAMES)
def test_invariant_to_what_the_classifier_undoes(name, sample):
    """The rows move, the logits stay: those of a network whose classifier reads the rows where they are now."""
    features, labels, _, logits = sample
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(8), dtype=torch.float64))[0]
    before = float(load(name)(features, labels, logits=logits))
    assert declaration(load(name)).invariant == ("translation", "rotation", "scale")
    for changed in (features + torch.arange(6), features @ turn, features * 37):
        assert float(load(name)(changed, labels, logits=logits)) == pytest.approx(before, abs=1e-9)
    stretched = features * torch.tensor([100.0, 1, 2, 3, 4, 5], dtype=torch.float64)
    assert abs(float(load(name)(stretched, labels, logits=logits)) - before) > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_order_of_rows_and_names_of_labels_do_not_matter(name, sample):
    features, labels, _, logits = sample
    order = torch.randperm(90, generator=torch.Generator().manual_seed(9))
    names = torch.tensor([40, -3, 7, 0])
    columns = logits[:, names.argsort()]
    found = load(name)(features[order], names[labels][order], logits=columns[order])
    assert float(found) == pytest.approx(float(load(name)(features, labels, logits=logits)), abs=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_and_rows_on_disk_and_float32(name, sample):
    features, labels, _, logits = sample

    class Lazy:
        def __init__(self, rows):
            self.rows, self.shape, self.dtype = rows, rows.shape, rows.dtype

        def __getitem__(self, rows):
            assert isinstance(rows, slice)
            return self.rows[rows]

    whole = float(load(name)(features, labels, logits=logits))
    with limits(memory=2**12):
        assert float(load(name)(Lazy(features), labels, logits=Lazy(logits))) == pytest.approx(whole, abs=1e-12)
    # The logits have 24 bits, and the classifier about as many.
    assert float(load(name)(features.float(), labels, logits=logits.float())) == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_the_classifier_is_recovered(sample, scale):
    features, _, weight, logits = sample
    dead = torch.cat([scale * features, torch.zeros(90, 2, dtype=torch.float64)], dim=1)
    head = linear_head(dead, logits, dead.mean(dim=0))
    torch.testing.assert_close(head.weight[:, :6], weight / scale, atol=1e-9, rtol=1e-9)
    assert not bool(head.weight[:, 6:].any())
    assert head.rank == 6
    assert head.residual < 1e-7


def test_a_collapsed_network():
    labels = torch.arange(4).repeat_interleave(10)
    corners = torch.eye(4, dtype=torch.float64)[labels]
    logits = corners @ (3 * torch.eye(4, dtype=torch.float64) - 0.75)
    assert float(load("nc3")(corners, labels, logits=logits)) == pytest.approx(0, abs=1e-12)
    assert float(load("nc3")(corners, labels, logits=-logits)) == pytest.approx(2, abs=1e-12)
    assert float(load("nc4")(corners, labels, logits=logits)) == 1
    assert float(load("nc4")(corners, labels, logits=logits.roll(1, dims=1))) == 0


def test_accuracies_beside_nc4(sample):
    features, labels, _, logits = sample
    found = load("nc4")(features, labels, logits=logits)
    assert found.arrays["classifier_accuracy"] == float((logits.argmax(dim=1) == labels).double().mean())
    assert 0.7 < found.arrays["nearest_mean_accuracy"] <= 1


def test_undefined_with_its_reason(sample):
    features, labels, _, logits = sample
    for name in NAMES:
        with pytest.raises(UndefinedError, match="no logits; extract the features with `logits=True`"):
            load(name)(features, labels)
        with pytest.raises(UndefinedError, match="3 columns and the data 4 classes"):
            load(name)(features, labels, logits=logits[:, :3])
        with pytest.raises(UndefinedError, match="one class"):
            load(name)(features, torch.zeros_like(labels), logits=logits[:, :1])
    with pytest.raises(UndefinedError, match="not linear in these features"):
        load("nc3")(features, labels, logits=logits.relu())
    with pytest.raises(UndefinedError, match="constant"):
        load("nc3")(features, labels, logits=torch.zeros_like(logits))
    with pytest.raises(UndefinedError, match="too few for the number of dimensions"):
        load("nc3")(features[:6], labels[:6], logits=logits[:6])
    with pytest.raises(UndefinedError, match="all class means are equal"):
        load("nc3")(torch.full_like(features, 0.1), labels, logits=logits)


def stored(features, labels, logits, names=("a", "b", "c", "d", "e")):
    from dataclasses import replace

    made = feature_set(features.numpy(), labels.numpy())
    return replace(made, class_names=tuple(names), labels=labels.numpy(), logits=logits)


def test_an_evaluation_reads_the_logits_of_the_classes_that_occur(sample):
    """The head has a class that no row has, and rows without a label are left out."""
    features, labels, _, logits = sample
    five = torch.cat([logits[:, :2], torch.full((90, 1), 50.0, dtype=torch.float64), logits[:, 2:]], dim=1)
    renumbered = torch.tensor([0, 1, 3, 4])[labels]
    renumbered[[4, 50]] = -1
    left = renumbered >= 0
    scores = evaluate(stored(features, renumbered, five), "neural_collapse", ci=True)
    for name in NAMES:
        expected = float(load(name)(features[left], labels[left], logits=logits[left]))
        assert scores.metrics[name].value == pytest.approx(expected, abs=1e-12)
    low, high = scores.metrics["nc4"].ci95
    assert low < scores.metrics["nc4"].value < high
    assert scores.metrics["nc3"].note == "no interval: the value depends on the number of samples"


def test_an_evaluation_without_logits_or_with_those_of_other_classes(sample):
    features, labels, _, logits = sample
    scores = evaluate((features.numpy(), labels.numpy()), NAMES)
    assert [scores.metrics[name].value for name in NAMES] == [None, None]
    assert "no logits" in scores.metrics["nc3"].note
    scores = evaluate(stored(features, labels, logits[:, :3]), NAMES)
    assert scores.metrics["nc4"].note == "the logits have 3 columns and the data 4 classes"


def test_selected_rows_keep_their_logits(sample):
    features, labels, _, logits = sample
    keep = np.arange(90) % 3 == 0
    chosen = select(stored(features, labels, logits), keep)
    torch.testing.assert_close(chosen.logits[:], logits[keep])
