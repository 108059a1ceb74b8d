import numpy as np
import pytest
from PIL import Image

from embedscope.data import open_dataset
from embedscope.errors import InputError, UsageError
from tests.data.test_idx import IMAGES, pair

pytest.importorskip("torchvision")


def mnist(folder, name="FashionMNIST"):
    raw = folder / name / "raw"
    raw.mkdir(parents=True)
    pair(raw, "train")
    pair(raw, "t10k", IMAGES[:1] + 100, [9])
    return f"torchvision:{name}(root='{folder}'"


def test_train_and_test_come_together(tmp_path):
    found = open_dataset(mnist(tmp_path) + ")")
    assert found.labels.tolist() == [3, 1, 3, 0, 9]
    assert found.class_names[9] == "Ankle boot"
    assert found.ids == ("train/0", "train/1", "train/2", "train/3", "test/0")
    assert found.split == ("train",) * 4 + ("test",)
    assert found.inputs[4].getpixel((0, 0)) == 100
    assert len(list(found.inputs)) == len(found.inputs) == 5


def test_one_part(tmp_path):
    found = open_dataset(mnist(tmp_path) + ", train=False)")
    assert (found.labels.tolist(), found.ids, found.split) == ([9], ("0",), None)


def test_fingerprint_changes_with_the_images(tmp_path):
    first = open_dataset(mnist(tmp_path / "a") + ")").fingerprint
    assert open_dataset(mnist(tmp_path / "b") + ")").fingerprint == first
    pair(tmp_path / "b" / "FashionMNIST" / "raw", "train", IMAGES + 1)
    assert open_dataset(f"torchvision:FashionMNIST(root='{tmp_path / 'b'}')").fingerprint != first


def test_labels_by_looking_at_every_row():
    found = open_dataset("torchvision:FakeData(size=6, image_size=(3, 4, 5), num_classes=3)")
    assert len(found.labels) == len(found.inputs) == 6
    assert set(found.class_names) <= {"0", "1", "2"}
    assert found.inputs[0].size == (5, 4)


def test_files_in_folders(tmp_path):
    for name in ("eel", "cat"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (2, 3)).save(tmp_path / name / "a.png")
    found = open_dataset(f"torchvision:ImageFolder(root='{tmp_path}')")
    assert (found.class_names, found.labels.tolist()) == (("cat", "eel"), [0, 1])
    (tmp_path / "eel" / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot read row 1 of ImageFolder"):
        found.inputs[1]


def test_unknown_class():
    with pytest.raises(UsageError, match="torchvision has no data set 'FashionMIST'; did you mean 'FashionMNIST'"):
        open_dataset("torchvision:FashionMIST(root='a')")


def test_no_root():
    with pytest.raises(UsageError, match="torchvision:MNIST needs root"):
        open_dataset("torchvision:MNIST")


def test_options_of_the_class_above():
    with pytest.raises(UsageError, match="torchvision:EMNIST needs split"):
        open_dataset("torchvision:EMNIST(root='a', train=True)")


def test_unknown_option(tmp_path):
    with pytest.raises(UsageError, match="torchvision:FashionMNIST has no option 'trian'; did you mean 'train'"):
        open_dataset(mnist(tmp_path) + ", trian=True)")


def test_transform(tmp_path):
    with pytest.raises(UsageError, match="takes no transform: image preparation is set by the model"):
        open_dataset(mnist(tmp_path) + ", transform='a')")


def test_data_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match=r"torchvision:MNIST cannot be opened in root=.*: RuntimeError: Dataset not found"):
        open_dataset(f"torchvision:MNIST(root='{tmp_path}')")


def test_nothing_is_downloaded_unless_asked(tmp_path, monkeypatch):
    from torchvision.datasets import SEMEION

    monkeypatch.setattr(SEMEION, "download", lambda self: pytest.fail("it downloads"))
    with pytest.raises(InputError, match="torchvision:SEMEION cannot be opened"):
        open_dataset(f"torchvision:SEMEION(root='{tmp_path}')")


def own(monkeypatch, **values):
    """Put a class of two gray images into torchvision.datasets, with the targets and names that are given."""
    from torchvision import datasets

    class Own(datasets.VisionDataset):
        def __init__(self, size=2):
            vars(self).update(values, size=size)

        def __len__(self):
            return self.size

        def __getitem__(self, index):
            return Image.new("L", (2, 3)), values["rows"][index]

    monkeypatch.setattr(datasets, "Own", Own, raising=False)


def test_names_that_are_synonyms_or_repeat(monkeypatch):
    own(monkeypatch, classes=[("crane", "bird"), "maillot", "maillot"], targets=[2, 0])
    found = open_dataset("torchvision:Own")
    assert found.class_names == ("crane, bird", "maillot (1)", "maillot (2)")
    assert found.labels.tolist() == [2, 0]


def test_labels_that_are_missing(monkeypatch):
    own(monkeypatch, _samples=[("a", None), ("b", 4)])
    found = open_dataset("torchvision:Own")
    assert (found.class_names, found.labels.tolist()) == (("4",), [-1, 0])
    assert found.notes == ("1 of 2 rows has no label (missing or negative)",)


def test_targets_that_are_no_numbers(monkeypatch):
    own(monkeypatch, targets=["a", "b"], rows=[{"box": 1}, {"box": 2}])
    with pytest.raises(InputError, match=r"torchvision:Own has rows without a class number, or .* a target is dict"):
        open_dataset("torchvision:Own")


def test_no_rows(monkeypatch):
    own(monkeypatch)
    with pytest.raises(InputError, match=r"torchvision:Own has no rows with {'size': 0}"):
        open_dataset("torchvision:Own(size=0)")


def test_images_of_more_than_8_bits_are_not_clipped(tmp_path):
    (tmp_path / "cat").mkdir()
    Image.fromarray(np.full((2, 2), 1000, np.uint16)).save(tmp_path / "cat" / "1.png")
    Image.new("L", (2, 2), 7).save(tmp_path / "cat" / "2.png")
    found = open_dataset(f"torchvision:ImageFolder(root='{tmp_path}')")
    assert found.inputs[0].getpixel((0, 0)) == 1000
    assert found.inputs[1].getpixel((0, 0)) == (7, 7, 7)
    assert open_dataset(f"torchvision:ImageFolder(root='{tmp_path}')").fingerprint == found.fingerprint


def test_hidden_files_are_no_samples(tmp_path):
    for name in ("cat/a.png", "cat/._a.png", "cat/.ipynb_checkpoints/a.png"):
        (tmp_path / ".data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(tmp_path / ".data" / name)
    assert len(open_dataset(f"torchvision:ImageFolder(root='{tmp_path / '.data'}')").inputs) == 1
