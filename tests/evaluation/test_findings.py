"""Findings: each rule on an embedding made to have exactly its fault, and silence on healthy ones."""

import json

import numpy as np
import pytest

from embedscope.evaluation import evaluate, score
from embedscope.evaluation.finding import MOST, Finding, ordered
from embedscope.evaluation.findings import RULES
from embedscope.evaluation.samples import find_issues
from embedscope.metrics import STANDARD

CLASSES, WIDTH = 8, 16


def healthy(seed, rows=240):
    """Well separated classes, every dimension in use, every channel active."""
    generator = np.random.default_rng(seed)
    means = 2.5 * generator.normal(size=(CLASSES, WIDTH))
    labels = np.arange(rows) % CLASSES
    return means[labels] + generator.normal(size=(rows, WIDTH)), labels


def findings(features, labels, metrics=STANDARD):
    return evaluate((features, labels), metrics).findings


def only(found):
    assert len(found) == 1, [each.id for each in found]
    return found[0]


def test_healthy_embeddings_are_silent():
    loud = sum(bool(findings(*healthy(seed), ["silhouette", "gini", "explained_variance"])) for seed in range(200))
    assert loud <= 10


def test_two_confused_classes_are_named_with_their_share():
    features, labels = healthy(0)
    moved = np.flatnonzero(labels == 5)[:9]
    features[moved] = features[np.flatnonzero(labels == 2)[:9]] + 0.01
    found = only(findings(features, labels))
    assert found.id == "confused_classes"
    assert found.text == (
        "Classes 5 and 2 overlap: 9 of 30 samples of 5 lie nearer to 2 (30% [17, 48])"  # Wilson, by hand
    )
    assert found.evidence["ci95"] == pytest.approx([0.1667, 0.4788], abs=1e-4)


def test_a_single_sample_on_the_wrong_side_is_no_finding():
    features, labels = healthy(0)
    features[np.flatnonzero(labels == 5)[0]] = features[np.flatnonzero(labels == 2)[0]]
    assert findings(features, labels) == ()


def test_a_class_that_runs_into_all_others_is_scattered():
    features, labels = healthy(0, rows=400)
    members = np.flatnonzero(labels == 3)
    others = [np.flatnonzero(labels == label)[0] for label in (0, 1, 2, 4, 5, 6, 7)]
    for place, row in enumerate(members[:21]):
        features[row] = features[others[place % 7]] + 0.01
    ids = {each.id: each for each in findings(features, labels)}
    assert "scattered_class" in ids
    assert ids["scattered_class"].text.startswith("Class 3 is scattered: 42%")


def test_shuffled_labels_are_not_separated_and_nothing_else():
    features, labels = healthy(0)
    found = only(findings(features, np.random.default_rng(1).permutation(labels)))
    assert (found.id, found.severity) == ("not_separated", "high")


def test_a_collapsed_embedding_is_named():
    generator = np.random.default_rng(0)
    labels = np.arange(240) % CLASSES
    angle = 2 * np.pi * labels / CLASSES
    plane = 10 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.5 * generator.normal(size=(240, 2))
    found = only(findings(plane @ np.linalg.qr(generator.normal(size=(WIDTH, 2)))[0].T, labels))
    assert found.id == "dimensional_collapse"
    assert "2 of 16 dimensions" in found.text


def test_few_used_dimensions_are_noted():
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 4
    means = 3 * np.eye(6)[:4]
    core = means[labels] + 0.4 * generator.normal(size=(400, 6))
    found = only(findings(core @ np.linalg.qr(generator.normal(size=(64, 6)))[0].T, labels))
    assert (found.id, found.severity) == ("few_dimensions", "low")
    assert found.evidence["dimensions"] == 64


def test_one_large_channel_dominates():
    features, labels = healthy(0)
    features[:, 3] = 40 * labels + features[:, 3]
    ids = [each.id for each in findings(features, labels)]
    assert "dominant_direction" in ids


def test_dead_channels_are_counted():
    features, labels = healthy(0)
    features[:, [1, 4]] = 0
    found = only(findings(features, labels))
    assert found.text == "2 of 16 channels are dead: 0 for every sample"
    assert only(findings(features, labels, ["gini(dead='ignore')"])).evidence == {"dead": 2, "channels": 16}


def test_classes_of_few_samples_are_named():
    features, labels = healthy(0)
    keep = (labels != 6) | (np.arange(len(labels)) < 24)
    found = only(findings(features[keep], labels[keep]))
    assert (found.id, found.evidence["classes"]) == ("small_classes", ["6"])


def test_the_better_embedding_is_named_with_its_interval():
    features, labels = healthy(0)
    noisy = features + 1.5 * np.random.default_rng(1).normal(size=features.shape)
    table = score({"noisy": noisy, "clean": features}, labels, metrics="silhouette", ci=True)
    found = only(table[1].findings)
    between = table.differences[0]
    assert found.id == "better"
    assert found.text.startswith("clean is better than noisy in silhouette: +0.")
    assert found.evidence["ci95"] == list(between.ci95)
    same = score({"one": features, "other": features}, labels, metrics="silhouette", ci=True)
    assert same[1].findings == ()


def test_rules_say_what_they_could_look_at():
    features, labels = healthy(0)
    assert evaluate((features, labels), "gini").examined == ("dead channels", "sizes of the classes")
    assert "confused classes" in evaluate((features, labels)).examined


def test_findings_are_at_most_seven_and_ordered():
    made = [Finding(str(place), severity, "") for place, severity in enumerate(["low", "high", "medium"] * 4)]
    found = ordered(made)
    assert len(found) == MOST
    assert [each.severity for each in found] == ["high"] * 4 + ["medium"] * 3


def test_findings_are_plain_values():
    features, labels = healthy(0)
    features[:, 0] = 0
    document = json.loads(json.dumps(evaluate((features, labels)).as_json()))
    assert set(document["findings"][0]) == {"id", "severity", "text", "evidence", "next"}
    assert len(RULES) > 5


# ---- between embeddings, and among rows


def test_a_class_that_became_worse_is_named():
    features, labels = healthy(0, rows=400)
    worse = features.copy()
    members = np.flatnonzero(labels == 3)
    worse[members] += 3 * np.random.default_rng(1).normal(size=(len(members), WIDTH))
    table = score({"early": features, "late": worse}, labels, metrics="silhouette", compare=True)
    found = {each.id: each for each in table[1].findings}
    assert found["worse_classes"].evidence["class"] == "3"
    assert "worse in late than in early" in found["worse_classes"].text
    assert found["better"].text.startswith("early is better than late in silhouette: +0.")
    low, high = found["better"].evidence["ci95"]
    assert 0 < low < high
    assert table[0].findings == ()


def test_other_rows_that_differ_are_a_finding():
    features, labels = healthy(0)
    moved = score((features, labels), metrics="silhouette", against=features + 1.0)[0]
    assert [each.id for each in moved.findings] == ["shift"]
    again, _ = healthy(0, rows=480)
    same = score((again[:240], labels), metrics="silhouette", against=again[240:])[0]
    assert same.findings == ()
    assert "shift" in same.examined


def test_copies_across_splits_are_a_finding():
    features, labels = healthy(0)
    splits = np.where(np.arange(len(labels)) < 160, "train", "test")
    features[200:210] = features[:10]
    issues = find_issues(features, labels, splits=splits)
    (entry,) = score(features, labels, metrics="silhouette").with_issues([issues])
    found = {each.id: each for each in entry.findings}
    assert found["leakage"].severity == "high"
    assert found["leakage"].evidence["rows"] == issues.counts["leakage"] == 20
    assert "leakage between splits" in entry.examined


def test_a_wide_class_beside_a_narrow_one_is_not_called_confused_where_neighbors_agree_with_the_labels():
    """Half of a long thin class lies nearer, on average, to the narrow one at its middle, yet no row has a neighbor of it."""
    generator = np.random.default_rng(0)
    wide = np.stack([np.linspace(-20, 20, 200), np.zeros(200)], axis=1)
    narrow = np.stack([np.zeros(200), np.full(200, 6.0)], axis=1)
    features = np.concatenate([wide, narrow]) + 0.3 * generator.normal(size=(400, 2))
    labels = np.repeat([0, 1], 200)
    assert [each.id for each in findings(features, labels, ["silhouette"])] == ["confused_classes"]
    assert findings(features, labels, ["silhouette", "knn_accuracy(distance='euclidean')"]) == ()


def test_classes_of_fewer_than_five_samples_are_not_called_confused():
    features, labels = healthy(0)
    members = np.flatnonzero(labels == 5)
    features[members[0]] = features[np.flatnonzero(labels == 2)[0]]
    keep = np.setdiff1d(np.arange(len(labels)), members[3:])  # one of three on the wrong side
    assert [each.id for each in findings(features[keep], labels[keep])] == ["small_classes"]


def test_equal_rows_are_a_collapse():
    found = only(findings(np.ones((40, 8)), np.arange(40) % 4))
    assert (found.id, found.severity, found.evidence) == ("collapsed", "high", {"samples": 40})


def test_the_means_of_three_classes_may_lie_along_one_direction():
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 3
    means = 8 * np.eye(8)[[0, 0, 1]] * np.array([[1.0], [-1.0], [0.5]])
    features = means[labels] + generator.normal(size=(120, 8))
    assert findings(features, labels) == ()


def test_nearest_classes_are_those_of_the_silhouette_whatever_comes_first():
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = generator.normal(size=(60, 4)) * np.array([[1.0], [5.0], [9.0]])[labels]
    first = evaluate((features, labels), ["silhouette", "soft_silhouette"])
    other = evaluate((features, labels), ["soft_silhouette", "silhouette"])
    alone = evaluate((features, labels), ["soft_silhouette"])
    assert first.table.nearest.tolist() == other.table.nearest.tolist() != alone.table.nearest.tolist()
    assert first.findings == other.findings


def test_embeddings_of_other_classes_are_not_called_better():
    features, labels = healthy(0)
    one_class = np.zeros(len(labels), dtype=int)
    scores = score({"all": (features, labels), "one": (features, one_class)}, metrics="gini", ci=True)
    assert scores.differences[0].significant
    assert "better" not in [each.id for each in scores[1].findings]


def test_a_shift_that_no_linear_classifier_sees_is_said_to_be_one_of_the_permutation_test():
    """Three times the spread about the same mean."""
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    one, other = generator.normal(size=(200, 4)), 3 * generator.normal(size=(200, 4))
    scores = score(one, labels, metrics="gini", against=other)
    assert scores.shifts[0].auc_ci95[0] <= 0.5
    assert "a permutation test detects it (MMD p = " in only(scores[0].findings).text
