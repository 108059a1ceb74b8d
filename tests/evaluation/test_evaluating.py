"""One evaluation: what it reads, what it shares, what it reports."""

import numpy as np
import pytest
import torch

from embedscope import plugins
from embedscope.errors import InputError, UsageError
from embedscope.evaluation import evaluate
from embedscope.metrics import Result, metric
from embedscope.metrics.silhouette import silhouette_samples
from embedscope.store.features import FeatureSet


@pytest.fixture
def sample():
    """(60, 6) float64 rows of 4 unequal classes, (60,) labels."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.tensor([0, 1, 2, 3, 3, 1] * 10)
    features = torch.randn(60, 6, generator=generator, dtype=torch.float64) + torch.eye(6, dtype=torch.float64)[labels] * 2
    return features, labels


def of(features, labels, class_names="abcd", **more):
    ids = np.array([f"row{row}" for row in range(len(labels))], dtype=object)
    return FeatureSet("one", "one.h5", "embedding", features, labels.numpy(), tuple(class_names), ids, **more)


class OnDisk:
    """Rows that are only there in slices, as a store gives them; counts how often they are read."""

    def __init__(self, rows):
        self.rows, self.shape, self.dtype, self.reads = rows, rows.shape, rows.dtype, 0

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        self.reads += 1
        return self.rows[rows]


@pytest.fixture
def never_at_hand(monkeypatch):
    monkeypatch.setattr("embedscope.evaluation.evaluating._at_hand", lambda rows, device, budget: rows)


def test_rows_are_read_once_for_all_that_can_share_a_pass(sample, never_at_hand):
    rows = OnDisk(sample[0])
    names = ["gini", "class_kl", "explained_variance", "rankme", "stable_rank"]
    together = evaluate(of(rows, sample[1]), names, device="cpu")
    assert rows.reads == 1
    for name in names:
        assert together.metrics[name].value == pytest.approx(float(plugins.load("metrics", name)(*sample)), abs=1e-13)


def test_class_moments_are_shared(sample, never_at_hand):
    rows = OnDisk(sample[0])
    evaluate(of(rows, sample[1]), ["silhouette(distance='cosine')", "soft_silhouette(distance='cosine')"], device="cpu")
    assert rows.reads == 3  # class moments once for both, then each


def test_values_by_class(sample):
    found = evaluate(of(*sample), "silhouette(distance='cosine')").metrics["silhouette"]
    assert found.options == {"distance": "cosine"}
    assert list(found.per_class) == ["a", "b", "c", "d"]
    counts = torch.bincount(sample[1]).tolist()
    mean = sum(value * count for value, count in zip(found.per_class.values(), counts, strict=True)) / 60
    assert found.value == pytest.approx(mean, abs=1e-12)


def test_magnitudes_are_read_where_a_metric_wants_them(sample):
    features, labels = sample
    found = evaluate(of(features, labels, magnitudes=features**2), ["gini", "silhouette"]).metrics
    assert found["gini"].value == float(plugins.load("metrics", "gini")(features**2, labels))
    assert found["silhouette"].value == float(plugins.load("metrics", "silhouette")(features, labels))


def test_magnitudes_that_are_not_finite_are_named(sample):
    magnitudes = sample[0].abs()
    magnitudes[3, 2] = torch.nan
    with pytest.raises(
        InputError, match=r"one.h5: 1 of 60 rows of the magnitudes holds NaN or infinite values: row 3 \(row3\)"
    ):
        evaluate(of(*sample, magnitudes=magnitudes), "gini")


def test_undefined_is_none_with_the_reason(sample):
    found = evaluate((sample[0], torch.zeros_like(sample[1])), "silhouette")
    assert found.metrics["silhouette"].value is None
    assert found.metrics["silhouette"].note == "needs at least 2 classes, got 1"
    assert found.warnings == ["silhouette is undefined: needs at least 2 classes, got 1"]


def test_a_value_that_is_not_finite_is_undefined(sample, monkeypatch):
    @metric(better=None, bounds=(None, None), reference="doi:1")
    def overflow(features, labels):
        return Result(float("inf"))

    monkeypatch.setattr("embedscope.plugins.load", lambda kind, name: overflow)
    assert "the value is inf" in evaluate(sample, "overflow").metrics["overflow"].note


def test_anchors_are_the_samples_of_the_table(sample):
    anchors = np.arange(0, 60, 7)
    found = evaluate(of(*sample), "silhouette", anchors=anchors)
    assert found.table.ids.tolist() == [f"row{row}" for row in anchors]
    expected = silhouette_samples(*sample)[anchors]
    np.testing.assert_allclose(found.table.values["silhouette"], expected, atol=1e-12)
    assert "estimated from a stratified sample of 9 of 60 rows" in found.metrics["silhouette"].note


def test_anchors_that_miss_a_class_estimate_nothing(sample):
    found = evaluate(of(*sample), "silhouette", anchors=np.array([0, 1, 2])).metrics["silhouette"]
    assert found.value is None
    assert "no estimate: 1 class has no row among the 3 that were drawn" in found.note


def test_arrays_of_any_kind(sample):
    expected = evaluate(of(*sample), "silhouette").metrics["silhouette"].value
    names = np.array(["north", "east", "south", "west"])[sample[1]]
    assert evaluate((sample[0].tolist(), names.tolist()), "silhouette").metrics["silhouette"].value == expected


@pytest.mark.parametrize("metrics", ["silhouete", ["gini", "silhouete"]])
def test_unknown_metric(sample, metrics):
    with pytest.raises(UsageError, match="did you mean 'silhouette'"):
        evaluate(sample, metrics)
