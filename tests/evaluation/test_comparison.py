"""What changed between two embeddings: against other libraries and loops, matched by id, and only where that is sound."""

import json

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import silhouette_samples

from embedscope.cli import main
from embedscope.errors import UsageError
from embedscope.evaluation import score
from embedscope.evaluation.changes import compare_classes
from embedscope.evaluation.comparing import best, difference_interval, differences
from embedscope.evaluation.pairing import common_rows, paired
from embedscope.evaluation.scores import Measurement, Scores
from embedscope.ops.blocks import limits
from embedscope.ops.cka import linear_cka, mutual_neighbors
from embedscope.store import read_features
from embedscope.store.in_memory import feature_set


def drawn(size, seed, *, spread=1.0):
    """Four classes in 6 dimensions that overlap, and the rows moved a little away from each other: two (N, 6), (N,)."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(size) % 4)
    rows = generator.normal(size=(size, 6)) + 1.5 * np.eye(6)[labels]
    pull = np.array([0.0, 0.0, 0.8, -0.3])[labels, None]
    return rows, rows + pull * 2 * np.eye(6)[labels] + 0.3 * spread * generator.normal(size=rows.shape), labels


def stored(rows, labels, ids=None, name="features"):
    return feature_set(rows, labels, name=name, ids=[f"row {row}" for row in range(len(rows))] if ids is None else ids)


def compared(first, second, **options):
    options = {"metrics": "silhouette", "device": "cpu", **options}
    (found,) = score({"early": first, "late": second}, compare=True, **options).comparisons
    return found


def test_numbers_are_those_of_scikit_learn_and_scipy():
    first, second, labels = drawn(120, 0)
    found = compared(stored(first, labels), stored(second, labels))
    samples = [silhouette_samples(rows, labels) for rows in (first, second)]
    assert (found.rows, found.alone, found.reason) == (120, (0, 0), None)
    for label, change in enumerate(found.classes):
        means = [each[labels == label].mean() for each in samples]
        assert (change.name, change.samples) == (str(label), 30)
        assert (change.first, change.second) == pytest.approx(means, abs=1e-9)
        assert change.difference == pytest.approx(means[1] - means[0], abs=1e-9)
        assert sum(change.ci95) / 2 == pytest.approx(change.difference, abs=1e-12)
    right = [each > 0 for each in samples]
    assert set(found.sides.gained) == {f"row {row}" for row in np.flatnonzero(~right[0] & right[1])}
    assert set(found.sides.lost) == {f"row {row}" for row in np.flatnonzero(right[0] & ~right[1])}
    assert (found.sides.right, found.sides.wrong) == ((right[0] & right[1]).sum(), (~right[0] & ~right[1]).sum())
    gained, lost = len(found.sides.gained), len(found.sides.lost)
    assert gained > 5
    assert lost > 0
    at_least = stats.binom.cdf(min(gained, lost), gained + lost, 0.5)
    assert found.sides.p_value == pytest.approx(min(1, 2 * at_least), rel=1e-12)
    pair = torch.from_numpy(first), torch.from_numpy(second)
    assert found.cka == pytest.approx(linear_cka(*pair), abs=1e-12)
    assert found.mutual_knn == mutual_neighbors(*pair, 10)


def test_rows_are_matched_by_id_whatever_their_order():
    first, second, labels = drawn(120, 0)
    order = np.random.default_rng(1).permutation(120)
    straight = compared(stored(first, labels), stored(second, labels), metrics=["silhouette", "gini"])
    ids = [f"row {row}" for row in order]
    turned = compared(stored(first, labels), stored(second[order], labels[order], ids), metrics=["silhouette", "gini"])
    assert turned.cka == pytest.approx(straight.cka, abs=1e-12)
    assert turned.mutual_knn == straight.mutual_knn
    assert set(turned.sides.gained) == set(straight.sides.gained)
    for one, other in zip(straight.differences, turned.differences, strict=True):
        assert one.ci95 == pytest.approx(other.ci95, abs=1e-9)
        assert (one.paired, other.paired) == (True, True)
    for one, other in zip(straight.classes, turned.classes, strict=True):
        assert one.ci95 == pytest.approx(other.ci95, abs=1e-9)


def test_common_rows_are_compared_where_ids_overlap():
    first, second, labels = drawn(160, 0)
    ids = [f"row {row}" for row in range(160)]
    found = compared(stored(first[:140], labels[:140]), stored(second[20:][::-1], labels[20:][::-1], ids[20:][::-1]))
    common = slice(20, 140)
    expected = compared(stored(first[common], labels[common]), stored(second[common], labels[common]))
    assert (found.rows, found.alone) == (120, (20, 20))
    assert found.cka == pytest.approx(expected.cka, abs=1e-12)
    assert found.differences[0].value == pytest.approx(expected.differences[0].value, abs=1e-12)
    assert found.differences[0].ci95 == pytest.approx(expected.differences[0].ci95, abs=1e-9)
    assert found.differences[0].note == "on the 120 rows in both"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda ids, labels: ([f"other {each}" for each in ids], labels), "they have no ids in common"),
        (lambda ids, labels: (ids, np.r_[labels[:3] + 1, labels[3:]]), "3 of 120 common ids have a different label"),
        (lambda ids, labels: ([*ids[:30], *(f"new {each}" for each in ids[30:])], labels), "only 30 ids of 4 classes are in"),
    ],
)
def test_other_rows_are_not_paired(change, reason):
    first, second, labels = drawn(120, 0)
    ids, others = change([f"row {row}" for row in range(120)], labels)
    found = compared(stored(first, labels), stored(second, others, ids))
    assert reason in found.reason
    assert (found.rows, found.cka, found.mutual_knn, found.sides) == (0, None, None, None)
    assert [each.paired for each in found.differences] == [False]
    paired = compared(stored(first, labels), stored(second, labels))
    for apart, together in zip(found.classes[:4], paired.classes, strict=True):
        assert apart.ci95[1] - apart.ci95[0] > together.ci95[1] - together.ci95[0]


def test_rows_on_disk_are_brought_into_order(make_store):
    first, _, labels = drawn(200, 0)
    order = np.random.default_rng(1).permutation(200)[:150]
    ids = np.array([f"row{row}" for row in range(200)])
    one = read_features(str(make_store(first, labels, name="one.h5", ids=ids.tolist())))
    other = read_features(str(make_store(first[order], labels[order], name="other.h5", ids=ids[order].tolist())))
    pairing = paired(one.ids, labels, other.ids, labels[order])
    for memory in (2**30, 2**9):  # in memory, and in a temporary file
        with limits(memory=memory), common_rows(one, other, pairing) as (left, right):
            assert left.ids.tolist() == right.ids.tolist() == ids[np.sort(order)].tolist()
            assert torch.equal(left.features[:], right.features[:])
            assert torch.equal(left.features[20:30], right.features[20:30])
            assert left.labels.tolist() == right.labels.tolist()


@pytest.mark.parametrize(("common", "sound"), [(30, True), (29, False)])
def test_few_common_rows_will_do_if_they_are_half(common, sound):
    """Eight rows per class are fewer than ten, but half of the rows are not accidental."""
    _, _, labels = drawn(60, 0)
    ids = np.array([f"row {row}" for row in range(60)], dtype=object)
    others = np.array([*ids[:common], *(f"new {row}" for row in range(60 - common))], dtype=object)
    found = paired(ids, labels.astype(str), others, labels.astype(str))
    assert (found.reason is None) is sound
    assert len(found.first) == (common if sound else 0)
    assert found.alone == (60 - common, 60 - common)


def test_row_numbers_of_different_lengths_are_not_ids():
    first, second, labels = drawn(120, 0)
    found = compared((first, labels), (second[:100], labels[:100]))
    assert found.reason == "ids are row numbers, and they have 120 and 100 rows"


def test_intervals_of_classes_hold_together():
    """Over 20 draws, all four intervals hold the truth in 95%; fewer than 15 do in less than 1 of 1,000 such tests."""

    def changes(size, seed):
        first, second, labels = drawn(size, seed)
        return compare_classes(stored(first, labels), stored(second, labels))[0]

    truth = changes(1600, 99)
    held, width = 0, []
    for seed in range(20):
        found = changes(120, seed)
        held += all(one.ci95[0] <= other.difference <= one.ci95[1] for one, other in zip(found, truth, strict=True))
        width += [one.ci95[1] - one.ci95[0] for one in found]
    assert held >= 15
    assert np.mean(width) < 0.25  # and they are not wide for nothing: classes differ by up to 0.3


def test_metrics_that_leave_out_groups_are_paired_too(monkeypatch):
    from embedscope.metrics import Result, metric

    @metric(better="higher", bounds=(None, None), reference="doi:1")
    def average(features, labels):
        return Result(float(features.mean()))

    monkeypatch.setattr("embedscope.plugins.load", lambda kind, name: average)
    generator = np.random.default_rng(0)
    rows, labels = generator.normal(size=(400, 3)), np.arange(400) % 2
    (found,) = score({"one": rows, "two": rows + 0.1}, labels, metrics="average", ci=True).differences
    assert found.paired
    assert found.ci95 == pytest.approx((0.1, 0.1), abs=1e-9)


@pytest.mark.parametrize(("ci", "marked"), [("drawn", None), ("fixed", 1)])
def test_the_mark_answers_the_question_that_was_asked(ci, marked):
    """One class gains and the other loses nearly as much: how many rows each has is most of what varies, unless it is fixed."""
    labels = np.array(["a", "b"], dtype=object)[np.arange(100) % 2]
    gain = np.where(labels == "a", 0.1, -0.08) + 0.001 * np.random.default_rng(0).normal(size=100)
    ids = np.array([f"row {row}" for row in range(100)], dtype=object)
    entries = []
    for name, values in (("one", np.zeros(100)), ("two", gain)):
        found = Measurement("gain", values.mean(), "higher", (None, None), {}, ci95=(0, 1), pseudo_values=values, ci=ci)
        entries.append(Scores(name, name, "x", 100, 2, 2, "cpu", {"gain": found}, ids=ids, labels=labels))
    low, high = difference_interval(*entries, "gain")
    spread = gain.var(ddof=1) if ci == "drawn" else np.mean([gain[labels == c].var(ddof=1) for c in "ab"])
    expected = stats.t.ppf(0.975, 99 if ci == "drawn" else 98) * (spread / 100) ** 0.5
    assert (low, high) == pytest.approx((gain.mean() - expected, gain.mean() + expected), rel=1e-9)
    assert best(entries, "gain") == marked
    assert differences(entries)[0].significant is (marked is not None)


def test_json_is_plain():
    first, second, labels = drawn(120, 0)
    table = score({"one": first, "two": second}, labels, metrics="silhouette", compare=True)
    (found,) = json.loads(json.dumps(table.as_json(), allow_nan=False))["comparisons"]
    assert {"first", "second", "rows", "paired", "only_first", "only_second", "cka", "mutual_knn", "classes", "sides"} <= set(
        found
    )
    assert found["sides"]["gained"] == list(table.comparisons[0].sides.gained)
    assert found["classes"][0]["significant"] is table.comparisons[0].classes[0].significant


def test_one_embedding_is_not_compared():
    with pytest.raises(UsageError, match="`compare=True` needs at least two embeddings, got 1"):
        score(*drawn(60, 0)[1:], compare=True)


def test_one_class_leaves_structure():
    first, second, _ = drawn(60, 0)
    found = compared(stored(first, np.zeros(60, dtype=int)), stored(second, np.zeros(60, dtype=int)), metrics="effective_rank")
    assert (found.classes, found.sides, found.differences) == ((), None, ())
    assert found.cka is not None
    assert "at least 2 classes" in found.notes[0]


def test_records_print_in_a_line():
    first, second, labels = drawn(120, 0)
    table = score({"one": first, "two": second}, labels, metrics="silhouette", compare=True, against=second)
    (found,) = table.comparisons
    shift = table.shifts[0]
    assert repr(found).startswith(f"two against one: 120 rows; CKA {found.cka:.4f}; mutual kNN {found.mutual_knn:.4f}; ")
    assert repr(shift).startswith("shift from one to features ")
    assert max(len(repr(each)) for each in (found, shift)) <= 140
    assert hash(found) == hash(found)


def test_command(make_store, capsys):
    first, second, labels = drawn(120, 0)
    stores = [str(make_store(rows, labels, name=f"{name}.h5")) for name, rows in (("early", first), ("late", second))]
    assert main(["score", *stores, "--compare", "-q", "-m", "silhouette"]) == 0
    out = capsys.readouterr().out
    _, _, said = out.partition("late against early")
    assert max(map(len, out.splitlines())) <= 80
    assert "120 rows, matched by id" in said
    assert said.count("*") == 1 + sum(line.rstrip().endswith("*") for line in said.splitlines())
    assert main(["score", stores[0], "--compare"]) == 2
    assert "--compare needs at least two embeddings, got 1" in capsys.readouterr().err


def test_embeddings_without_a_common_class_are_said_to_have_none():
    features, labels = np.random.default_rng(0).normal(size=(40, 4)), np.arange(40) % 2
    names = np.array(["cat", "dog", "owl", "fox"])
    found = score({"one": (features, names[labels]), "other": (features, names[labels + 2])}, metrics="gini", compare=True)
    assert found.comparisons[0].classes == ()
    assert "the embeddings have no class in common" in found.comparisons[0].notes
