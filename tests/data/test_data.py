import numpy as np
import pytest
from PIL import Image

from embedscope.data import open_dataset
from embedscope.errors import InputError


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


def test_arrays(tmp_path):
    np.savez(
        tmp_path / "a.npz", X=np.arange(12).reshape(3, 2, 2), y=["b", "a", "b"], ids=["x", "y", "z"], split=["s", "s", "t"]
    )
    found = open_dataset(str(tmp_path / "a.npz"))
    assert found.class_names == ("a", "b")
    assert found.labels.tolist() == [1, 0, 1]
    assert (found.ids, found.split) == (("x", "y", "z"), ("s", "s", "t"))
    assert found.inputs[1].tolist() == [[4, 5], [6, 7]]


def test_no_such_data():
    with pytest.raises(InputError, match="no such data: nowhere"):
        open_dataset("nowhere")


def test_unknown_kind_of_data(tmp_path):
    (tmp_path / "a.docx").write_text("")
    with pytest.raises(InputError, match="is no data that embedscope knows"):
        open_dataset(str(tmp_path / "a.docx"))
