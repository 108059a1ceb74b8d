"""Shift: what is detected and what is not, each number against another library or loops, with and without labels."""

import json

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from embedscope.cli import main
from embedscope.errors import InputError, UsageError
from embedscope.evaluation import score
from embedscope.evaluation.shift import measure_shift
from embedscope.store.in_memory import feature_set


def drawn(size, seed, *, move=0.0, labeled=True):
    """Three classes in 5 dimensions, the third moved along one axis."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, size)
    rows = generator.normal(size=(size, 5)) + 2 * np.eye(5)[labels]
    rows[labels == 2, 4] += move
    return feature_set(
        rows, labels if labeled else np.full(size, -1), name=f"data{seed}", ids=[f"{seed}:{row}" for row in range(size)]
    )


def test_no_shift_is_rarely_detected(monkeypatch):
    """5% of 15 draws at most: more than 4 of them alarm in 1 of 1,000 such tests."""
    monkeypatch.setattr("embedscope.evaluation.shift.PERMUTATIONS", 99)
    unlabelled = [(drawn(80, seed, labeled=False), drawn(60, seed + 500, labeled=False)) for seed in range(15)]
    assert sum(measure_shift(*pair, seed=seed).detected for seed, pair in enumerate(unlabelled)) <= 4


def test_a_shift_is_found_and_said_where():
    found = measure_shift(drawn(300, 0), drawn(200, 1, move=3.0))
    assert found.detected
    assert found.mmd_p_value == 1 / 500
    assert found.auc_ci95[0] > 0.5
    moved = {each.name: each for each in found.classes}
    assert moved["2"].p_value == pytest.approx(3 / 1000)
    assert moved["2"].distance > 5 * moved["2"].by_chance
    assert min(moved["0"].p_value, moved["1"].p_value) > 0.05
    rows = drawn(200, 1, move=3.0)
    third = {identifier for identifier, label in zip(rows.ids, rows.labels, strict=True) if label == 2}
    assert {row.id for row in found.furthest[:10]} <= third


def test_area_against_scikit_learn():
    here, other = drawn(90, 0), drawn(70, 1, move=1.0)
    rows = StandardScaler, np.r_[here.features[:].double().numpy(), other.features[:].double().numpy()]
    origin = np.r_[np.zeros(90), np.ones(70)]
    areas = []
    for train, test in StratifiedKFold(5, shuffle=True, random_state=3).split(rows[1], origin):
        scaler = StandardScaler().fit(rows[1][train])
        model = LogisticRegression(tol=1e-10, max_iter=10_000).fit(scaler.transform(rows[1][train]), origin[train])
        areas.append(roc_auc_score(origin[test], model.decision_function(scaler.transform(rows[1][test]))))
    assert measure_shift(here, other, seed=3).auc == pytest.approx(np.mean(areas), abs=1e-6)


def test_far_rows_against_scikit_learn():
    here, other = drawn(90, 0), drawn(70, 1, move=4.0)
    found = measure_shift(here, other)
    one, two = (each.features[:].double().numpy() for each in (here, other))
    usual = NearestNeighbors(n_neighbors=11).fit(one).kneighbors(one)[0][:, -1]  # each row is its own first neighbor
    far = NearestNeighbors(n_neighbors=10).fit(one).kneighbors(two)[0][:, -1]
    assert found.beyond == (far > np.sort(usual)[89]).mean()  # 99% of 90 rows are all of them
    assert found.beyond_expected == 1 / 91
    order = np.argsort(-far, kind="stable")[:20]
    assert [row.id for row in found.furthest] == [other.ids[row] for row in order]
    middle = np.sort(usual)[44]  # the lower of the two in the middle, as torch has it
    np.testing.assert_allclose([row.ratio for row in found.furthest], far[order] / middle, rtol=1e-6)


def test_classes_against_numpy():
    here, other = drawn(90, 0), drawn(70, 1, move=0.5)
    found = measure_shift(here, other)
    one, two = (each.features[:].double().numpy() for each in (here, other))
    for label, each in enumerate(found.classes):
        mine, theirs = one[here.labels == label], two[other.labels == label]
        spread = np.sqrt(((mine - mine.mean(axis=0)) ** 2).sum(axis=1).mean())
        assert each.distance == pytest.approx(np.linalg.norm(mine.mean(axis=0) - theirs.mean(axis=0)) / spread, rel=1e-9)
        assert each.samples == (len(mine), len(theirs))
        assert each.shares == (len(mine) / 90, len(theirs) / 70)
    table = [np.bincount(each.labels) for each in (here, other)]
    assert found.proportions_p_value == pytest.approx(stats.chi2_contingency(table).pvalue, rel=1e-12)


@pytest.mark.parametrize(("one", "other"), [(True, False), (False, True), (False, False)])
def test_labels_are_not_needed(one, other):
    found = measure_shift(drawn(60, 0, labeled=one), drawn(60, 1, labeled=other))
    expected = measure_shift(drawn(60, 0), drawn(60, 1))
    assert (found.classes, found.proportions_p_value) == ((), None)
    assert (found.auc, found.mmd, found.furthest) == (expected.auc, expected.mmd, expected.furthest)


def test_the_same_rows_are_no_shift():
    found = measure_shift(drawn(100, 0), drawn(100, 0))
    assert not found.detected
    assert found.mmd_p_value > 0.9
    assert found.shared == 100
    assert max(each.distance for each in found.classes) == pytest.approx(0, abs=1e-6)


def test_classes_of_one_side_only():
    here, other = drawn(90, 0), drawn(90, 1)
    kept = other.labels != 1
    fewer = feature_set(
        other.features[:][kept], np.array(["0", "1", "new"], dtype=object)[other.labels[kept]], ids=other.ids[kept]
    )
    classes = {each.name: each for each in measure_shift(here, fewer).classes}
    assert (classes["1"].distance, classes["1"].shares[1]) == (None, 0)
    assert classes["new"].samples[0] == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((40, 4)), "data0: 5 dimensions, features: 4; a shift needs the same layer of both"),
        (np.zeros((10, 5)), "features: 10 rows, but a shift needs at least 20"),
        (np.full((30, 5), np.nan), "features"),
    ],
)
def test_what_cannot_be_compared(rows, message):
    with pytest.raises(InputError, match=message):
        measure_shift(drawn(60, 0), feature_set(rows, np.zeros(len(rows), dtype=int)))


def test_many_rows_are_drawn(monkeypatch):
    monkeypatch.setattr("embedscope.evaluation.shift.ROWS", 50)
    monkeypatch.setattr("embedscope.evaluation.shift.NEIGHBOR_ROWS", 40)
    found = measure_shift(drawn(90, 0), drawn(45, 1))
    assert (found.rows, found.drawn, found.neighbor_rows) == ((90, 45), (50, 45), (40, 40))


def test_arrays_need_no_labels_and_layers_are_matched(make_store, blobs, tmp_path):
    rows, labels = blobs
    (found,) = score(rows, labels, metrics="silhouette", against=rows + 3).shifts
    assert found.detected
    store = str(make_store(rows, labels))
    other = make_store(rows + 3, labels, name="other.h5", layer="another")
    assert score(store, metrics="silhouette", against=str(other)).shifts[0].layer == "embedding"
    with pytest.raises(UsageError, match=r"other\.h5 has no layer 'embedding'"):
        score([store, store], metrics="silhouette", against=str(other))


def test_files_without_labels(tmp_path):
    rows = drawn(40, 0).features[:].numpy()
    np.save(tmp_path / "a.npy", rows)
    np.savez(tmp_path / "b.npz", X=rows)
    header = "id,d0,d1,d2,d3,d4\n"
    lines = [f"r{number},{','.join(map(str, row))}" for number, row in enumerate(rows.tolist())]
    (tmp_path / "c.csv").write_text(header + "\n".join(lines))
    labels = np.arange(60) % 3
    for name in ("a.npy", "b.npz", "c.csv"):
        (found,) = score(drawn(60, 1).features[:], labels, metrics="gini", against=f"{tmp_path / name}(label=None)").shifts
        assert (found.rows, found.classes) == ((60, 40), ())
    with pytest.raises(InputError, match="has 40 rows, none of them labeled"):
        score(f"{tmp_path / 'b.npz'}(label=None)", metrics="gini")


def test_command(make_store, blobs, capsys):
    rows, labels = blobs
    store, same = make_store(rows, labels), make_store(rows[::-1] + 4, -np.ones(90, dtype=int), name="p.h5", class_names=["0"])
    assert main(["score", str(store), "--against", str(same), "-q", "-m", "silhouette"]) == 0
    out = capsys.readouterr().out
    assert "shift from store to p: detected" in out
    assert max(map(len, out.splitlines())) <= 80
    assert main(["score", str(store), "--against", str(store), "-q", "-m", "silhouette", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["shifts"]
    assert found["detected"] is False
    assert found["shared"] == 90


def test_many_classes_of_two_rows_are_not_called_moved():
    """Four rows have six divisions: none can be as rare as the correction for 300 classes asks."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(300), 2)
    one, other = generator.normal(size=(2, 600, 4))
    found = score(one, labels, metrics="gini", against=(other + 3, labels)).shifts[0]
    assert len(found.classes) == 300
    assert {each.p_value for each in found.classes} == {1.0}


@pytest.mark.parametrize("shifted", [0, 1])
def test_more_classes_than_shares_of_divisions_can_tell(monkeypatch, shifted):
    monkeypatch.setattr("embedscope.evaluation.shift._MOST_PERMUTATIONS", 199)  # 40 classes need 800; as 9,999 for 501
    generator = np.random.default_rng(3)
    labels = np.arange(1600) % 40
    rows = generator.normal(size=(1600, 6))
    other = generator.normal(size=(1600, 6))
    other[labels == 7] += 1.5 * shifted
    found = measure_shift(feature_set(rows, labels), feature_set(other, labels))
    assert [each.name for each in found.classes if each.p_value <= 0.05] == ["7"] * shifted


def test_a_number_is_no_rows():
    features, labels = np.eye(4).repeat(10, axis=0), np.arange(40) % 2
    with pytest.raises(UsageError, match="3 is not an embedding; give features and labels"):
        score(features, labels, metrics="gini", against=3)


def test_a_shift_to_itself_is_warned_of(make_store, blobs, tmp_path):
    rows, labels = blobs
    store, other = str(make_store(rows, labels)), str(make_store(rows + 1, labels, name="other.h5"))
    (tmp_path / "link.h5").symlink_to(store)
    for same in (store, str(tmp_path / "link.h5"), f"again={store}"):
        (entry,) = score(store, metrics="gini", against=same)
        assert entry.warnings == [f"measured against itself ({store}); give other rows to find a shift"]
    assert not score(store, metrics="gini", against=other)[0].warnings
    assert not score(store, metrics="gini")[0].warnings
    assert score(rows, labels, metrics="gini", against=rows)[0].warnings
    assert not score(rows, labels, metrics="gini", against=rows + 1)[0].warnings
    # One split against all rows, and an array that has the name of a file, are something else.
    splits = ["train"] * 60 + ["test"] * 30
    parted = str(make_store(rows, labels, name="parted.h5", split=splits))
    assert not score(parted, metrics="gini", split="train", against=parted)[0].warnings
    assert not score({store: rows + 1}, labels, metrics="gini", against=store)[0].warnings
