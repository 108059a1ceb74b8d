import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from embedscope.data import open_dataset
from embedscope.data.arrays import ArrayRows
from embedscope.data.dataset import BatchedInputs
from embedscope.errors import InputError, UsageError


def image(path, value=0, mode="L", size=(2, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def test_class_folders(tmp_path):
    for name in ("dog/b.png", "cat/a.png", "cat/deep/c.PNG"):
        image(tmp_path / name)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    found = open_dataset(str(tmp_path))
    assert found.class_names == ("cat", "dog")
    assert found.ids == ("cat/a.png", "cat/deep/c.PNG", "dog/b.png")
    assert found.labels.tolist() == [0, 0, 1]
    assert found.split is None
    assert found.inputs[2].size == (2, 3)


def test_split_folders(tmp_path):
    for name in ("train/cat/a.png", "train/dog/a.png", "test/dog/a.png", "test/eel/a.png"):
        image(tmp_path / name)
    found = open_dataset(str(tmp_path))
    assert found.class_names == ("cat", "dog", "eel")
    assert found.split == ("test", "test", "train", "train")
    assert found.labels.tolist() == [1, 2, 0, 1]


def test_fingerprint_changes_with_the_files(tmp_path):
    image(tmp_path / "cat" / "a.png")
    first = open_dataset(str(tmp_path)).fingerprint
    assert open_dataset(str(tmp_path)).fingerprint == first
    image(tmp_path / "cat" / "b.png")
    assert open_dataset(str(tmp_path)).fingerprint != first


def test_split_names_are_lower_case(tmp_path):
    for name in ("Train/cat/a.png", "Test/cat/a.png"):
        image(tmp_path / name)
    assert open_dataset(str(tmp_path)).split == ("test", "train")


def test_names_that_are_no_utf8(tmp_path):
    import os

    folder = os.fsencode(tmp_path) + b"/cat\xff"
    os.mkdir(folder)
    image(tmp_path / "ok.png")
    os.rename(tmp_path / "ok.png", folder + b"/\xfe.png")
    found = open_dataset(str(tmp_path))
    assert found.class_names == ("cat\\xff",)
    assert found.ids == ("cat\\xff/\\xfe.png",)
    assert found.inputs[0].size == (2, 3)


def test_folder_without_images(tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match="has no images in class folders"):
        open_dataset(str(tmp_path))


def test_unreadable_image_is_named(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_text("no image")
    with pytest.raises(InputError, match=r"cannot read the image .*cat/a.png"):
        open_dataset(str(tmp_path)).inputs[0]


def test_class_folder_without_images_is_noted(tmp_path):
    image(tmp_path / "cat" / "a.png")
    (tmp_path / "eel").mkdir()
    found = open_dataset(str(tmp_path))
    assert found.class_names == ("cat", "eel")
    assert found.notes == ("1 of 2 class folders have no images: eel",)


def test_hidden_and_system_files_are_no_samples(tmp_path):
    left = ["cat/.ipynb_checkpoints/a.png", "cat/._a.png", "cat/.DS_Store", "__MACOSX/cat/a.png", "cat/Thumbs.db", ".git/a.png"]
    for name in ("cat/a.png", *left):
        image(tmp_path / name) if name.endswith(".png") else (tmp_path / name).write_text("")
    found = open_dataset(str(tmp_path))
    assert (found.class_names, found.ids) == (("cat",), ("cat/a.png",))
    assert found.notes == ("left out: hidden or system files and folders (6): .git, __MACOSX, cat/.DS_Store, ...",)


def test_what_is_left_out_is_counted(tmp_path):
    for name in ("cat/a.png", "loose.png"):
        image(tmp_path / name)
    for name in ("cat/a.txt", "cat/b.txt", "cat/c.npy", "README"):
        (tmp_path / name).write_text("")
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "cat" / "again").symlink_to(tmp_path)
    found = open_dataset(str(tmp_path))
    assert found.ids == ("cat/a.png",)
    assert found.notes == (
        "left out: files that are not images (4; .txt: 2, without a suffix: 1, .npy: 1): README, cat/a.txt, cat/b.txt, ...",
        "left out: broken links (2): cat/again, cat/gone.png",
        "left out: images outside the class folders (1): loose.png",
    )


def test_links_to_folders_are_followed(tmp_path):
    image(tmp_path / "far" / "a.png")
    (tmp_path / "data" / "cat").mkdir(parents=True)
    (tmp_path / "data" / "cat" / "more").symlink_to(tmp_path / "far")
    assert open_dataset(str(tmp_path / "data")).ids == ("cat/more/a.png",)


@pytest.mark.parametrize("names", [("training_set", "Test-Set"), ("Training", "test"), ("train", "valid")])
def test_splits_under_other_names(tmp_path, names):
    for name in names:
        image(tmp_path / name / "cat" / "a.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.txt").write_text("")
    found = open_dataset(str(tmp_path))
    assert found.class_names == ("cat",)
    assert set(found.split) == {name.lower().replace("_set", "").replace("-set", "") for name in names}
    assert found.notes[1].startswith("left out: folders next to the splits (1): annotations")


def layout(folder, *names):
    for name in names:
        image(folder / name)
    return str(folder)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/cat/a.png", "test/cat/a.png", "masks/a.png"), r"named like splits \(test, train\) next to others .*\(masks\)"),
        (("train/cat/a.png", "eval/cat/a.png"), r"\(splits=\['train'\]\), or .*\(splits=\[\]\) if all are classes"),
        (
            ("train/n1/images/a.png", "val/images/a.png"),
            r"val/images is named like a folder of all .*\(exclude=\['images",
        ),
        (("images/a.png", "masks/a.png"), r"images is named like a folder of all images, not like a class"),
        (
            ("all/cat/a.png", "all/dog/a.png"),
            r"has a single class folder, and all .*; give .*all, or .*\(exclude=\[\]\)",
        ),
        (("images/cat/a.png", "images/dog/a.png"), r"has a single class folder, and .*; give .*images, or"),
        (
            ("train2017/cat/a.png", "train2017/dog/a.png", "val2017/cat/a.png", "val2017/dog/a.png"),
            r"train2017, val2017 contain the same folders \(cat, dog\) as if they were .*\(splits=\['train2017', 'val2017'\]\)",
        ),
        (("train/a.png", "test/a.png"), "has images directly in the splits test, train, without class folders; put"),
    ],
)
def test_trees_that_can_be_understood_in_several_ways(tmp_path, names, message):
    with pytest.raises(InputError, match=message):
        open_dataset(layout(tmp_path, *names))


def test_a_class_may_be_called_like_a_split(tmp_path):
    found = open_dataset(layout(tmp_path, "train/a.png", "plane/a.png"))
    assert (found.class_names, found.split) == (("plane", "train"), None)


@pytest.mark.parametrize(
    ("options", "classes", "splits"),
    [
        ("splits=['train', 'holdout']", ("cat", "dog"), {"train", "holdout"}),
        ("splits=['train']", ("cat",), {"train"}),
        ("splits=[]", ("holdout", "train"), None),
        ("splits=['holdout'], exclude=['dog']", ("cat",), {"holdout"}),
    ],
)
def test_options_say_what_a_tree_is(tmp_path, options, classes, splits):
    place = layout(tmp_path, "train/cat/a.png", "holdout/dog/a.png", "holdout/cat/a.png")
    found = open_dataset(f"{place}({options})")
    assert (found.class_names, found.split and set(found.split)) == (classes, splits)


def test_classes_that_hold_the_same_folders(tmp_path):
    path = layout(tmp_path, "cat/left/a.png", "cat/right/a.png", "dog/left/a.png", "dog/right/a.png")
    assert open_dataset(f"{path}(exclude=[])").class_names == ("cat", "dog")


def test_excluded_folders_are_counted(tmp_path):
    found = open_dataset(layout(tmp_path, "train/n1/images/a.png", "val/images/a.png") + "(exclude=['images'])")
    assert found.ids == ("train/n1/images/a.png",)
    assert found.notes == ("left out: images outside the class folders (1): val/images/a.png",)
    assert open_dataset(f"{tmp_path}(exclude=[])").class_names == ("images", "n1")


@pytest.mark.parametrize("options", ["splits='train'", "exclude=[1]"])
def test_options_of_folders_that_are_no_lists(tmp_path, options):
    with pytest.raises(UsageError, match="must be a list of folder names, as"):
        open_dataset(layout(tmp_path, "cat/a.png") + f"({options})")


def test_a_split_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no folder 'tain'; did you mean 'train'"):
        open_dataset(layout(tmp_path, "train/cat/a.png") + "(splits=['tain'])")


def test_images_without_class_folders(tmp_path):
    image(tmp_path / "a.png")
    with pytest.raises(InputError, match="contains images directly, but no class folders"):
        open_dataset(str(tmp_path))


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="none is not a folder; expected"):
        open_dataset(f"folder:{tmp_path / 'none'}")


def test_image_with_too_many_pixels(tmp_path, monkeypatch):
    image(tmp_path / "cat" / "a.png", size=(20, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"cannot read the image .*a.png: .*decompression bomb"):
        open_dataset(str(tmp_path)).inputs[0]


def png_of_16_bits(kind, values):
    """A PNG of 2 x 1 pixels with 16 bits per channel, which Pillow does not write in color."""
    size = struct.pack(">II", 2, 1) + bytes([16, kind, 0, 0, 0])
    row = b"\0" + struct.pack(f">{len(values)}H", *values) * 2
    parts = ((b"IHDR", size), (b"IDAT", zlib.compress(row)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(("kind", "values"), [(2, (300, 300, 300)), (6, (1, 2, 3, 4)), (4, (300, 65535))])
def test_images_of_16_bits_that_pillow_rounds(tmp_path, kind, values):
    image(tmp_path / "a" / "one.png")
    (tmp_path / "a" / "two.png").write_bytes(png_of_16_bits(kind, values))
    with pytest.raises(InputError, match=r"two.png has several 16-bit channels, which Pillow reads as 8"):
        open_dataset(str(tmp_path)).inputs[1]


def test_gray_images_of_16_bits(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.png").write_bytes(png_of_16_bits(0, (300,)))
    assert open_dataset(str(tmp_path)).inputs[0].getpixel((0, 0)) == 300


def test_images_can_be_looped_over(tmp_path):
    image(tmp_path / "cat" / "a.png")
    assert len(list(open_dataset(str(tmp_path)).inputs)) == 1


def test_arrays(tmp_path):
    np.savez(
        tmp_path / "a.npz", X=np.arange(12).reshape(3, 2, 2), y=["b", "a", "b"], ids=["x", "y", "z"], split=["s", "s", "t"]
    )
    found = open_dataset(str(tmp_path / "a.npz"))
    assert found.class_names == ("a", "b")
    assert found.labels.tolist() == [1, 0, 1]
    assert (found.ids, found.split) == (("x", "y", "z"), ("s", "s", "t"))
    assert found.inputs[1].tolist() == [[4, 5], [6, 7]]


def test_arrays_of_text(tmp_path):
    np.savez(tmp_path / "a.npz", X=["one", "two", "three"], y=[1, -1, 0], ids=["x", "y", "z"])
    found = open_dataset(str(tmp_path / "a.npz"))
    assert isinstance(found.inputs, BatchedInputs)
    assert found.inputs.batch([2, 0]) == ["three", "one"]
    assert found.inputs[1] == "two"
    assert (found.class_names, found.labels.tolist()) == (("0", "1"), [1, -1, 0])
    assert found.notes == ("1 of 3 rows has no label (missing or negative)",)


def test_arrays_of_text_without_labels(tmp_path):
    np.savez(tmp_path / "a.npz", X=["one", "two"])
    with pytest.raises(InputError, match="has no y; it holds X; an archive needs"):
        open_dataset(str(tmp_path / "a.npz"))


def test_arrays_of_text_of_other_length(tmp_path):
    np.savez(tmp_path / "a.npz", X=["one", "two"], y=[1])
    with pytest.raises(InputError, match="X has 2 rows, but y has shape"):
        open_dataset(str(tmp_path / "a.npz"))


def test_arrays_of_text_with_equal_ids(tmp_path):
    np.savez(tmp_path / "a.npz", X=["one", "two"], y=[1, 2], ids=["a", "a"])
    with pytest.raises(InputError, match="ids must be unique; 1 of 2 are repeated"):
        open_dataset(str(tmp_path / "a.npz"))


def test_arrays_of_objects(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.array(["one", None], dtype=object), y=[1, 2])
    with pytest.raises(InputError, match="holds Python objects, which are never unpickled"):
        open_dataset(str(tmp_path / "a.npz"))


def test_batch_of_a_range_is_the_memory_of_the_array():
    values = np.arange(12.0).reshape(6, 2)
    inputs = ArrayRows(values)
    assert isinstance(inputs, BatchedInputs)
    values[2] = -1
    batch = inputs.batch(range(1, 3))
    values[1] = -2
    assert batch.tolist() == [[-2, -2], [-1, -1]]
    assert inputs.batch([5, 0]).tolist() == [[10, 11], [0, 1]]
    assert inputs.batch(range(4, 0, -2)).tolist() == [[8, 9], [-1, -1]]


@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">i2"])
def test_arrays_that_torch_does_not_take_as_they_are(dtype):
    values = np.arange(6, dtype=dtype).reshape(3, 2)
    values.flags.writeable = False
    inputs = ArrayRows(values[::-1])
    assert torch.equal(inputs[0], torch.tensor([4, 5], dtype=inputs[0].dtype))
    assert inputs.batch(range(2)).tolist() == [[4, 5], [2, 3]]


def test_no_such_data():
    with pytest.raises(InputError, match="no such data: nowhere"):
        open_dataset("nowhere")


def test_unknown_kind_of_data(tmp_path):
    (tmp_path / "a.docx").write_text("")
    with pytest.raises(InputError, match="is not a recognized data set:"):
        open_dataset(str(tmp_path / "a.docx"))
