"""`train=`: one split teaches, the others are measured; against scikit-learn, alone and through an evaluation."""

import numpy as np
import pytest
import torch

from embedscope.errors import UndefinedError, UsageError
from embedscope.evaluation import evaluate
from embedscope.metrics.knn_accuracy import knn_accuracy
from embedscope.metrics.linear_probe import linear_probe
from embedscope.store.in_memory import feature_set

METRICS = {"linear_probe": linear_probe, "knn_accuracy": knn_accuracy}


@pytest.fixture(scope="module")
def sample():
    """Overlapping classes; two thirds of the rows are of the split train."""
    generator = np.random.default_rng(0)
    labels = np.arange(240) % 4
    features = generator.normal(size=(240, 6)) + generator.normal(size=(4, 6))[labels]
    splits = np.where(generator.random(240) < 2 / 3, "train", "test").astype(object)
    return features, labels, splits


def test_the_probe_is_that_of_scikit_learn(sample):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels, splits = sample
    teaches = splits == "train"
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-9, max_iter=10_000))
    expected = model.fit(features[teaches], labels[teaches]).predict(features[~teaches]) == labels[~teaches]
    found = linear_probe(torch.from_numpy(features), torch.from_numpy(labels), C=0.1, train="train", splits=splits)
    np.testing.assert_array_equal(found.per_sample[torch.from_numpy(~teaches)].numpy(), expected)
    assert found.per_sample[torch.from_numpy(teaches)].isnan().all()
    assert found.value == expected.mean()


def test_strength_is_chosen_among_training_rows(sample):
    features, labels, splits = map(np.copy, sample)
    found = linear_probe(torch.from_numpy(features), torch.from_numpy(labels), train="train", splits=splits)
    features[splits == "test"] = 1e3
    other = linear_probe(torch.from_numpy(features), torch.from_numpy(labels), train="train", splits=splits)
    assert found.arrays["C"] == other.arrays["C"]


@pytest.mark.parametrize("k", [1, 7])
def test_the_vote_is_that_of_scikit_learn(sample, k):
    from sklearn.neighbors import KNeighborsClassifier

    features, labels, splits = sample
    teaches = splits == "train"
    model = KNeighborsClassifier(k, metric="cosine", weights=lambda distances: np.exp(-distances / 0.07), algorithm="brute")
    expected = model.fit(features[teaches], labels[teaches]).predict(features[~teaches]) == labels[~teaches]
    found = knn_accuracy(torch.from_numpy(features), torch.from_numpy(labels), k=k, train="train", splits=splits)
    np.testing.assert_array_equal(found.per_sample[torch.from_numpy(~teaches)].numpy(), expected)
    assert found.value == expected.mean()


@pytest.mark.parametrize("name", METRICS)
def test_through_an_evaluation(sample, name):
    features, labels, splits = sample
    direct = METRICS[name](torch.from_numpy(features), torch.from_numpy(labels), train="train", splits=splits)
    found = evaluate(feature_set(features, labels, split=splits), f"{name}(train='train')", ci=True, device="cpu")
    measured = found.metrics[name]
    assert measured.value == direct.value
    # That of a mean over the tested rows, for the voters and the probe as they are; the vote's also covers who votes.
    reach = 1.96 * float(np.nanstd(direct.per_sample.numpy()) / np.sqrt((splits == "test").sum()))
    low, high = measured.ci95
    assert 0.8 * reach < (high - low) / 2 < 1.7 * reach
    for number, name_of_class in enumerate(found.metrics[name].per_class):
        kept = (labels == number) & (splits == "test")
        assert measured.per_class[name_of_class] == pytest.approx(float(direct.per_sample[torch.from_numpy(kept)].mean()))


@pytest.mark.parametrize("name", METRICS)
def test_what_cannot_be_measured_so(sample, name):
    features, labels, splits = torch.from_numpy(sample[0]), torch.from_numpy(sample[1]), sample[2]
    with pytest.raises(UndefinedError, match="needs rows with splits"):
        METRICS[name](features, labels, train="train")
    with pytest.raises(UsageError, match="did you mean 'train'"):
        METRICS[name](features, labels, train="trian", splits=splits)
    with pytest.raises(UndefinedError, match="all rows are of the split a"):
        METRICS[name](features, labels, train="a", splits=["a"] * len(labels))
    with pytest.raises(UndefinedError, match="omit `sample=`"):
        METRICS[name](features, labels, train="train", splits=splits, anchors=torch.arange(10))


def test_a_probe_over_all_splits_says_so(sample):
    features, labels, splits = sample
    found = evaluate(feature_set(features, labels, split=splits), "linear_probe", device="cpu").metrics["linear_probe"]
    assert found.note == "cross-fitted over all splits; linear_probe(train='train') fits train and measures the others"
    alone = evaluate(feature_set(features, labels, split=["test"] * len(labels)), "linear_probe", device="cpu")
    assert alone.metrics["linear_probe"].note is None
    assert alone.metrics["linear_probe"].value == found.value


def test_a_class_without_training_rows_is_told(sample):
    features, labels, splits = sample[0], sample[1], np.where(sample[1] == 3, "test", sample[2])
    found = linear_probe(torch.from_numpy(features), torch.from_numpy(labels), C=1.0, train="train", splits=splits)
    assert found.note == "1 class has no training row"
    assert (found.per_sample[labels == 3] == 0).all()
