import gzip
import struct

import numpy as np
import pytest
import torch

from embedscope.data import open_dataset
from embedscope.data.dataset import BatchedInputs
from embedscope.errors import InputError
from tests.conftest import SHARED

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
IMAGES = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)


def encode(array):
    """The bytes of an idx file, as http://yann.lecun.com/exdb/mnist has them."""
    code = CODES[array.dtype.str[1:]]
    return (
        struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
        + array.astype(array.dtype.newbyteorder(">")).tobytes()
    )


def write(path, array):
    data = encode(np.asarray(array))
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def pair(folder, split, images=IMAGES, labels=(3, 1, 3, 0), suffix=""):
    write(folder / f"{split}-images-idx3-ubyte{suffix}", images)
    write(folder / f"{split}-labels-idx1-ubyte{suffix}", np.array(labels, dtype=np.uint8))
    return folder / f"{split}-images-idx3-ubyte{suffix}"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_folder_of_train_and_test(tmp_path, suffix):
    pair(tmp_path, "t10k", IMAGES[:1] + 100, [1], suffix)
    pair(tmp_path, "train", suffix=suffix)
    found = open_dataset(str(tmp_path))
    assert found.class_names == ("0", "1", "3")
    assert found.labels.tolist() == [2, 1, 2, 0, 1]
    assert found.split == ("train",) * 4 + ("test",)
    assert found.ids == ("train/0", "train/1", "train/2", "train/3", "test/0")
    assert torch.equal(found.inputs[1], torch.from_numpy(IMAGES[1:2]))
    assert found.inputs[4][0, 0, 0] == 100


def test_batches_are_the_items(tmp_path):
    inputs = open_dataset(str(pair(tmp_path, "train"))).inputs
    assert isinstance(inputs, BatchedInputs)
    for rows in (range(1, 3), [3, 0], range(0)):
        batch = inputs.batch(rows)
        assert batch.shape == (len(rows), 1, 2, 3)
        assert batch.dtype == torch.uint8
        assert all(torch.equal(batch[place], inputs[row]) for place, row in enumerate(rows))


def test_one_file_finds_its_labels(tmp_path):
    pair(tmp_path, "train", labels=[0, 0, 0, 0])
    found = open_dataset(str(pair(tmp_path, "t10k")))
    assert found.ids == ("0", "1", "2", "3")
    assert found.split is None
    assert found.labels.tolist() == [2, 1, 2, 0]


def test_names_with_dots_and_other_prefixes(tmp_path):
    write(tmp_path / "emnist-letters-train-images.idx3-ubyte", IMAGES)
    write(tmp_path / "emnist-letters-train-labels.idx1-ubyte", np.array([1, 1, 1, 2], dtype=np.uint8))
    assert open_dataset(str(tmp_path)).class_names == ("1", "2")


def test_an_unpacked_copy_beside_the_packed_one(tmp_path):
    pair(tmp_path, "train", suffix=".gz")
    pair(tmp_path, "train")
    assert len(open_dataset(str(tmp_path)).inputs) == 4


@pytest.mark.parametrize("dtype", CODES)
def test_every_type_of_number(tmp_path, dtype):
    values = np.array([[1, 2, 3], [4, 5, 6]], dtype=dtype)
    file = pair(tmp_path, "train", values, [0, 1])
    item = open_dataset(str(file)).inputs[1]
    assert item.tolist() == [4, 5, 6]
    assert item.numpy().dtype == dtype


def test_fingerprint_changes_with_the_images(tmp_path):
    first = open_dataset(str(pair(tmp_path, "train"))).fingerprint
    assert open_dataset(str(pair(tmp_path, "train"))).fingerprint == first
    assert open_dataset(str(pair(tmp_path, "train", IMAGES + 1))).fingerprint != first


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty: it has 0 bytes"),
        (b"\x89PNG" + bytes(40), "is not an idx file: it begins with 89 50 4e 47"),
        (encode(IMAGES)[:-1], r"is truncated: its header declares the shape \(4, 2, 3\), 24 bytes"),
        (encode(IMAGES)[:9], "is truncated"),
        (encode(IMAGES) + b"\0", "has more than the 24 bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "is truncated"),
        (gzip.compress(encode(IMAGES))[:-12], "cannot be read: .* it is truncated or damaged"),
        (b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 20, "cannot be read: .*invalid block type"),
        (gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12), "is truncated"),
        (b"\0\0\x08\xff" + b"\0\0\0\x01" * 255 + b"\0", "declares 255 dimensions, more than images have"),
    ],
    ids=["empty", "png", "cut", "cut-header", "longer", "huge", "cut-gzip", "damaged-gzip", "huge-gzip", "rank"],
)
def test_broken_files_are_named(tmp_path, data, message):
    file = pair(tmp_path, "train")
    file.write_bytes(data)
    with pytest.raises(InputError, match=f"{file.name} {message}"):
        open_dataset(str(tmp_path))


def test_other_number_of_labels(tmp_path):
    with pytest.raises(InputError, match="holds 4 images, but train-labels-idx1-ubyte 3 labels"):
        open_dataset(str(pair(tmp_path, "train", labels=[1, 2, 3])))


def test_labels_of_two_ranks(tmp_path):
    file = pair(tmp_path, "train")
    write(tmp_path / "train-labels-idx1-ubyte", np.zeros((4, 2), dtype=np.uint8))
    with pytest.raises(InputError, match=r"train-labels-idx1-ubyte has \(4, 2\); expected"):
        open_dataset(str(file))


def test_without_labels(tmp_path):
    pair(tmp_path, "train")
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match=r"has no labels next to it; expected a file such as .*train-labels-idx1-ubyte"):
        open_dataset(str(tmp_path))


def test_labels_given_for_images(tmp_path):
    pair(tmp_path, "train")
    with pytest.raises(InputError, match="contains labels; give the image file next to"):
        open_dataset(str(tmp_path / "train-labels-idx1-ubyte"))


def test_no_images(tmp_path):
    write(tmp_path / "train-images-idx3-ubyte", np.zeros((0, 2, 3), dtype=np.uint8))
    write(tmp_path / "train-labels-idx1-ubyte", np.zeros(0, dtype=np.uint8))
    with pytest.raises(InputError, match=r"\(N,\), N > 0"):
        open_dataset(str(tmp_path))


def test_splits_of_other_sizes(tmp_path):
    pair(tmp_path, "train")
    pair(tmp_path, "test", IMAGES[:, :1])
    with pytest.raises(InputError, match=r"images differ between the files: \(2, 3\) uint8 and \(1, 3\) uint8"):
        open_dataset(str(tmp_path))


def test_two_sets_in_a_folder(tmp_path):
    pair(tmp_path, "emnist-letters-train")
    pair(tmp_path, "emnist-digits-train")
    with pytest.raises(InputError, match="several sets of images named train"):
        open_dataset(str(tmp_path))


def test_name_without_images_in_it(tmp_path):
    write(tmp_path / "digits.bin", IMAGES)
    with pytest.raises(InputError, match="its labels cannot be found; rename both"):
        open_dataset(f"idx:{tmp_path / 'digits.bin'}")


def test_fashion_mnist():
    folder = SHARED / "data" / "fashion-mnist"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    found = open_dataset(str(folder / "t10k-images-idx3-ubyte.gz"))
    assert np.bincount(found.labels).tolist() == [1000] * 10
    assert found.inputs.batch(range(10_000)).shape == (10_000, 1, 28, 28)


def test_images_beyond_memory(tmp_path, monkeypatch):
    pair(tmp_path, "train", np.zeros((4, 50, 50), np.uint8), suffix=".gz")
    monkeypatch.setattr("embedscope.store.limits.free_memory", lambda device: 10_000)
    with pytest.raises(
        InputError, match=r"what it holds would take 10,000 bytes of memory, but half of the free memory is 5,000"
    ):
        open_dataset(str(tmp_path))


def test_split_names_that_are_not_utf8(tmp_path):
    import os

    pair(tmp_path, "test")
    for name in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        file = pair(tmp_path, "other").with_name(f"other-{name}")
        os.rename(file, os.fsencode(tmp_path) + b"/o\xff-" + name.encode())
        (tmp_path / "other-images-idx3-ubyte").unlink(missing_ok=True)
        (tmp_path / "other-labels-idx1-ubyte").unlink(missing_ok=True)
    assert set(open_dataset(str(tmp_path)).split) == {"test", "o\\xff"}
