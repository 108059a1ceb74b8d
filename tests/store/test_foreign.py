import io
import json
import re
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from embedscope.errors import InputError, UsageError
from embedscope.store import open_features, read_features
from embedscope.store.columns import open_columns
from embedscope.store.foreign import parse_source
from embedscope.store.in_memory import feature_set

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
Y = np.array(["a", "b", "a", "c", "b", "c"])
CODES = [0, 1, 0, 2, 1, 2]


def check(found, rows=X):
    assert found.class_names == ("a", "b", "c")
    assert found.labels.tolist() == CODES
    np.testing.assert_allclose(found.features[:].numpy(), rows, rtol=1e-6)


def table(folder, name, columns):
    path = folder / name
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if name.endswith(".parquet"):
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({key: list(values) for key, values in columns.items()}), path)
    elif name.endswith(".jsonl"):
        path.write_text(
            "\n".join(json.dumps({key: getattr(v, "tolist", lambda v=v: v)() for key, v in row.items()}) for row in rows)
        )
    else:
        mark = "\t" if name.endswith(".tsv") else ","
        lines = [mark.join(columns), *(mark.join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines))
    return str(path)


NUMBERED = {"label": Y, **{f"d{place}": X[:, place].astype(np.float64) for place in range(3)}}


@pytest.mark.parametrize("name", ["v.csv", "v.tsv", "v.jsonl", "v.parquet"])
def test_tables(tmp_path, name):
    columns = {"Unnamed: 0": np.arange(6), **NUMBERED, "id": [f"r{row}" for row in range(6)], "split": ["train"] * 6, "note": Y}
    found = read_features(table(tmp_path, name, columns))
    check(found)
    assert (found.name, found.layer, found.features.dtype) == ("v", "X", torch.float32)
    assert (list(found.ids[:2]), set(found.split)) == (["r0", "r1"], {"train"})


@pytest.mark.parametrize("name", ["v.jsonl", "v.parquet"])
def test_a_column_of_lists(tmp_path, name):
    columns = {"species": Y, "embedding": X.tolist(), "age": [1.0] * 6}
    check(found := read_features(table(tmp_path, name, columns) + "(label='species')"))
    assert found.layer == "embedding"


@pytest.mark.parametrize("name", ["v.csv", "v.parquet"])
def test_options_name_the_columns(tmp_path, name):
    columns = {**NUMBERED, "age": np.arange(6.0), "species": Y[::-1], "key": [f"k{row}" for row in range(6)]}
    path = table(tmp_path, name, columns)
    check(read_features(f"{path}(features='d*')"))
    check(read_features(f"{path}(features=['d0', 'd[12]'])"))
    found = read_features(f"mine={path}(features='age', label='species', id='key')")
    assert (found.name, found.layer, found.source, found.ids[0]) == ("mine", "age", path, "k0")
    assert found.features[:].squeeze(1).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            {**NUMBERED, "age": [1] * 6},
            "",
            r"columns are d0 ... d2, age; select the feature columns, as",
        ),
        ({**NUMBERED, "e1": [1] * 6, "e2": [1] * 6}, "", r"columns are d0 ... d2, e1 ... e2; select the"),
        ({"label": Y, "note": Y}, "", "no numeric column besides the label; there are: label, note"),
        ({"d0": [1] * 6}, "", r"no column has a common name for label; there are: d0; specify one, as in .*\(label='COLUMN'\)"),
        (NUMBERED, "(features='e*')", r"no feature column matches 'e\*'; there are: d0, d1, d2"),
        (NUMBERED, "(label='lable')", "has no label column 'lable'; did you mean 'label'"),
        ({**NUMBERED, "d3": ["n/a", *"12345"]}, "", r"row 0 of d3 \(counted from 0\) holds 'n/a', which is not a number"),
        ({**NUMBERED, "id": [0, 1, 2, 3, 4, 4]}, "", "ids must be unique; 1 of 6 are repeated"),
        ({"label": Y[:0], "d0": X[:0, 0]}, "", "has no rows"),
    ],
)
def test_tables_that_do_not_say_what_they_hold(tmp_path, columns, options, message):
    with pytest.raises(InputError, match=message):
        read_features(table(tmp_path, "v.csv", columns) + options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("(features=1)", "features must be a pattern or a list"),
        ("(features=[])", "features must be a pattern or a list"),
        ("(label=3)", "label must be a quoted name, got 3"),
        ("(lable='a')", "v.csv has no option 'lable'; did you mean 'label'"),
        ("('label')", "need a name, as in"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        read_features(table(tmp_path, "v.csv", NUMBERED) + options)


def test_a_gap_in_the_features_is_a_nan(tmp_path):
    columns = {**NUMBERED, "d0": ["", *X[1:, 0]]}
    assert read_features(table(tmp_path, "v.csv", columns)).features[:].isnan().sum() == 1


@pytest.mark.parametrize(
    ("name", "lists", "message"),
    [
        ("v.jsonl", [[1.0], [1.0, 2.0]], "row 1 of v (counted from 0) holds 2 numbers, but the rows before it hold 1"),
        ("v.jsonl", [[1.0, 2.0], [1.0]], "row 1 of v (counted from 0) holds 1 number, but the rows before it hold 2"),
        ("v.jsonl", [[], []], "no numeric column besides the label"),
        ("v.parquet", [[1.0], [1.0, 2.0]], "the lists of v differ in length, such as 1 and 2"),
        ("v.parquet", [[1.0, 2.0], [1.0]], "the lists of v differ in length, such as 1 and 2"),
        ("v.parquet", [[], []], "no numeric column besides the label"),
    ],
)
def test_lists_of_other_lengths(tmp_path, name, lists, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read_features(table(tmp_path, name, {"label": [0, 1], "v": lists}))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.arange(6) + 2**24, torch.float32),
        (np.arange(6) + 2**28, torch.float64),
        (np.arange(6) * 2**30, torch.float32),
        (np.arange(6, dtype=np.uint8), torch.float32),
        (np.arange(6) > 2, torch.float32),
    ],
)
def test_whole_numbers_stay_what_they_are(tmp_path, values, dtype):
    if dtype == torch.float32 and values.dtype == np.int64 and values[0] == 2**24:
        values = values // 2 * 2  # what float32 holds beyond 2**24
    np.savez(tmp_path / "a.npz", X=values[:, None], y=CODES)
    found = read_features(str(tmp_path / "a.npz")).features[:]
    assert found.dtype == dtype
    assert found.squeeze(1).tolist() == values.astype(np.int64).tolist()
    path = table(tmp_path, "v.csv", {"label": Y, "d": values.astype(np.int64)})
    assert torch.equal(read_features(path).features[:], found)


def test_whole_numbers_that_no_float_holds(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.full((2, 1), 2**53 + 1), y=[0, 1])
    with pytest.raises(InputError, match=r"integers beyond 2\*\*53 cannot be represented as floats"):
        read_features(str(tmp_path / "a.npz"))


def test_arrays_under_other_names(tmp_path):
    np.savez(tmp_path / "a.npz", emb=X, species=Y[:, None], other=X[:2])
    check(found := read_features(f"{tmp_path / 'a.npz'}(features='emb', label='species')"))
    assert found.layer == "emb"
    with pytest.raises(InputError, match=r"no array 'emd'; did you mean 'emb'"):
        read_features(f"{tmp_path / 'a.npz'}(features='emd', label='species')")


# ---- tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_tensors(tmp_path, dtype):
    rows = torch.from_numpy(X).to(dtype)
    torch.save({"embeddings": rows, "labels": torch.tensor(CODES), "class_names": ["a", "b", "c"]}, tmp_path / "a.pt")
    check(read_features(str(tmp_path / "a.pt")), rows.double().numpy())
    save_file({"X": rows, "y": torch.tensor(CODES)[:, None]}, tmp_path / "a.safetensors")
    found = read_features(str(tmp_path / "a.safetensors"))
    assert torch.equal(found.features[:].double(), rows.double())
    assert found.labels.tolist() == CODES


def test_pairs_of_tensors(tmp_path):
    torch.save(torch.from_numpy(X), tmp_path / "x,1.pt")
    torch.save(torch.tensor(CODES), tmp_path / "y.pt")
    np.save(tmp_path / "y.npy", Y)
    assert read_features(f"{tmp_path / 'x,1.pt'},{tmp_path / 'y.pt'}").labels.tolist() == CODES
    check(read_features(f"{tmp_path / 'x,1.pt'},{tmp_path / 'y.npy'}"))


def test_tensors_by_name(tmp_path):
    torch.save({"early": torch.zeros(6, 2), "late": torch.from_numpy(X), "labels": Y.tolist()}, tmp_path / "a.pt")
    check(read_features(f"{tmp_path / 'a.pt'}(features='late')"))
    with pytest.raises(InputError, match=r"none has a common name for features; it holds early, late, labels; specify one,"):
        read_features(str(tmp_path / "a.pt"))


class Harmful:
    def __reduce__(self):
        return print, ("harm",)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (torch.zeros(3, 2), r"contains features without labels; give both as X.pt,y.pt"),
        ({"X": torch.zeros(3, 2)}, "none has a common name for label"),
        (
            {"X": torch.zeros(3, 2), "y": Harmful()},
            "a.pt contains objects other than tensors and plain values, which are not unpickled",
        ),
        ({"X": torch.zeros(3, 2).to_sparse(), "y": torch.zeros(3)}, "X is sparse, quantized, nested or without data"),
        ({"X": torch.zeros(3, 2, device="meta"), "y": torch.zeros(3)}, "X is sparse, quantized, nested or without data"),
        ({"X": torch.zeros(3, 2, dtype=torch.complex64), "y": torch.zeros(3)}, "X is complex64; expected real numbers"),
        ({"X": torch.zeros(1).expand(10**7, 10**7), "y": torch.zeros(3)}, r"X would take 400,000,000,000,000 bytes of memory"),
        ({"X": torch.zeros(3, 2), "y": torch.eye(3)}, r"y has the shape \(3, 3\); give one label per row, such as y.argmax"),
        ({"X": torch.zeros(3, 2), "y": {"a": 1}}, "y is a dict; expected a tensor, or a list of texts"),
        ({"X": torch.zeros(2, 2, 2), "y": [0, 1]}, r"X must be numbers of shape \(N, D\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor:UserWarning")  # of torch 2.15
def test_tensors_that_cannot_be_used(tmp_path, capfd, saved, message):
    torch.save(saved, tmp_path / "a.pt")
    with pytest.raises(InputError, match=message):
        read_features(str(tmp_path / "a.pt"))
    assert "harm" not in capfd.readouterr().out


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.npz", "a.parquet", "a.h5ad"])
def test_files_that_are_something_else(tmp_path, name):
    (tmp_path / name).write_bytes(b"something else, and long enough to be looked at")
    with pytest.raises(InputError, match=r"cannot be read|is not an HDF5 feature store|is not an archive"):
        read_features(str(tmp_path / name))


# ---- HDF5 of other tools


@pytest.fixture
def h5ad(tmp_path):
    """As anndata writes it since 0.7: a categorical column, one with gaps, plain text, and an index."""
    text = h5py.string_dtype()
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        file.create_dataset("X", data=X.astype(np.int32))
        file.create_dataset("obsm/X_pca", data=X)
        file.create_dataset("obsm/X_umap", data=X[:, :2].astype(">f8"))
        file.create_group("obsm/frame").attrs["encoding-type"] = "dataframe"
        obs = file.create_group("obs")
        obs.attrs["_index"] = "cell"
        obs.create_dataset("cell", data=[f"cell{row}" for row in range(6)], dtype=text)
        obs.create_dataset("cell_type/categories", data=["a", "b", "c"], dtype=text)
        obs.create_dataset("cell_type/codes", data=np.array(CODES, np.int8))
        obs.create_dataset("batch/values", data=[1, 1, 2, 2, 2, 2])
        obs.create_dataset("batch/mask", data=[False, True, False, False, False, False])
        obs.create_dataset("donor", data=[*"xxyyzz"], dtype=text)
    return str(tmp_path / "a.h5ad")


def test_anndata(h5ad):
    first, second = open_features([h5ad])
    check(first)
    assert (first.name, second.name, first.ids[5]) == ("a:X_pca", "a:X_umap", "cell5")
    np.testing.assert_allclose(second.features[:].numpy(), X[:, :2])


@pytest.mark.parametrize(
    ("options", "names", "labels"),
    [
        ("(layer='X_pca', label='cell_type')", ("a", "b", "c"), CODES),
        ("(layer='X', label='donor')", ("x", "y", "z"), [0, 0, 1, 1, 2, 2]),
        ("(features='X_umap', label='batch')", ("1", "2"), [0, -1, 1, 1, 1, 1]),
    ],
)
def test_anndata_by_name(h5ad, options, names, labels):
    found = read_features(h5ad + options)
    assert (found.name, found.class_names, found.labels.tolist()) == ("a", names, labels)
    assert read_features(h5ad, layer="X_pca").layer == "X_pca"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ("(layer='X_pac')", InputError, "no layer 'X_pac'; did you mean 'X_pca'"),
        ("(layer='frame')", InputError, "/obsm/frame is sparse or a table, not an array"),
        ("(label='celltype', layer='X')", InputError, "has no label column 'celltype'; did you mean 'cell_type'"),
        ("(layer='X', features='X')", UsageError, "select the layer once"),
        ("(obs='a')", UsageError, r"a\.h5ad has no option 'obs'"),
    ],
)
def test_anndata_that_is_not_there(h5ad, options, error, message):
    with pytest.raises(error, match=message):
        read_features(h5ad + options)


def other(folder, **sets):
    with h5py.File(folder / "a.h5", "w") as file:
        for name, values in sets.items():
            file[name.replace("__", "/")] = values
    return str(folder / "a.h5")


def test_features_beside_labels(tmp_path):
    check(read_features(other(tmp_path, features=X, labels=Y.astype("S"), more=np.arange(6.0))))
    check(read_features(other(tmp_path, out__vectors=X, out__target=Y.astype("S")[:, None], wide=np.zeros((4, 9)))))
    path = other(tmp_path, one=X, two=X.astype(np.int64), species=Y.astype("S"), age=np.arange(6))
    found = read_features(f"{path}(layer='two', label='species')")
    assert found.features[:].dtype == torch.float32
    check(read_features(f"{path}(label='species')", layer="one"))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            {"one": X, "two": X, "y": [0] * 6},
            r"several data sets could be features \(N, D\): one, two; specify one, as",
        ),
        ({"features": X, "labels": [0] * 5}, "/features has 6 rows, but there are 5 labels"),
        ({"features": X}, r"no data set looks like labels \(N,\)"),
        ({"features": X[:0], "labels": Y[:0].astype("S")}, "expected numbers"),
    ],
)
def test_hdf5_that_does_not_say_what_it_holds(tmp_path, sets, message):
    with pytest.raises(InputError, match=message):
        read_features(other(tmp_path, **sets))


def test_hdf5_reads_no_other_file(tmp_path):
    path = other(tmp_path, features=X, labels=CODES)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["labels"] = CODES
        file["features"] = h5py.ExternalLink(path, "features")
    with pytest.raises(InputError, match=r"no data set looks like features"):
        read_features(str(tmp_path / "b.h5"))
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["labels"] = CODES
        layout = h5py.VirtualLayout((6, 3), np.float32)
        layout[:] = h5py.VirtualSource(path, "features", (6, 3))
        file.create_virtual_dataset("features", layout)
    with pytest.raises(InputError, match="/features is stored in external files, which are not read"):
        read_features(str(tmp_path / "c.h5"))


def test_hdf5_that_declares_more_than_it_has(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["labels"] = CODES
        file.create_dataset("features", (6, 10**12), np.float32, chunks=(6, 1000))
    with pytest.raises(InputError, match=r"declares .* values, more than its 0 bytes can hold"):
        read_features(str(tmp_path / "a.h5"))


def own_categories(file):
    del file["labels"]
    file["labels"] = np.zeros(6, np.int32)
    file["labels"].attrs["categories"] = file["labels"].ref


def categories_in_themselves(file):
    del file["labels"]
    file.create_group("labels")
    file["labels/categories"] = file["labels"]
    file["labels/codes"] = CODES
    file["obs/label"] = file["labels"]
    file["obsm/a"] = X


def codes_that_are_no_places(file):
    file["obs/label/categories"] = np.array(["a", "b"], dtype=object)
    file["obs/label/codes"] = np.linspace(0, 1, 6)
    file["obsm/a"] = X


def long_labels(file):
    del file["labels"]
    file["labels"] = np.array(["z" * (2**20 + 1)] * 6, dtype=object)


def large_chunks(file):
    del file["features"]
    file.create_dataset("features", data=X, maxshape=(None, None), chunks=(8000, 8000), compression="gzip")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (categories_in_themselves, "/obs/label/categories is not a data set"),
        (codes_that_are_no_places, "the codes of /obs/label must be integers from -1 to 1"),
        (long_labels, "/labels has a text of 1,048,577 bytes; at most 1,048,576 are read"),
        (large_chunks, "/features has chunks of 256,000,000 bytes"),
    ],
)
def test_hostile_hdf5(tmp_path, edit, message):
    path = other(tmp_path, features=X, labels=CODES)
    with h5py.File(path, "r+") as file:
        edit(file)
    with pytest.raises(InputError, match=message):
        open_features([path])


def test_categories_that_are_their_own(tmp_path):
    path = other(tmp_path, features=X, labels=CODES)
    with h5py.File(path, "r+") as file:
        own_categories(file)
    assert read_features(path).class_names == ("0",)


def test_text_labels_in_a_column(tmp_path):
    path = other(tmp_path, features=X)
    with h5py.File(path, "r+") as file:
        file.create_dataset("labels", data=Y.astype(object)[:, None], dtype=h5py.string_dtype())
    check(read_features(path))


def test_a_data_set_of_a_type_that_has_no_dtype(tmp_path):
    path = other(tmp_path, features=X, labels=Y.astype("S"))
    with h5py.File(path, "r+") as file:
        h5py.h5d.create(file.id, b"times", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((6,)))
    check(read_features(path))


@pytest.mark.parametrize("name", ["v.csv", "v.jsonl"])
def test_tables_with_whole_numbers_that_no_float_holds(tmp_path, name):
    path = table(tmp_path, name, {"label": Y, "a": [2**53] * 6, "b": [1, 2, 2**53 + 1, 4, 5, 6]})
    with pytest.raises(InputError, match=r"row 2 of b .* holds 9007199254740993; integers beyond 2\*\*53"):
        read_features(path)


def test_tables_with_large_floats(tmp_path):
    path = table(tmp_path, "v.csv", {"label": Y, "a": ["1e300"] * 6, "b": [2**53] * 6})
    assert read_features(path).features[0].tolist() == [1e300, 2.0**53]


def test_a_number_in_python_is_not_one_in_a_table(tmp_path):
    path = table(tmp_path, "v.csv", {"label": Y, "run": ["1_000"] * 6, "value": X[:, 0]})
    assert read_features(path).layer == "value"


# ---- paths


def test_what_is_there_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b", "a=b", "v(label='x')"):
        np.savez(f"{name}.npz", X=X, y=Y)
        check(read_features(f"{name}.npz"))
        assert parse_source(f"mine={name}.npz").name == "mine"
        np.savez(name, X=X, y=Y)


@pytest.mark.parametrize(
    ("text", "name", "files", "options"),
    [
        ("x.npy,y.npy", "x", ("x.npy", "y.npy"), {}),
        ("n=x.npy,y.npy", "n", ("x.npy", "y.npy"), {}),
        ("v.csv(label='a=b')", "v", ("v.csv",), {"label": "a=b"}),
        ("n=v.csv(label='a,b')", "n", ("v.csv",), {"label": "a,b"}),
        ("a,b,c", "a,b,c", ("a,b,c",), {}),
    ],
)
def test_parts_of_a_source(text, name, files, options):
    found = parse_source(text)
    assert (found.name, found.files, found.options) == (name, files, options)


def test_a_pipe(tmp_path):
    import os

    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(InputError, match="is a pipe or a device, not a file; give"):
        read_features(str(tmp_path / "a.csv"))


def test_options_of_a_store(make_store):
    with pytest.raises(UsageError, match="is a feature store, which takes no options in brackets; use `layers=`"):
        read_features(f"{make_store(X, CODES)}(label='a')")


def test_layers_of_a_table(tmp_path):
    with pytest.raises(UsageError, match="has no layers to choose from; omit `layers=`"):
        read_features(table(tmp_path, "v.csv", NUMBERED), layer="a")


# ---- more declared than there is


def npz(path, shape, dtype="<f8", *, size=None, compress=zipfile.ZIP_DEFLATED):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", compress) as archive:
        archive.writestr("y.npy", header.getvalue())
        with archive.open("X.npy", "w") as member:
            member.write(header.getvalue())
            for _ in range((size or 0) // 2**20):
                member.write(bytes(2**20))


def test_an_archive_that_inflates_beyond_memory(tmp_path, monkeypatch):
    npz(tmp_path / "a.npz", (4, 2**20), size=32 * 2**20)
    monkeypatch.setattr("embedscope.store.limits.free_memory", lambda device: 32 * 2**20)
    with pytest.raises(InputError, match=r"what it holds would take 33,\d+,\d+ bytes of memory, but half of the free"):
        read_features(str(tmp_path / "a.npz"))


def test_tensors_beyond_memory(tmp_path, monkeypatch):
    torch.save({"X": torch.zeros(1024, 8), "y": torch.zeros(1024)}, tmp_path / "a.pt")
    monkeypatch.setattr("embedscope.store.limits.free_memory", lambda device: 2**12)
    with pytest.raises(InputError, match=r"what it holds would take \d+,\d+ bytes of memory, but half of the free"):
        read_features(str(tmp_path / "a.pt"))


def test_an_archive_made_to_fill_memory(tmp_path, monkeypatch):
    npz(tmp_path / "a.npz", (4, 2**18), size=8 * 2**20)
    monkeypatch.setattr("embedscope.store.limits._WORTH_A_LOOK", 2**20)
    with pytest.raises(
        InputError, match=r"unpacks from 8,\d+ to 8,\d+,\d+ bytes, like a decompression bomb; if the file is genuine,"
    ):
        read_features(str(tmp_path / "a.npz"))


def test_an_archive_with_a_false_directory(tmp_path):
    npz(tmp_path / "a.npz", (10**6, 10**6), size=2**20)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    place = data.rfind(b"PK\x01\x02")  # the entry of X in the directory, whose size of 32 bits lies 24 bytes on
    data[place + 24 : place + 28] = b"\xf0\xff\xff\xff"
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(InputError, match=r"X.npy declares 4,294,967,280 bytes, more than"):
        read_features(str(tmp_path / "a.npz"))


def test_an_archive_compressed_in_another_way(tmp_path):
    npz(tmp_path / "a.npz", (1, 1), size=2**20, compress=zipfile.ZIP_LZMA)
    with pytest.raises(InputError, match="uses a compression that NumPy and torch do not write"):
        read_features(str(tmp_path / "a.npz"))


def test_an_array_cut_short(tmp_path):
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-8])
    np.save(tmp_path / "y.npy", Y)
    with pytest.raises(InputError, match="declares 72 bytes but contains 64; it is truncated or"):
        read_features(f"{tmp_path / 'x.npy'},{tmp_path / 'y.npy'}")


def test_parquet_beyond_memory(tmp_path, monkeypatch):
    path = table(tmp_path, "v.parquet", {"label": np.zeros(10**5, np.int8), "d": np.zeros(10**5, np.float32)})
    monkeypatch.setattr("embedscope.store.limits.free_memory", lambda device: 10**6)
    with pytest.raises(InputError, match=r"label of 100,000 rows would take \d+,\d+ bytes of memory"):
        read_features(path)


def test_a_long_text_that_repeats_is_kept_once(tmp_path):
    columns = open_columns("v", Path(table(tmp_path, "v.parquet", {"label": ["x" * 1000] * 3 + [None]})))
    (found,) = columns.take("label")
    assert found == ["x" * 1000] * 3 + [None]
    assert found[0] is found[2]


def test_parquet_with_whole_numbers_that_no_float_holds(tmp_path):
    with pytest.raises(InputError, match=r"d cannot be read: Integer value .* not in range"):
        read_features(table(tmp_path, "v.parquet", {"label": Y, "d": np.arange(6) + 2**53}))


@pytest.mark.parametrize("suffix", ["npz", "csv", "tsv", "jsonl", "parquet", "pt", "safetensors", "h5", "h5ad", "npy"])
def test_an_empty_file_is_called_empty(tmp_path, suffix):
    path = tmp_path / f"v.{suffix}"
    path.touch()
    with pytest.raises(InputError, match=rf"^{path} is empty: it has 0 bytes$"):
        read_features(str(path))


def test_a_pair_with_an_empty_file(tmp_path):
    np.save(tmp_path / "X.npy", X)
    (tmp_path / "y.npy").touch()
    with pytest.raises(InputError, match=r"y\.npy is empty: it has 0 bytes$"):
        read_features(f"{tmp_path / 'X.npy'},{tmp_path / 'y.npy'}")


@pytest.mark.parametrize(("name", "text"), [("v.csv", "\n\n"), ("v.jsonl", "\n \n"), ("v.csv", "label,d0\n")])
def test_a_table_without_rows(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=rf"^{tmp_path / name} has no rows$"):
        read_features(str(tmp_path / name))


def test_text_under_the_name_of_arrays(tmp_path):
    (tmp_path / "v.npz").write_text("label,d0\na,1\n")
    with pytest.raises(InputError, match=r"v\.npz cannot be read as NumPy arrays: it is another kind of file$"):
        read_features(str(tmp_path / "v.npz"))


@pytest.mark.parametrize("rows", [6, 600])  # as a pickle, the labels take more or fewer bytes than as pointers
def test_arrays_of_python_objects(tmp_path, rows):
    labels = np.array(["cat", "dog"] * (rows // 2), dtype=object)
    features = np.ones((rows, 2))
    np.savez(tmp_path / "v.npz", X=features, y=labels)
    np.save(tmp_path / "X.npy", features)
    np.save(tmp_path / "y.npy", labels)
    advice = r"holds Python objects, which are never unpickled; convert it first, such as labels\.astype\(str\)$"
    with pytest.raises(InputError, match=rf"v\.npz: y\.npy {advice}"):
        read_features(str(tmp_path / "v.npz"))
    with pytest.raises(InputError, match=rf"^{tmp_path / 'y.npy'} {advice}"):
        read_features(f"{tmp_path / 'X.npy'},{tmp_path / 'y.npy'}")
    np.savez(tmp_path / "v.npz", X=features, y=labels.astype(str))
    assert read_features(str(tmp_path / "v.npz")).class_names == ("cat", "dog")


def test_archives_with_the_usual_names(tmp_path):
    np.savez(tmp_path / "a.npz", features=np.eye(3), labels=["a", "b", "a"])
    found = read_features(str(tmp_path / "a.npz"))
    assert (found.features.shape, found.class_names) == ((3, 3), ("a", "b"))
    np.savez(tmp_path / "b.npz", features=np.eye(3), embedding=np.eye(3), y=[0, 1, 0])
    with pytest.raises(InputError, match=r"has no X; it holds features, embedding, y"):
        read_features(str(tmp_path / "b.npz"))
    assert read_features(f"{tmp_path / 'b.npz'}(features='embedding')").features.shape == (3, 3)


@pytest.mark.parametrize(
    "labels",
    [np.array([-1, 1, 1]), [-1, 1, 1], np.array([-1.0, 1.0, 1.0]), ["-1", "1", "1"], np.array([-1, 1, np.nan]), [-1, 1, None]],
)
def test_classes_called_minus_one_and_one(labels):
    with pytest.raises(InputError, match="labels are -1 and 1, but a negative label means unlabeled; give 0 and 1, or names"):
        feature_set(np.eye(3), labels)


def test_labels_in_another_order_than_the_features():
    pandas = pytest.importorskip("pandas")
    features = pandas.DataFrame(np.eye(4), index=list("abcd"))
    labels = pandas.Series([0, 1, 0, 1], index=list("abcd"))
    with pytest.raises(InputError, match="same index in another order"):
        feature_set(features, labels.loc[list("dcba")])
    mixed = pandas.Series([0, 1, 0, 1], index=["a", 2, None, (4,)])
    for given in (labels, labels.reset_index(drop=True), mixed, labels.to_numpy()):
        assert feature_set(features, given).labels.tolist() == [0, 1, 0, 1]
