import numpy as np
import pytest

from embedscope.errors import InputError
from embedscope.finetuning.splitting import fingerprint, part, read_label_map, with_classes_of
from embedscope.store import read_features

SHARES = {"test_share": 0.25, "val_share": 0.2, "seed": 0}


@pytest.fixture
def features(make_store, blobs):
    return read_features(str(make_store(*blobs)))


def ids_of(*feature_sets):
    return [set(each.ids) for each in feature_sets]


def test_splits_of_the_features_are_kept(make_store, blobs):
    split = ["Train", "TEST", "val"] * 30
    features = read_features(str(make_store(blobs[0], np.repeat([0, 1, 2], 30), split=split)))
    parts = part(features, **SHARES)
    assert (parts.held_out, parts.validated_on) == ("the split 'test' of the features", "the split 'val' of the features")
    for rows, name in ((parts.train, "Train"), (parts.validation, "val"), (parts.test, "TEST")):
        assert list(rows.ids) == [f"row{row}" for row in range(90) if split[row] == name]


def test_without_validation_its_split_is_trained_on(make_store, blobs):
    features = read_features(str(make_store(blobs[0], np.repeat([0, 1, 2], 30), split=["train", "test", "val"] * 30)))
    parts = part(features, **{**SHARES, "val_share": 0})
    assert parts.validation is None
    assert parts.validated_on == "nothing: the last epoch is kept"
    assert len(parts.train.labels) == 60


def test_test_rows_are_not_drawn_from_the_validation_split(make_store, blobs):
    features = read_features(str(make_store(blobs[0], np.repeat([0, 1, 2], 30), split=["train", "train", "dev"] * 30)))
    parts = part(features, **SHARES)
    assert set(parts.validation.split) == {"dev"}
    assert "dev" not in set(parts.test.split)
    assert len(parts.test.labels) == 15


def test_drawn_rows_keep_the_classes(features):
    parts = part(features, **{**SHARES, "test_share": 0.3})
    assert np.bincount(parts.test.labels).tolist() == [9, 9, 9]
    assert np.bincount(parts.validation.labels).tolist() == [4, 4, 4]
    groups = ids_of(parts.train, parts.validation, parts.test)
    assert set.union(*groups) == set(features.ids)
    assert sum(map(len, groups)) == 90
    assert parts.held_out == "30% of each class, drawn with seed 0"
    assert parts.validated_on == "20% of each class of the rest, drawn with seed 1"


def test_the_seed_draws_other_rows(features):
    first, again, other = (part(features, **{**SHARES, "seed": seed}) for seed in (0, 0, 5))
    assert ids_of(first.train) == ids_of(again.train)
    assert ids_of(first.test) != ids_of(other.test)


def test_a_lonely_row_stays_in_training(make_store):
    features = read_features(str(make_store(np.random.default_rng(0).normal(size=(9, 2)), [0, 0, 0, 0, 1, 1, 1, 1, 2])))
    parts = part(features, **SHARES)
    assert 2 in parts.train.labels
    assert np.bincount(parts.test.labels).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("labels", "split", "message"),
    [
        ([0] * 6, None, "the rows to train on have 1 class; a comparison"),
        ([0, 1, 0, 1], ["test"] * 4, "have 0 classes; a comparison needs at least 2; all rows are of its split 'test'"),
        ([0, 1, 0, 1, 0, 1], ["train"] * 4 + ["test", "train"], "the rows held out have 1 class; a comparison"),
        ([0, 1, 0, 1, 2, 0], ["train"] * 4 + ["test"] * 2, "1 class is held out and never trained on: 2"),
        ([0, 1, 0, 1, 0, 1, 2], ["train"] * 4 + ["test"] * 2 + ["val"], "1 class is validated on and never trained on: 2"),
    ],
)
def test_classes_that_are_not_there(make_store, labels, split, message):
    features = read_features(str(make_store(np.random.default_rng(0).normal(size=(len(labels), 2)), labels, split=split)))
    with pytest.raises(InputError, match=message):
        part(features, **SHARES)


def test_another_file_is_held_out(make_store, blobs, features):
    rows, labels = blobs
    path = make_store(rows, (labels + 1) % 3, name="other.h5", class_names=["b", "c", "a"])
    mapped = with_classes_of(read_features(str(path)), features, {"a": "0", "b": "1", "c": "2"})
    assert mapped.class_names == features.class_names
    # class a of the other file is its label 2, and label 0 of the features
    assert mapped.labels.tolist() == [{0: 1, 1: 2, 2: 0}[(label + 1) % 3] for label in labels.tolist()]
    parts = part(features, **SHARES, other=mapped)
    assert len(parts.test.labels) == 90
    assert len(parts.train.labels) + len(parts.validation.labels) == 90
    assert parts.held_out.endswith("other.h5, all of its rows")


def test_test_rows_of_the_features_are_never_trained_on(make_store, blobs):
    features = read_features(str(make_store(blobs[0], np.repeat([0, 1, 2], 30), split=["train", "train", "test"] * 30)))
    parts = part(features, **SHARES, other=features)
    assert "test" not in set(parts.train.split) | set(parts.validation.split)


def test_classes_that_are_left_out(make_store, blobs, features):
    path = make_store(*blobs, name="other.h5", class_names=["0", "1", "strange"])
    other = read_features(str(path))
    with pytest.raises(InputError, match="1 class not in the features to train on: strange; map them with"):
        with_classes_of(other, features)
    assert np.bincount(with_classes_of(other, features, {"strange": ""}).labels).tolist() == [30, 30]
    with pytest.raises(InputError, match="the label map drops every class"):
        with_classes_of(other, features, {"0": "", "1": "", "strange": ""})
    with pytest.raises(InputError, match=r"other.h5 has no class 'stange'; did you mean 'strange'"):
        with_classes_of(other, features, {"stange": "0"})
    with pytest.raises(InputError, match=r"store.h5 has no class '7'"):
        with_classes_of(other, features, {"strange": "7"})


def test_another_file_of_another_width(make_store, features):
    other = read_features(str(make_store(np.eye(4), [0, 1, 0, 1], name="other.h5")))
    with pytest.raises(InputError, match=r"other\.h5 has 4 dimensions, the features to train on have 8"):
        with_classes_of(other, features)


def test_label_map(tmp_path):
    (tmp_path / "map.csv").write_text("test,train\nautomobile,car\n\n frog , \n'a,b',x\n".replace("'a,b'", '"a,b"'))
    assert read_label_map(tmp_path / "map.csv") == {"automobile": "car", "frog": "", "a,b": "x"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,c\n", "line 1: 3 columns; expected two"),
        ("a,b\na,c\n", "line 2: the class a is listed twice"),
        ("a\n", "line 1: 1 column; expected two"),
        ("", r"map\.csv is empty: it has 0 bytes$"),
        ("test,train\n\n", r"map\.csv maps no class; expected lines such as automobile,car$"),
    ],
)
def test_label_maps_that_cannot_be_read(tmp_path, text, message):
    (tmp_path / "map.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_label_map(tmp_path / "map.csv")


def test_label_map_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*map.csv: No such file"):
        read_label_map(tmp_path / "map.csv")
    (tmp_path / "map.csv").write_bytes(b"\xff\xfe\x00,")
    with pytest.raises(InputError, match="is not a CSV file in UTF-8"):
        read_label_map(tmp_path / "map.csv")


def test_rows_that_are_too_few_to_validate_on(make_store):
    features = read_features(str(make_store(np.eye(4), [0, 0, 1, 1])))
    parts = part(features, **SHARES)
    assert parts.validation is None
    assert parts.validated_on == "nothing: the last epoch is kept"


def test_a_fingerprint_is_of_rows_labels_and_ids(make_store, blobs):
    rows, labels = blobs

    def found(name, rows, labels, **options):
        return fingerprint(part(read_features(str(make_store(rows, labels, name=name, **options))), **SHARES))

    first = found("a.h5", rows, labels)
    assert found("b.h5", rows, labels) == first
    changed = rows.copy()
    changed[3, 2] += 1e-3
    assert found("c.h5", changed, labels) != first
    assert found("d.h5", rows, np.roll(labels, 1)) != first
