import pytest
from PIL import Image

from embedscope.data import open_dataset
from embedscope.data.dataset import BatchedInputs
from embedscope.errors import InputError, UsageError

datasets = pytest.importorskip("datasets")
# Versions before 4.4 leave the tables open that they read with pandas.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Nothing is written to the user's cache, and nothing asks the network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def save(path, rows, **features):
    features = datasets.Features(features) if features else None
    if isinstance(rows, datasets.DatasetDict):
        rows.save_to_disk(path)
    else:
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(path)
    return str(path)


CLASSES = datasets.ClassLabel(names=["dog", "cat"])


def pictures(*values):
    return [Image.new("L", (2, 3), value) for value in values]


def test_saved_images(tmp_path, capfd):
    location = save(tmp_path / "a", {"picture": pictures(5, 6), "label": [1, -1]}, picture=datasets.Image(), label=CLASSES)
    capfd.readouterr()
    found = open_dataset(location)
    assert found.inputs[1].getpixel((0, 0)) == 6
    assert len(list(found.inputs)) == 2
    assert found.class_names == ("dog", "cat")
    assert found.labels.tolist() == [1, -1]
    assert (found.ids, found.split) == (("0", "1"), None)
    assert found.notes == ("1 of 2 rows has no label (missing or negative)",)
    assert capfd.readouterr() == ("", "")


def splits(path):
    part = datasets.Dataset.from_dict
    return save(
        path, datasets.DatasetDict(train=part({"text": ["a", "b"], "y": ["u", "v"]}), test=part({"text": ["c"], "y": ["u"]}))
    )


def test_saved_splits(tmp_path):
    found = open_dataset(splits(tmp_path / "a"))
    assert isinstance(found.inputs, BatchedInputs)
    assert found.inputs.batch(range(1, 3)) == ["b", "c"]
    assert found.inputs[2] == "c"
    assert found.ids == ("train/0", "train/1", "test/0")
    assert found.split == ("train", "train", "test")
    assert (found.class_names, found.labels.tolist()) == (("u", "v"), [0, 1, 0])


def test_one_split(tmp_path):
    found = open_dataset(splits(tmp_path / "a") + "(split='test')")
    assert (found.ids, found.split, found.inputs[0]) == (("0",), None, "c")


def test_split_that_there_is_not(tmp_path):
    with pytest.raises(InputError, match="no split 'tests'; did you mean 'test'"):
        open_dataset(splits(tmp_path / "a") + "(split='tests')")


def test_fingerprint_changes_with_the_texts(tmp_path):
    prints = [open_dataset(save(tmp_path / name, {"text": [name], "label": [1]})).fingerprint for name in "ab"]
    assert prints[0] != prints[1]
    assert prints[0] == open_dataset(str(tmp_path / "a")).fingerprint


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "text,label\na,1\nb,0\n"),
        ("a.tsv", "text\tlabel\na\t1\nb\t0\n"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n'),
    ],
)
def test_files(tmp_path, name, text, capfd):
    (tmp_path / name).write_text(text)
    found = open_dataset(f"hf:{tmp_path / name}")
    assert found.inputs.batch([1, 0]) == ["b", "a"]
    assert (found.class_names, found.labels.tolist(), found.split) == (("0", "1"), [1, 0], None)
    assert capfd.readouterr() == ("", "")


def test_folder_of_files(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name},1\n")
    found = open_dataset(f"hf:{tmp_path}")
    assert set(found.split) == {"train", "test"}
    assert sorted(found.ids) == ["test/0", "train/0"]


def test_bytes_are_images(tmp_path):
    Image.new("L", (2, 3), 7).save(tmp_path / "a.png")
    rows = {"image": [{"bytes": (tmp_path / "a.png").read_bytes(), "path": None}], "label": [0]}
    assert open_dataset(save(tmp_path / "a", rows)).inputs[0].getpixel((0, 0)) == 7


def test_image_that_cannot_be_read(tmp_path):
    rows = {"image": [{"bytes": b"no image", "path": None}], "label": [0]}
    with pytest.raises(InputError, match="cannot read the image in row 0 of hf:"):
        open_dataset(save(tmp_path / "a", rows)).inputs[0]


def test_progress_bars_are_left_as_they_were(tmp_path):
    datasets.enable_progress_bars()
    before = datasets.logging.get_verbosity()
    open_dataset(splits(tmp_path / "a"))
    assert not datasets.are_progress_bars_disabled()
    assert datasets.logging.get_verbosity() == before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": ["x"], "label": [1]}, "no column has a common name for image or text; there are: a, label"),
        ({"text": ["x"], "a": [1]}, r"no column has a common name for label; .*\(label='COLUMN'\)"),
        ({"text": ["x"], "review": ["x"], "label": [1]}, "several columns could be the image or text: text, review"),
        ({"text": ["x", None], "label": [1, 2]}, r"row 1 of text \(counted from 0\) is empty"),
        ({"text": ["x"], "label": [[1]]}, "row 0 of label .* holds a list"),
    ],
)
def test_data_that_cannot_be_used(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        open_dataset(save(tmp_path / "a", rows))


def test_no_rows(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,1\n")
    with pytest.raises(InputError, match=r"has no rows|corresponds to no data"):
        open_dataset(f"hf:{tmp_path / 'a.csv'}(split='train[:0]')")


def test_column_of_another_type(tmp_path):
    with pytest.raises(InputError, match=r"the column label contains .* instead of texts"):
        open_dataset(save(tmp_path / "a", {"text": ["x"], "label": [1]}) + "(text='label')")


def test_image_and_text(tmp_path):
    with pytest.raises(UsageError, match="give only one of the options image and text"):
        open_dataset(save(tmp_path / "a", {"text": ["x"], "label": [1]}) + "(text='text', image='text')")


def test_name_that_is_not_there():
    with pytest.raises(InputError, match=r"hf:no-such/set cannot be loaded: .*give the name of a data set on the Hub"):
        open_dataset("hf:no-such/set")


def test_path_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no such data: hf:.*none is not a folder, a file, or a name on the Hub"):
        open_dataset(f"hf:{tmp_path / 'none'}")


def test_saved_data_that_is_damaged(tmp_path):
    location = save(tmp_path / "a", {"text": ["x"], "label": [1]})
    next((tmp_path / "a").glob("*.arrow")).write_bytes(b"no arrow")
    with pytest.raises(InputError, match="cannot be loaded: Arrow"):
        open_dataset(location)


def test_file_of_another_kind(tmp_path):
    (tmp_path / "a.docx").write_text("")
    with pytest.raises(InputError, match=r"is not a supported file; expected one of .csv"):
        open_dataset(f"hf:{tmp_path / 'a.docx'}")
