import io
import json

import pytest
from PIL import Image

from embedscope.data import open_dataset
from embedscope.data.dataset import BatchedInputs
from embedscope.errors import InputError, UsageError


def table(folder, text, name="a.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def images(folder, *names):
    for value, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("L", (2, 3), value).save(folder / name)


def test_texts_of_a_csv(tmp_path):
    found = open_dataset(table(tmp_path, 'Text,Label\n"good, very",pos\n\nbad,neg\n"two\nlines",pos\n'))
    assert isinstance(found.inputs, BatchedInputs)
    assert found.inputs.batch(range(3)) == ["good, very", "bad", "two\nlines"]
    assert found.inputs[1] == "bad"
    assert found.class_names == ("neg", "pos")
    assert found.labels.tolist() == [1, 0, 1]
    assert found.ids == ("0", "1", "2")
    assert (found.split, found.notes) == (None, ())


def test_paths_are_relative_to_the_table(tmp_path, monkeypatch):
    images(tmp_path, "in/a.png", "in/b.png")
    monkeypatch.chdir(tmp_path.parent)
    found = open_dataset(table(tmp_path, "path,label,split\nin/b.png,2,Train\nin/a.png,10,test\n"))
    assert found.ids == ("in/b.png", "in/a.png")
    assert found.class_names == ("2", "10")
    assert found.split == ("train", "test")
    assert found.inputs[0].getpixel((0, 0)) == 1


def test_paths_that_repeat_are_numbered(tmp_path):
    images(tmp_path, "a.png")
    assert open_dataset(table(tmp_path, "file\tclass\na.png\tx\na.png\ty\n", "a.tsv")).ids == ("0", "1")


def test_options_name_the_columns(tmp_path):
    location = table(tmp_path, "review,stars,key,part,text\ngood,5,k1,a,x\nbad,1,k2,b,y\n")
    found = open_dataset(f"{location}(text='review', label='stars', id='key', split='part')")
    assert (found.inputs[0], found.class_names, found.ids, found.split) == ("good", ("1", "5"), ("k1", "k2"), ("a", "b"))


def test_json_lines(tmp_path):
    rows = [{"sentence": "a", "label": 1}, {"sentence": "b"}, {"sentence": "c", "label": float("nan")}]
    found = open_dataset(table(tmp_path, "\n\n".join(map(json.dumps, rows)), "a.jsonl"))
    assert found.labels.tolist() == [0, -1, -1]
    assert found.notes == ("2 of 3 rows have no label (missing or negative)",)


@pytest.mark.parametrize(
    ("cells", "names", "labels"),
    [
        (["2.0", "", "10.0"], ("2", "10"), [0, -1, 1]),
        (["-1", "3", "nan"], ("3",), [-1, 0, -1]),
        (["007", "7", "null"], ("007", "7"), [0, 1, -1]),
        (["b ", "a", " b"], ("a", "b"), [1, 0, 1]),
        (["", "", ""], (), [-1, -1, -1]),
    ],
)
def test_labels_as_text(tmp_path, cells, names, labels):
    found = open_dataset(table(tmp_path, "text,label\n" + "".join(f"t,{cell}\n" for cell in cells)))
    assert found.class_names == names
    assert found.labels.tolist() == labels


def test_a_field_of_a_megabyte(tmp_path):
    assert len(open_dataset(table(tmp_path, f"text,label\n{'x' * 2**20},1\n")).inputs[0]) == 2**20


def test_a_byte_order_mark(tmp_path):
    assert open_dataset(table(tmp_path, "\ufefftext,label\na,1\n")).inputs[0] == "a"


def test_fingerprint_changes_with_the_texts(tmp_path):
    prints = [
        open_dataset(table(tmp_path, f"text,label\n{rows}")).fingerprint for rows in ("a,1\nb,1\n", "ab,1\n", "b,1\na,1\n")
    ]
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a\.csv is empty: it has 0 bytes"),
        ("a,label\n1,2\n", r"there are: a, label; specify one, as in .*\(path='COLUMN'\) or .*\(text='COLUMN'\)"),
        ("text,a\n1,2\n", r"no column has a common name for label; there are: text, a; .*\(label='COLUMN'\)"),
        ("text,label,target\n1,2,3\n", "several columns could be the label: label, target"),
        ("text,path,label\n1,2,3\n", "several columns could be the path or text: path, text"),
        ("text,label\n", "has no rows"),
        ("text,label\na,1\nb\n", "line 3 has 1 field, the header has 2"),
        ('text,label\n"a,1\n', "line 2 cannot be read"),
        ("text,label,label\na,1,2\n", "several columns named 'label'"),
        ("text,label\na,1\n,2\n", r"row 1 of text \(counted from 0\) is empty"),
        ("text,label,id\na,1,x\nb,2,x\n", "ids must be unique, but 'x' occurs in 2 rows"),
        ("text,label,id\na,1,\n", "row 0 of id .* is empty"),
        ("path,label\nno.png,1\nnone.png,2\n", "2 of 2 files listed in .* do not exist, starting with .*no.png"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        open_dataset(table(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a", "label": 1}\n{oops}\n', "line 2 is not JSON"),
        ('["a", 1]\n', "line 1 is a list; expected one object"),
        ("[" * 100_000, "line 1 is not JSON"),
        ('{"text": "a", "label": [1]}\n', "row 0 of label .* holds a list"),
        ('{"text": "a", "label": 0.5}\n', "labels must be integers or text, got float64"),
        ('{"text": 1, "label": 1}\n', "row 0 of text .* holds a int"),
        ('{"text": "\\ud800", "label": 1}\n', "text are not UTF-8 text"),
    ],
)
def test_json_lines_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        open_dataset(table(tmp_path, text, "a.jsonl"))


def test_no_utf8(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\nä,1\n".encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8 text"):
        open_dataset(str(tmp_path / "a.csv"))


def test_option_with_a_column_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="has no label column 'lable'; did you mean 'label'"):
        open_dataset(table(tmp_path, "text,label\na,1\n") + "(label='lable')")


def test_path_and_text(tmp_path):
    with pytest.raises(UsageError, match="give only one of the options path and text"):
        open_dataset(table(tmp_path, "a,b,label\na,b,1\n") + "(path='a', text='b')")


def test_option_that_there_is_not(tmp_path):
    with pytest.raises(UsageError, match="table has no option 'lable'; did you mean 'label'"):
        open_dataset(table(tmp_path, "text,label\na,1\n") + "(lable='label')")


def test_other_suffix(tmp_path):
    with pytest.raises(InputError, match=r"is not a supported table; expected one of .csv"):
        open_dataset("table:" + table(tmp_path, "", "a.xlsx"))


def test_table_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"a.csv cannot be read: No such file"):
        open_dataset(f"table:{tmp_path / 'a.csv'}")


def png(value):
    buffer = io.BytesIO()
    Image.new("L", (2, 3), value).save(buffer, "png")
    return buffer.getvalue()


def parquet(folder, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), folder / "a.parquet")
    return str(folder / "a.parquet")


def test_parquet_of_texts(tmp_path):
    found = open_dataset(parquet(tmp_path, text=["a", "b", "c"], label=[1, None, 0]))
    assert found.inputs.batch([2, 0]) == ["c", "a"]
    assert (found.class_names, found.labels.tolist()) == (("0", "1"), [1, -1, 0])


def test_parquet_of_images(tmp_path):
    rows = [{"bytes": png(1), "path": "x.png"}, {"bytes": png(2), "path": "y.png"}]
    found = open_dataset(parquet(tmp_path, picture=rows, label=["a", "b"]))
    assert found.inputs[1].getpixel((0, 0)) == 2
    assert found.ids == ("x.png", "y.png")


def test_parquet_of_bytes(tmp_path):
    found = open_dataset(parquet(tmp_path, image=[png(1), png(2)], label=[0, 1]))
    assert found.inputs[0].getpixel((0, 0)) == 1
    assert found.ids == ("0", "1")


def test_parquet_of_images_beside_it(tmp_path):
    images(tmp_path, "a.png")
    found = open_dataset(parquet(tmp_path, image=[{"bytes": None, "path": "a.png"}], label=[0]))
    assert found.inputs[0].size == (2, 3)


def test_parquet_with_an_image_left_out(tmp_path):
    with pytest.raises(InputError, match=r"row 1 of image \(counted from 0\) has no image"):
        open_dataset(parquet(tmp_path, image=[png(1), None], label=[0, 1]))


def test_parquet_with_a_broken_image(tmp_path):
    with pytest.raises(InputError, match=r"cannot read the image in row 0 of .*a.parquet"):
        open_dataset(parquet(tmp_path, image=[b"no image"], label=[0])).inputs[0]


def test_no_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match=r"a.parquet cannot be read as parquet"):
        open_dataset(table(tmp_path, "text,label\n", "a.parquet"))


def test_semicolons(tmp_path):
    (tmp_path / "a.csv").write_text("text;label\none, two;a\nthree;b\n")
    found = open_dataset(str(tmp_path / "a.csv"))
    assert (found.inputs[0], found.class_names) == ("one, two", ("a", "b"))
