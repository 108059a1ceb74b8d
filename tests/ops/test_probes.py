"""Out-of-sample probabilities of linear probes, against scikit-learn at the same folds and strength."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from embedscope.errors import UndefinedError, UsageError
from embedscope.ops import probes
from embedscope.ops.blocks import limits
from embedscope.ops.class_moments import present_classes
from embedscope.ops.statistics import random_groups


def data(rows=150, width=8, classes=4, seed=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    labels[:classes] = torch.arange(classes)
    features = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    features += 2 * torch.randn(classes, width, generator=generator, dtype=torch.float64)[labels]
    return features * torch.logspace(-2, 2, width, dtype=torch.float64) + 5, labels


@pytest.fixture
def to_the_end(monkeypatch):
    """Fit until the slope is next to 0: both libraries then come to the same minimum."""
    monkeypatch.setitem(probes._ENDS, "exact", (1e-9, 1e-16))


def reference(features, labels, C, folds=5, seed=0):
    fold = random_groups(labels, folds, seed, stratified=True).numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, tol=1e-9, max_iter=10_000))
    return cross_val_predict(model, features.numpy(), labels.numpy(), cv=PredefinedSplit(fold), method="predict_proba")


@pytest.mark.parametrize("C", [0.01, 1.0])
@pytest.mark.parametrize("width", [8, 300])
@pytest.mark.usefixtures("to_the_end")
def test_probabilities_equal_those_of_scikit_learn(width, C):
    features, labels = data(width=width)
    found = probes.cross_fitted_probabilities(features, labels, C=C)
    # Both stop where the slope is small, not where it is 0.
    np.testing.assert_allclose(found, reference(features, labels, C), atol=2e-6)


def test_fits_stop_where_probabilities_hardly_move():
    features, labels = data()
    found = probes.cross_fitted_probabilities(features, labels, C=1.0)
    np.testing.assert_allclose(found, reference(features, labels, 1.0), atol=2e-4)


@pytest.mark.usefixtures("to_the_end")
def test_more_folds_and_another_seed_and_labels_with_gaps():
    features, labels = data()
    found = probes.cross_fitted_probabilities(features, 10 * labels - 3, 7, 4, C=0.1)
    np.testing.assert_allclose(found, reference(features, labels, 0.1, folds=7, seed=4), atol=2e-6)


def test_no_row_is_predicted_by_a_probe_that_saw_it():
    """Labels of noise cannot be predicted out of sample, and are known by heart in sample."""
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(200, 150, generator=generator), torch.arange(200) % 2
    found = probes.cross_fitted_probabilities(features, labels, C=10.0)
    assert float((found.argmax(dim=1) == labels).double().mean()) < 0.65
    inside = probes.fit(features, labels, 2, C=10.0).probabilities(features)
    assert float((inside.argmax(dim=1) == labels).double().mean()) == 1


def test_the_only_row_of_a_class_has_probability_0_of_it():
    features, labels = data()
    labels[17] = 9
    found = probes.cross_fitted_probabilities(features, labels, C=1.0)
    assert found.shape == (150, 5)
    assert float(found[17, 4]) == 0
    torch.testing.assert_close(found.sum(dim=1), torch.ones(150, dtype=torch.float64))
    others = present_classes(labels).index != 4
    # All folds but that of the lone row know the class.
    assert int((found[others, 4] > 0).sum()) > 110


def test_two_rows():
    found = probes.cross_fitted_probabilities(torch.eye(2), torch.tensor([0, 1]))
    assert found.tolist() == [[0, 1], [1, 0]]


def test_equal_rows_get_the_shares_of_the_classes():
    labels = torch.tensor([0] * 30 + [1] * 10)
    found = probes.cross_fitted_probabilities(torch.full((40, 3), 1 / 3), labels)
    torch.testing.assert_close(found, torch.tensor([[0.75, 0.25]] * 40, dtype=torch.float64), atol=1e-6, rtol=0)


def test_the_chosen_strength_is_the_best_of_all_on_the_validation_rows():
    features, labels = data(rows=120, width=30)
    features = torch.randn(120, 30, generator=torch.Generator().manual_seed(1)).double() + features / 100
    fold = random_groups(labels, 5, 0, stratified=True)
    losses = {}
    for C in probes.STRENGTHS:
        probe = probes.fit(features[fold != 0], labels[fold != 0], 4, C=C)
        found = probe.probabilities(features[fold == 0])
        losses[C] = float(-found[torch.arange(len(found)), labels[fold == 0]].log().mean())
    chosen = probes.fit(features, labels, 4).C
    assert chosen == min(losses, key=losses.get)
    assert probes.STRENGTHS[0] < chosen < probes.STRENGTHS[-1]


def test_single_precision_of_large_fits_moves_probabilities_little(monkeypatch):
    features, labels = data(rows=400)
    exact = probes.cross_fitted_probabilities(features, labels, C=0.1)
    monkeypatch.setattr(probes, "_LARGE", 1)
    torch.testing.assert_close(probes.cross_fitted_probabilities(features, labels, C=0.1), exact, atol=5e-3, rtol=0)


def test_rows_on_disk_in_blocks(monkeypatch):
    features, labels = data()

    class Lazy:
        shape, dtype = features.shape, features.dtype

        def __getitem__(self, rows):
            return features[rows]

    whole = probes.cross_fitted_probabilities(features, labels, C=0.1)
    with limits(memory=2**16):
        torch.testing.assert_close(probes.cross_fitted_probabilities(Lazy(), labels, C=0.1), whole, atol=1e-12, rtol=0)


def test_many_rows_are_fitted_by_a_sample_of_them(monkeypatch):
    features, labels = data(rows=1000)
    monkeypatch.setattr(probes, "_WORK", 200 * 8 * 4)
    found = list(probes.out_of_sample(features, present_classes(labels), folds=5, seed=0, C=0.1))
    assert {probe.rows for *_, probe in found} == {200}
    assert sorted(torch.cat([positions for _, positions, *_ in found]).tolist()) == list(range(1000))


def test_one_class():
    with pytest.raises(UndefinedError, match="at least two classes"):
        probes.cross_fitted_probabilities(torch.eye(4), torch.zeros(4, dtype=torch.int64))


def test_one_fold():
    with pytest.raises(UsageError, match="folds"):
        probes.cross_fitted_probabilities(torch.eye(4), torch.tensor([0, 0, 1, 1]), 1)


def test_a_strength_of_0():
    with pytest.raises(UsageError, match="C"):
        probes.cross_fitted_probabilities(torch.eye(4), torch.tensor([0, 0, 1, 1]), 2, C=0)
