"""Intervals: that they hold, what they are made of, where there is none."""

import numpy as np
import pytest
import torch

from embedscope.errors import UsageError
from embedscope.evaluation import evaluate, score
from embedscope.evaluation.comparing import best
from embedscope.metrics import Result, metric
from embedscope.ops.statistics import Z95
from embedscope.store.in_memory import feature_set

DRAWS = 40
METRICS = ["silhouette", "soft_silhouette", "gini", "class_kl"]


def drawn(size, seed, *, fixed=False):
    """Five classes in 8 dimensions that overlap; rows and labels."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(size) % 5 if fixed else torch.randint(0, 5, (size,), generator=generator)
    return means[labels] + torch.randn(size, 8, generator=generator, dtype=torch.float64), labels


@pytest.mark.parametrize("ci", ["drawn", "fixed"])
def test_intervals_hold_the_value_of_the_population(ci):
    truth = evaluate(drawn(3000, 10_000, fixed=True), METRICS, device="cpu").metrics
    held = dict.fromkeys(METRICS, 0)
    for seed in range(DRAWS):
        found = evaluate(drawn(100, seed, fixed=ci == "fixed"), METRICS, ci=ci, device="cpu").metrics
        for name in METRICS:
            low, high = found[name].ci95
            held[name] += low <= truth[name].value <= high
    # Of 40 intervals that hold with probability .95, fewer than 33 do so in 1 of 1,000 runs.
    assert min(held.values()) >= 33, held


def test_a_metric_that_declares_nothing_leaves_out_groups(monkeypatch):
    @metric(better=None, bounds=(None, None), reference="doi:1")
    def average(features, labels):
        return Result(float(features.mean()))

    monkeypatch.setattr("embedscope.plugins.load", lambda kind, name: average)
    features, labels = drawn(500, 0)
    low, high = evaluate((features, labels), "average", ci=True).metrics["average"].ci95
    rows = features.mean(dim=1)  # the mean over groups of 10 rows of 500 has the error of the mean of the rows
    assert (low + high) / 2 == pytest.approx(float(rows.mean()), abs=1e-12)
    assert (high - low) / 2 == pytest.approx(Z95 * float(rows.std()) / 500**0.5, rel=0.3)


def test_no_interval_says_how_the_value_depends_on_the_number_of_samples():
    found = evaluate(drawn(60, 0), "effective_rank", ci=True).metrics["effective_rank"]
    assert found.ci95 is None
    assert "no interval: the value depends on the number of samples; half of them give" in found.note


def test_unknown_question():
    with pytest.raises(UsageError, match=r"no kind of interval 'often'. There are: drawn, fixed"):
        evaluate(drawn(60, 0), "gini", ci="often")


def test_intervals_stay_within_the_bounds_of_the_metric():
    found = evaluate((np.eye(4).repeat(5, axis=0), np.arange(4).repeat(5)), METRICS, ci=True).metrics
    assert found["class_kl"].ci95[0] >= 0
    assert found["silhouette"].ci95 == (1, 1)


def test_the_same_rows_are_compared_in_pairs():
    features, labels = drawn(300, 0)
    better = features * torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 0.5], dtype=torch.float64)
    table = score({"one": features, "other": better}, labels, metrics=["silhouette", "effective_rank"], ci=True)
    (difference,) = table.differences
    assert (difference.metric, difference.first, difference.second, difference.paired) == ("silhouette", "one", "other", True)
    one, other = (entry.metrics["silhouette"] for entry in table)
    assert difference.value == other.value - one.value
    unpaired = np.hypot(*(entry.ci95[1] - entry.ci95[0] for entry in (one, other)))
    assert difference.ci95[1] - difference.ci95[0] < 0.5 * unpaired
    assert table.as_json()["differences"][0]["paired"] is True


def test_rows_are_matched_by_id(make_store, blobs):
    rows, labels = blobs
    order = np.random.default_rng(0).permutation(len(labels))
    ids = np.array([f"row{row}" for row in range(len(labels))])
    one = make_store(rows, labels, name="one.h5")
    other = make_store(rows[order], labels[order], name="other.h5", ids=ids[order].tolist())
    (difference,) = score([str(one), str(other)], metrics="silhouette", ci=True).differences
    assert difference.paired
    assert np.allclose(difference.ci95, 0, atol=2e-3)  # the halves that show the bias are drawn by position


def test_other_rows_are_compared_unpaired():
    table = score({"one": drawn(300, 0), "other": drawn(200, 1)}, metrics="silhouette", ci=True)
    assert not table.differences[0].paired
    assert "measured on 300 and 200 samples" in table.differences[0].note


def test_the_best_is_marked_only_where_it_is_sure():
    features, labels = drawn(60, 0)
    close = {"one": features, "other": features + 1e-3 * torch.randn(60, 8, generator=torch.Generator().manual_seed(1))}
    assert best(score(close, labels, metrics="silhouette"), "silhouette") is not None
    assert best(score(close, labels, metrics="silhouette", ci=True), "silhouette") is None
    far = {"one": features, "other": features + 2 * torch.eye(8, dtype=torch.float64)[labels]}
    assert best(score(far, labels, metrics="silhouette", ci=True), "silhouette") == 1


def test_a_value_outside_of_its_interval_is_explained():
    """Gini's estimate is too low in small samples, and the interval is corrected for that."""
    labels = np.arange(300) % 10
    features = np.random.default_rng(0).normal(size=(300, 32)) + 3 * np.eye(10, 32)[labels]
    found = evaluate(feature_set(features, labels), ["gini", "silhouette"], ci=True).metrics
    assert not found["gini"].ci95[0] <= found["gini"].value <= found["gini"].ci95[1]
    assert found["gini"].note == "the value is biased in small samples; the interval, which is not, leaves it out"
    assert found["silhouette"].ci95[0] <= found["silhouette"].value <= found["silhouette"].ci95[1]
    assert found["silhouette"].note is None
