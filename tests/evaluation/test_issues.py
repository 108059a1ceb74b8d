"""Rows that need attention: planted errors, copies, leakage and outliers are found; healthy data are left alone."""

import re

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, silhouette_samples
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from embedscope import find_issues
from embedscope.errors import InputError, UsageError
from embedscope.evaluation import score
from embedscope.evaluation.issues import COLUMNS, issue_columns
from embedscope.store.in_memory import feature_set


@pytest.fixture(scope="module")
def digits():
    return load_digits(return_X_y=True)


def flipped(x, y, how, share=0.1, seed=0):
    """Labels of which a share is another class, by chance or the most similar one by class means."""
    generator = np.random.default_rng(seed)
    classes = int(y.max()) + 1
    rows = generator.permutation(len(y))[: int(share * len(y))]
    labels = y.copy()
    if how == "chance":
        labels[rows] = (y[rows] + generator.integers(1, classes, len(rows))) % classes
    else:
        means = np.stack([x[y == label].mean(axis=0) for label in range(classes)])
        between = np.linalg.norm(means[:, None] - means, axis=2) + np.diag(np.full(classes, np.inf))
        labels[rows] = between.argmin(axis=1)[y[rows]]
    return labels


def single_scores(x, labels):
    """Minus silhouette, self-confidence of a cross-validated probe and share of the 50 nearest, as scikit-learn has them."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=300))
    own = cross_val_predict(probe, x, labels, cv=5, method="predict_proba")[np.arange(len(x)), labels]
    near = NearestNeighbors(n_neighbors=50).fit(x).kneighbors(return_distance=False)
    return -silhouette_samples(x, labels), -own, -(labels[near] == labels[:, None]).mean(axis=1)


@pytest.mark.parametrize("how", ["chance", "confusion"])
def test_wrong_labels_of_digits_are_found(digits, how):
    x, y = digits
    labels = flipped(x, y, how)
    wrong = labels != y
    found = find_issues(x, labels)
    flagged = found.wrong > 0.5
    area = roc_auc_score(wrong, found.wrong)
    assert area > 0.98
    assert area > max(roc_auc_score(wrong, single) for single in single_scores(x, labels))
    assert wrong[flagged].mean() > 0.95
    assert flagged[wrong].mean() > 0.85
    assert found.counts["label"] == flagged.sum()
    assert found.expected_precision_low < wrong[flagged].mean()
    assert wrong[flagged].mean() > found.expected_precision - 0.05
    assert found.noise_rate == pytest.approx(0.1, abs=0.025)
    suggested = {row.id: row.suggested for row in found.rows if row.kind == "label"}
    assert np.mean([suggested[str(row)] == str(y[row]) for row in np.flatnonzero(flagged & wrong)]) > 0.95


@pytest.mark.parametrize("count", [3, 8, 20])
def test_few_wrong_labels_are_not_called_certain(digits, count):
    x, y = digits
    labels = y.copy()
    rows = np.random.default_rng(count).permutation(len(y))[:count]
    labels[rows] = (y[rows] + 1 + rows % 9) % 10
    found = find_issues(x, labels)
    precision = (labels != y)[found.wrong > 0.5].mean()
    assert precision < 0.95  # about three difficult digits are flagged in any case
    assert found.expected_precision_low < precision
    assert abs(found.expected_precision - precision) < 0.25


@pytest.mark.parametrize("wrong", [[3], [0, 1, 2, 3, 4, 5, 6, 7]], ids=["one", "one direction"])
def test_few_wrong_labels_of_separated_classes_are_found(wrong):
    generator = np.random.default_rng(21)
    y = np.repeat([0, 1], 50)
    x = generator.normal(size=(100, 4)) + 9 * y[:, None]
    labels = y.copy()
    labels[wrong] = 1
    found = find_issues(x, labels)
    assert np.flatnonzero(found.wrong > 0.5).tolist() == wrong
    assert {row.suggested for row in found.rows if row.kind == "label"} == {"0"}
    assert find_issues(x, y).counts["label"] == 0


def test_rows_of_a_wide_class_are_no_outliers():
    generator = np.random.default_rng(22)
    x, y = generator.normal(size=(1000, 16)), np.arange(1000) < 200
    x[:200] *= 5
    assert find_issues(x, y.astype(int)).counts["outlier"] == 0


def test_healthy_digits_have_no_issues(digits):
    found = find_issues(*digits, splits=["train", "test"] * 898 + ["test"])
    assert found.counts["label"] <= 3
    assert found.counts["duplicate"] == found.counts["leakage"] == 0
    assert found.counts["outlier"] <= 2
    assert found.noise_rate < 0.003


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_planted_leakage_is_found_without_a_false_one(digits, noise):
    x, y = digits
    generator = np.random.default_rng(0)
    train, test = np.arange(0, 1200), np.arange(1200, 1797)
    sources, copies = generator.choice(train, 50, replace=False), generator.choice(test, 50, replace=False)
    x = x.copy()
    shift = generator.normal(size=(50, 64))
    norms = np.linalg.norm(x[sources], axis=1, keepdims=True)
    x[copies] = x[sources] + noise * norms * shift / np.linalg.norm(shift, axis=1, keepdims=True)
    labels = y.copy()
    labels[copies] = y[sources]
    labels[copies[0]] = (y[sources[0]] + 1) % 10
    labels[~np.isin(np.arange(1797), [sources[:2], copies[:2]])] = -1  # too few for a check of labels, which takes long
    splits = np.where(np.arange(1797) < 1200, "train", "test")
    found = find_issues(x, labels, splits=splits)
    leaked = {row.id: row for row in found.rows if row.kind == "leakage"}
    assert set(leaked) == {str(row) for row in [*sources, *copies]}
    assert found.counts["leakage"] == 100
    assert found.groups["leakage"] == 50
    assert found.counts["duplicate"] == 0
    assert found.disagreeing == 1
    for source, copy in zip(sources, copies, strict=True):
        row = leaked[str(copy)]
        assert row.split == "test"
        assert row.evidence.startswith(f"{source} (")
        labeled = "labels differ" if copy == copies[0] else "labels agree" if copy == copies[1] else "unlabeled"
        assert row.evidence.endswith(f"; {labeled})")
        assert ("exact copy" in row.evidence) == (noise == 0)
        assert row.score == 1 if noise == 0 else 0.85 < row.score < 1


def test_duplicates_and_leakage_are_told_apart():
    x = np.random.default_rng(0).normal(size=(60, 8))
    x[[10, 40, 41]] = x[3]
    y = np.arange(60) % 2
    y[[3, 10, 40, 41]] = 0, 1, 0, 0
    found = find_issues(x, y, splits=["train"] * 30 + ["test"] * 30, ids=[f"r{row}" for row in range(60)])
    rows = {(row.kind, row.id): row for row in found.rows if row.kind in ("duplicate", "leakage")}
    assert set(rows) == {(kind, row) for kind in ("duplicate", "leakage") for row in ("r3", "r10", "r40", "r41")}
    assert rows["leakage", "r3"].evidence == "r40;r41 (exact copies in another split; labels differ)"
    assert rows["duplicate", "r3"].evidence == "r10 (exact copy; labels differ)"
    assert (rows["duplicate", "r10"].label, rows["duplicate", "r10"].suggested) == ("1", "0")
    assert rows["duplicate", "r3"].suggested == ""
    assert found.groups == {"duplicate": 1, "leakage": 1}


def test_a_wide_group_without_labels_is_a_note():
    x = np.random.default_rng(4).normal(size=(1000, 16))
    x[:200] *= 5
    found = find_issues(x)
    assert found.counts["outlier"] == 0
    assert any(re.match(r"outlier: 1\d\d rows are far out, too many for outliers", note) for note in found.notes)


def test_outliers_are_found():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 16))
    x[7], x[300] = 12, 3 * generator.normal(size=16)
    found = find_issues(x)
    outliers = [row for row in found.rows if row.kind == "outlier"]
    assert [row.id for row in outliers] == ["7", "300"]
    assert 0 < outliers[1].score < outliers[0].score < 1
    assert found.counts["label"] is None


def test_order_of_rows_and_scale_change_nothing(digits):
    x, y = digits[0][:200], digits[1][:200]
    x = np.concatenate([x, x[:5]])
    y = flipped(x, np.concatenate([y, y[:5]]), "chance")
    order = np.random.default_rng(0).permutation(205)
    ids = [f"r{row}" for row in range(205)]
    one = find_issues(x, y, ids=ids)
    other = find_issues(8 * x[order], y[order], ids=[ids[row] for row in order])
    for kind in ("duplicate", "outlier"):
        assert {row.id for row in one.rows if row.kind == kind} == {row.id for row in other.rows if row.kind == kind}
    assert one.counts["duplicate"] == 10
    # The folds of the probe are others.
    assert roc_auc_score(one.wrong > 0.5, other.wrong[order.argsort()]) > 0.98


# ---- what data may lack


def test_rows_without_labels_are_looked_at(digits):
    x, y = digits[0][:300].copy(), digits[1][:300].copy()
    x[250] = x[3]
    y[200:] = -1
    found = find_issues(x, y)
    assert np.isnan(found.wrong[200:]).all()
    assert not np.isnan(found.wrong[:200]).any()
    assert {(row.id, row.label) for row in found.rows if row.kind == "duplicate"} == {("3", str(y[3])), ("250", "")}
    assert find_issues(x).counts == {"label": None, "leakage": None, "duplicate": 2, "outlier": 0}
    assert any("two classes of at least 5 rows" in note for note in find_issues(x).notes)


def test_small_classes_are_left_out(digits):
    x, y = digits[0][:300], digits[1][:300].copy()
    y[:3] = 77
    found = find_issues(x, y)
    assert np.isnan(found.wrong[:3]).all()
    assert "label: 1 class has fewer than 5 rows; those labels are not checked" in found.notes


@pytest.mark.parametrize(
    ("x", "y", "missing", "duplicates"),
    [
        (np.random.default_rng(0).normal(size=(40, 3)), np.zeros(40, int), {"label", "leakage"}, 0),
        (np.random.default_rng(0).normal(size=(2, 3)), np.array([0, 1]), {"label", "leakage", "outlier"}, 0),
        (np.ones((40, 3)), np.arange(40) % 2, {"label", "leakage", "outlier"}, 40),
        (np.repeat(np.eye(4), 30, axis=0), np.repeat(np.arange(4), 30), {"leakage", "outlier"}, 120),
        (np.random.default_rng(0).normal(size=(200, 3)), np.arange(200) % 4, {"label", "leakage"}, 0),
    ],
    ids=["one class", "two rows", "constant", "collapsed", "noise"],
)
def test_kinds_that_cannot_be_computed_are_said(x, y, missing, duplicates):
    found = find_issues(x, y)
    assert {kind for kind, count in found.counts.items() if count is None} == missing
    assert found.counts["duplicate"] == duplicates
    assert {note.partition(":")[0] for note in found.notes if "not computed" in note} == missing
    assert found.counts.get("label") in (None, 0)


def test_bad_inputs_are_refused(digits):
    with pytest.raises(InputError, match="has one row"):
        find_issues(np.ones((1, 3)), [0])
    with pytest.raises(InputError, match="1 of 3 rows"):
        find_issues(np.array([[0.0, 1.0], [np.nan, 1.0], [2.0, 1.0]]), [0, 1, 1])
    with pytest.raises(UsageError, match="no split"):
        find_issues(*digits, splits=["train"] * 1797, split="tset")
    with pytest.raises(InputError, match="ids have the shape"):
        find_issues(*digits, ids=["a"])


# ---- the record


def test_record_is_sorted_and_laid_out(digits):
    x, y = digits[0][:300].copy(), flipped(*digits, "chance")[:300]
    x[20] = x[10]
    found = find_issues(x, y)
    kinds = [row.kind for row in found.rows]
    assert kinds == sorted(kinds, key=["label", "leakage", "duplicate", "outlier"].index)
    for kind in set(kinds):
        scores = [row.score for row in found.rows if row.kind == kind]
        assert scores == sorted(scores, reverse=True)
        assert 0 <= min(scores) <= max(scores) <= 1
    frame = found.to_dataframe()
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == len(found) == sum(count or 0 for count in found.counts.values())
    columns = issue_columns([found, found])
    assert list(columns) == ["name", *COLUMNS]
    assert len(columns["id"]) == 2 * len(found)
    assert len(repr(found).splitlines()) == 6
    scores = [row.score for row in found.rows if row.kind == "label"]
    assert found.as_json()["expected_precision"] == pytest.approx(sum(scores) / (len(scores) + 2))
    assert 0 < found.as_json()["expected_precision_low"] < found.expected_precision


def test_scores_carry_issues(digits):
    features = feature_set(digits[0][:200], digits[1][:200])
    scores = score([features], metrics="silhouette")
    found = find_issues(features)
    assert "issues" not in scores.as_json()["results"][0]
    assert scores.with_issues([found]).as_json()["results"][0]["issues"] == found.as_json()


def test_little_memory_changes_nothing(digits):
    x, y = digits[0][:150], digits[1][:150]
    one, other = find_issues(x, y), find_issues(torch.from_numpy(x), y, memory=2**25)
    np.testing.assert_allclose(one.wrong, other.wrong, atol=1e-6)
    assert [row.id for row in one.rows] == [row.id for row in other.rows]
