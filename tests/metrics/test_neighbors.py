"""Metrics of neighbors and retrieval against other libraries, and what a run shares between them."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import skew
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from embedscope.errors import UndefinedError, UsageError
from embedscope.evaluation import evaluate
from embedscope.metrics.hubness import hubness
from embedscope.metrics.knn_accuracy import knn_accuracy
from embedscope.metrics.map_at_r import map_at_r
from embedscope.metrics.mrr import mrr
from embedscope.metrics.neighbor_purity import neighbor_purity
from embedscope.metrics.r_precision import r_precision
from embedscope.metrics.recall_at_k import recall_at_k
from embedscope.ops import blocks, neighbors, retrieval, shared_neighbors

RETRIEVAL = [map_at_r, r_precision, mrr, recall_at_k]
ALL = ["knn_accuracy", "neighbor_purity", "map_at_r", "r_precision", "recall_at_k", "mrr", "hubness"]


@pytest.fixture
def sample():
    """(400, 12) float32 rows of 5 classes that overlap, three of which have more than 64 rows, (400,) labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.multinomial(torch.tensor([8.0, 5, 4, 1, 1]), 400, replacement=True, generator=generator)
    means = torch.randn(5, 12, generator=generator)
    return means[labels] + torch.randn(400, 12, generator=generator), labels


@pytest.mark.parametrize("vote", ["dino", "uniform", "distance"])
@pytest.mark.parametrize("k", [1, 20, 51])
def test_knn_accuracy_equals_scikit_learn(sample, vote, k):
    features, labels = sample
    weights = {"dino": lambda d: np.exp((1 - d) / 0.07)}.get(vote, vote)
    x, y = features.double().numpy(), labels.numpy()
    classifier = KNeighborsClassifier(k, weights=weights, metric="cosine", algorithm="brute").fit(x, y)
    expected = classifier.predict(None) == y  # None: each sample without itself
    found = knn_accuracy(features, labels, k=k, vote=vote)
    tied = np.sort(classifier.predict_proba(None), axis=1)
    clear = tied[:, -1] > tied[:, -2] + 1e-9  # scikit-learn gives ties to the first class, we to the nearest neighbor's
    assert clear.mean() > 0.8
    assert (found.per_sample.numpy()[clear] == expected[clear]).all()


def test_ties_go_to_the_nearest():
    features = torch.tensor([[0.0, 1], [0.1, 1], [0.2, 1], [5, 1], [5.1, 1]])
    labels = torch.tensor([0, 1, 0, 1, 1])
    assert knn_accuracy(features, labels, k=2, vote="uniform", distance="euclidean").per_sample[0] == 0
    assert knn_accuracy(features, labels, k=2, vote="uniform", distance="euclidean").per_sample[2] == 0


def test_a_neighbor_at_distance_zero_outvotes_the_others():
    features = torch.tensor([[0.0], [0.0], [1.0], [1.0], [1.5]])
    labels = torch.tensor([0, 0, 1, 1, 1])
    found = knn_accuracy(features, labels, k=4, vote="distance", distance="euclidean")
    assert found.per_sample.tolist() == [1, 1, 1, 1, 1]


def test_k_is_at_most_the_number_of_others():
    features, labels = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 2
    assert float(knn_accuracy(features, labels, k=99)) == float(knn_accuracy(features, labels, k=8))
    assert float(neighbor_purity(features, labels, k=99)) == pytest.approx((5 * 4 / 8 + 4 * 3 / 8) / 9)
    assert float(recall_at_k(features, labels, k=99)) == 1


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_retrieval_equals_pytorch_metric_learning(sample, distance):
    accuracy_calculator = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    features, labels = sample

    def nearest(query, k, reference, same):
        found = NearestNeighbors(n_neighbors=k, metric=distance, algorithm="brute").fit(reference.double().numpy()).kneighbors()
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])

    calculator = accuracy_calculator.AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r", "mean_reciprocal_rank"),
        k=len(labels) - 1,
        knn_func=lambda query, k, reference, same: nearest(query, k, reference, same),
        device=torch.device("cpu"),
    )
    expected = calculator.get_accuracy(features, labels)
    for function, name in [
        (recall_at_k, "precision_at_1"),
        (r_precision, "r_precision"),
        (map_at_r, "mean_average_precision_at_r"),
        (mrr, "mean_reciprocal_rank"),
    ]:
        # Their sums are in float32.
        assert float(function(features, labels, distance=distance)) == pytest.approx(expected[name], abs=2e-6), name


@pytest.mark.parametrize("k", [1, 10])
def test_hubness_equals_scipy(sample, k):
    features, labels = sample
    indices = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(features.double().numpy()).kneighbors()[1]
    counts = np.bincount(indices.ravel(), minlength=400)
    found = hubness(features, labels, k=k)
    assert float(found) == pytest.approx(skew(counts), abs=1e-12)
    assert found.arrays == {"hubs": (counts >= 2 * k).sum(), "antihubs": (counts == 0).sum()}
    assert found.by_class["mean_occurrence"] == pytest.approx({c: counts[labels.numpy() == c].mean() for c in range(5)})


def test_hubness_of_equal_counts_is_undefined():
    with pytest.raises(UndefinedError, match="the 4 nearest neighbors of equally many"):
        hubness(torch.randn(5, 2), torch.zeros(5), k=10)


@pytest.mark.parametrize("function", RETRIEVAL)
def test_lone_labels_are_left_out(function, sample):
    features, labels = sample[0][:40], sample[1][:40] % 3
    labels[[3, 11]] = torch.tensor([70, 71])
    found = function(features, labels)
    assert found.per_sample.isnan().nonzero().squeeze(1).tolist() == [3, 11]
    assert float(found) == pytest.approx(float(found.per_sample[~found.per_sample.isnan()].mean()), abs=1e-15)
    with pytest.raises(UndefinedError, match="nothing to retrieve"):
        function(features, torch.arange(40))


@pytest.mark.parametrize("function", RETRIEVAL)
@pytest.mark.parametrize("offset", [0, 1000])
def test_equal_rows_are_ordered_by_position(function, offset):
    """Classes of 70 and 10 rows (those have an origin of their own or not) on two points that both share."""
    features = torch.tensor([[0.5, 1.0], [1.0, 0.3]])[torch.arange(80) % 2] + offset
    labels = (torch.arange(80) >= 70).long()
    found = function(features, labels, distance="euclidean").per_sample
    for row in (0, 1, 69, 70, 79):
        order = sorted((each for each in range(80) if each != row), key=lambda each: ((each - row) % 2, each))
        hits = [bool(labels[each] == labels[row]) for each in order]
        size = sum(hits)
        expected = {
            recall_at_k: float(hits[0]),
            mrr: 1 / (hits.index(True) + 1),
            r_precision: sum(hits[:size]) / size,
            map_at_r: sum(sum(hits[: i + 1]) / (i + 1) for i in range(size) if hits[i]) / size,
        }[function]
        assert float(found[row]) == pytest.approx(expected, abs=1e-12), row


@pytest.mark.parametrize("function", RETRIEVAL)
def test_classes_far_from_each_other_keep_their_order(function):
    """Classes in pairs, 1e-3 wide and 1e-3 apart, 1e6 from the others: products about one origin lose all of that."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(280) % 4
    near = torch.randn(280, 6, generator=generator, dtype=torch.float64) + 0.5 * (labels % 2)[:, None]
    far = 1e-3 * near + torch.tensor([0, 1e6], dtype=torch.float64)[labels // 2][:, None]
    expected = function(near[labels < 2], labels[labels < 2], distance="euclidean").per_sample
    torch.testing.assert_close(function(far, labels, distance="euclidean").per_sample[labels < 2], expected)


def test_zero_rows_are_at_right_angles_to_all():
    features = torch.tensor([[0.0, 0], [1, 0], [-1, 0], [1, 0.1], [0, 0]])
    labels = torch.tensor([0, 1, 0, 1, 0])
    assert mrr(features, labels).per_sample.tolist() == pytest.approx([1 / 2, 1, 1, 1, 1])


@pytest.mark.parametrize("function", RETRIEVAL[:3])
def test_retrieval_in_little_memory_and_from_disk(function, sample):
    features, labels = sample

    class Lazy:
        shape, dtype = features.shape, features.dtype

        def __getitem__(self, rows):
            assert isinstance(rows, slice)
            assert rows.stop - rows.start < 200
            return features[rows]

    expected = function(features, labels).per_sample
    with blocks.limits(memory=2**16):
        torch.testing.assert_close(function(features, labels).per_sample, expected, atol=1e-15, rtol=0)
        torch.testing.assert_close(function(Lazy(), labels).per_sample, expected, atol=1e-15, rtol=0)


def test_a_run_searches_once(sample, monkeypatch):
    calls = []

    def counted(*arguments, **options):
        calls.append((arguments[1], options["distance"]))
        return neighbors.nearest_neighbors(*arguments, **options)

    def ranked(*arguments, **options):
        calls.append((options["k"], options["distance"]))
        return retrieval.retrieved(*arguments, **options)

    monkeypatch.setattr(shared_neighbors, "nearest_neighbors", counted)
    monkeypatch.setattr(shared_neighbors, "retrieved", ranked)
    together = evaluate(sample, [*ALL, "two_nn", "hubness(k=3, distance='euclidean')"], device="cpu").metrics
    assert calls == [(20, "cosine"), (3, "euclidean")]  # one pass for ranks and neighbors
    for name in ALL:
        assert evaluate(sample, name, device="cpu").metrics[name].value == together[name].value


@pytest.mark.parametrize("with_hubness", [False, True])
def test_anchors_of_a_run(sample, with_hubness):
    """Where one metric reads the neighbors of all rows, those of the anchors are taken from them."""
    specs = ALL if with_hubness else ALL[:-1]
    found = evaluate(sample, specs, sample=60, device="cpu")
    everyone = evaluate(sample, specs, device="cpu")
    chosen = [int(each) for each in found.table.ids]
    for name in ALL[:-1]:
        np.testing.assert_allclose(found.table.values[name], everyone.table.values[name][chosen], atol=1e-12)
        low, high = found.metrics[name].ci95
        assert low <= found.metrics[name].value <= high
    if with_hubness:
        assert found.metrics["hubness"].value == everyone.metrics["hubness"].value


def test_an_estimate_leaves_lone_labels_out(sample):
    features, labels = sample[0], sample[1].clone()
    labels[:3] = torch.tensor([7, 8, 9])
    found = evaluate((features, labels), ["map_at_r", "knn_accuracy"], sample=390, device="cpu").metrics
    exact = evaluate((features, labels), ["map_at_r", "knn_accuracy"], device="cpu").metrics
    for name in found:
        assert found[name].value == pytest.approx(exact[name].value, abs=0.01)
    assert set(found["map_at_r"].per_class) == set(exact["map_at_r"].per_class) == {"0", "1", "2", "3", "4"}
    assert "NaN" not in json.dumps({name: each.as_json() for name, each in exact.items()})
    assert exact["knn_accuracy"].note == "samples alone in their class count as wrong: 3"


def test_intervals_are_around_the_value(sample):
    found = evaluate(sample, ["neighbor_purity", "map_at_r", "hubness"], ci=True, device="cpu").metrics
    for name in ("neighbor_purity", "map_at_r"):
        low, high = found[name].ci95
        assert (low + high) / 2 == pytest.approx(found[name].value, abs=1e-12)
    assert found["hubness"].ci95 is None
    assert "half of them give" in found["hubness"].note


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("knn_accuracy(k=0)", "k must be an integer of at least 1"),
        ("knn_accuracy(vote='dinu')", "did you mean 'dino'"),
        ("knn_accuracy(temperature=0)", "temperature must be a number above 0"),
        ("mrr(distance='l2')", "no distance 'l2'"),
    ],
)
def test_wrong_options(sample, spec, message):
    with pytest.raises(UsageError, match=message):
        evaluate(sample, spec, device="cpu")


def test_an_uninformative_embedding_is_at_chance():
    generator = torch.Generator().manual_seed(4)
    features, labels = torch.randn(1000, 20, generator=generator), torch.arange(1000) % 4
    share = 249 / 999
    assert float(neighbor_purity(features, labels)) == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 10_000))
    assert float(r_precision(features, labels)) == pytest.approx(share, abs=0.01)
