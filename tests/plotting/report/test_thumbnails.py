"""Thumbnails: of the images that the features are from, if they are there and are still the same."""

import base64
import os
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from embedscope.data import open_dataset
from embedscope.plotting.report import thumbnails
from embedscope.plotting.report.thumbnails import make_thumbnails
from embedscope.store.features import FeatureSet
from embedscope.store.provenance import DataOrigin, Provenance


@pytest.fixture
def photos(tmp_path):
    """Six images in two classes, each of one gray that tells which it is."""
    for place in range(6):
        folder = tmp_path / "photos" / "ab"[place % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 60), (40 * place,) * 3).save(folder / f"{place}.png")
    return tmp_path / "photos"


def features(location, fingerprint, ids):
    provenance = Provenance(data=DataOrigin(spec=str(location), fingerprint=fingerprint))
    labels = np.zeros(len(ids), dtype=np.int64)
    return FeatureSet(
        "a", "a.h5", "l", torch.zeros(len(ids), 2), labels, ("a",), np.array(ids, dtype=object), provenance=provenance
    )


def opened(photos):
    data = open_dataset(str(photos))
    return features(photos, data.fingerprint, data.ids), data


def test_images_at_hand(photos):
    found, data = opened(photos)
    drawn = np.array([0, 2, 5])
    pictures, text = make_thumbnails(found, drawn, [None])
    assert text == f"images of 3 of 3 samples, from {photos}"
    for place, encoded in pictures.items():
        with Image.open(BytesIO(base64.b64decode(encoded))) as image:
            assert image.format == "WEBP"
            assert image.size == (48, 36)
            gray = int(data.ids[drawn[place]][2]) * 40
            np.testing.assert_allclose(np.asarray(image.convert("L")), gray, atol=3)


def test_the_least_well_placed_come_first(photos, monkeypatch):
    monkeypatch.setattr(thumbnails, "MOST", 2)
    found, _ = opened(photos)
    values = np.array([0.5, 0.4, -0.9, 0.3, 0.2, 0.1])
    assert 2 in make_thumbnails(found, np.arange(6), [None, values])[0]
    assert len(make_thumbnails(found, np.arange(6), [values])[0]) == 2


def test_bytes_are_bounded(photos, monkeypatch):
    monkeypatch.setattr(thumbnails, "MOST_BYTES", 1)
    assert len(make_thumbnails(opened(photos)[0], np.arange(6), [])[0]) == 1


def test_an_image_that_is_gone_is_left_out(photos):
    found, data = opened(photos)
    first = photos / data.ids[0]
    first.write_bytes(b"x" * first.stat().st_size)  # of the same size, so the fingerprint is the same
    assert sorted(make_thumbnails(found, np.arange(6), [])[0]) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("", "the features do not record their data set"),
        ("gone/photos", "gone/photos is not on this machine"),
        ("hf:somebody/photos", "hf:somebody/photos is not on this machine"),
        ("torchvision:CIFAR10(root='gone')", "is not on this machine"),
    ],
)
def test_not_at_hand(location, reason):
    pictures, text = make_thumbnails(features(location, "", ["a"]), np.arange(1), [])
    assert pictures is None
    assert reason in text


def test_data_that_changed(photos):
    found, _ = opened(photos)
    Image.new("RGB", (8, 8)).save(photos / "a" / "another.png")
    pictures, text = make_thumbnails(found, np.arange(6), [])
    assert pictures is None
    assert "has changed since" in text


def test_data_without_pictures(tmp_path):
    table = tmp_path / "reviews.csv"
    table.write_text("text,label\nfine,good\npoor,bad\n")
    data = open_dataset(str(table))
    pictures, text = make_thumbnails(features(table, data.fingerprint, data.ids), np.arange(2), [])
    assert pictures is None
    assert "contains no pictures" in text


# ---- where to look


def test_a_named_folder_is_looked_in(photos, tmp_path):
    found = features("", "", ["a/0.png", "b/1.png", "a/none.png"])
    pictures, text = make_thumbnails(found, np.arange(3), [], str(photos))
    assert sorted(pictures) == [0, 1]
    assert text == f"images of 2 of 3 samples, from {photos}"


@pytest.mark.parametrize(
    "name", ["../secret.png", "/{root}/secret.png", "a/link.png", "a/pipe.png", "a/huge.png", "a\0b", "x" * 5000]
)
def test_ids_do_not_lead_out_of_a_named_folder(photos, tmp_path, monkeypatch, name):
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (photos / "a" / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(photos / "a" / "pipe.png")
    (photos / "a" / "huge.png").write_bytes(b"x" * 2000)
    monkeypatch.setattr(thumbnails, "MOST_IMAGE_BYTES", 1000)
    found = features("", "", [name.replace("{root}", str(tmp_path))])
    assert make_thumbnails(found, np.arange(1), [], str(photos))[0] is None


def test_a_named_table_is_looked_in(photos, tmp_path):
    table = tmp_path / "photos.csv"
    table.write_text("path,label\nphotos/a/0.png,a\nphotos/b/1.png,b\n")
    pictures, _ = make_thumbnails(features("", "", open_dataset(str(table)).ids), np.arange(2), [], str(table))
    assert sorted(pictures) == [0, 1]


@pytest.mark.parametrize("location", ["/", "folder:/", "/proc/self", "/dev/null", "folder:/proc/self/fd", "/sys"])
def test_places_of_the_system_are_not_searched(location, monkeypatch):
    monkeypatch.setattr(thumbnails, "open_dataset", lambda location: pytest.fail(f"{location} was opened"))
    pictures, text = make_thumbnails(features(location, "", ["a"]), np.arange(1), [])
    assert pictures is None
    assert "is a system directory" in text


def test_only_so_many_entries_are_looked_at(photos, monkeypatch):
    found, _ = opened(photos)
    monkeypatch.setattr(thumbnails, "MOST_ENTRIES", 7)
    pictures, text = make_thumbnails(found, np.arange(6), [])
    assert pictures is None
    assert text == f"no images: {photos} contains more than 7 files and folders"
    assert make_thumbnails(found, np.arange(6), [], str(photos))[0]


def test_a_link_to_another_folder_is_not_followed(photos):
    found, _ = opened(photos)
    (photos / "c").symlink_to("/")
    assert "contains a link to another folder, c" in make_thumbnails(found, np.arange(6), [])[1]


def test_a_large_file_is_not_read(tmp_path, monkeypatch):
    np.savez(tmp_path / "d.npz", X=np.zeros((4, 3)), y=[0, 1, 0, 1])
    monkeypatch.setattr(thumbnails, "MOST_FILE_BYTES", 10)
    assert "is not a file of at most" in make_thumbnails(features(tmp_path / "d.npz", "", ["0"]), np.arange(1), [])[1]


def test_sources_that_are_more_than_files_have_to_be_named(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    (photos.parent / "CIFAR10").mkdir()
    found = features("torchvision:CIFAR10(root='.')", "", ["0"])
    assert "is opened only if it is given" in make_thumbnails(found, np.arange(1), [])[1]


@pytest.mark.parametrize("data", [None, DataOrigin(), DataOrigin(spec="a\0b"), DataOrigin(spec="x" * 5000)])
def test_data_that_name_no_place(data):
    found = replace(features("", "", ["a"]), provenance=Provenance(data=data))
    assert make_thumbnails(found, np.arange(1), [])[0] is None


def test_only_so_many_ids_are_looked_for(photos, monkeypatch):
    monkeypatch.setattr(thumbnails, "MOST", 2)
    ids = [f"gone{row}" for row in range(100)]
    looked = []
    monkeypatch.setattr(thumbnails, "_read", lambda path, root=None: looked.append(path))
    assert make_thumbnails(features("", "", ids), np.arange(100), [], str(photos))[0] is None
    assert len(looked) == 4
