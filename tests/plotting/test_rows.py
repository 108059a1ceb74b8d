"""The kinds `neighbors` and `issues`: their numbers and rows against naive loops, and images found and drawn."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from embedscope import find_issues, plugins
from embedscope.errors import UsageError
from embedscope.evaluation import score
from embedscope.plotting import declaration, plot
from embedscope.plotting.figure import WIDTHS, palette
from embedscope.plotting.issues import worst
from embedscope.plotting.pictures import picture


def numbers(kind, *inputs, **options):
    return plugins.load("plotting", kind)(inputs, **options)


@pytest.fixture
def flawed():
    """Two classes of 50 rows; the first and last five mislabeled; 10, 11 and 20 copies; 70 far away: (100, 6), (100,)."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    rows = generator.normal(size=(100, 6)) + 9 * np.eye(6)[labels]
    labels[:5], labels[95:] = 1, 0
    rows[11], rows[20], rows[70] = rows[10], rows[10], rows[70] + 200
    return rows, labels


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_neighbors_against_naive_loops(blobs, embed, distance):
    rows, labels = blobs[0].astype(float) / 3, blobs[1]
    [found] = numbers("neighbors", embed(rows, labels), k=5, distance=distance)
    if distance == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    gaps = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    order = np.argsort(gaps, axis=1)
    np.testing.assert_array_equal(found.steps, [1, 2, 3, 5])
    assert found.accuracy[0] == pytest.approx(np.mean(labels[order[:, 0]] == labels), abs=1e-12)
    for label in range(3):
        of_class = np.mean(labels[order[labels == label, 0]] == label)
        assert found.by_class[label, 0] == pytest.approx(of_class, abs=1e-12)
    counts = np.bincount(order[:, :5].ravel(), minlength=90)
    np.testing.assert_array_equal(found.occurrences, counts)
    assert found.skewness == pytest.approx(((counts - 5) ** 3).mean() / counts.std() ** 3, abs=1e-12)


def test_neighbors_are_those_of_score(digits, embed):
    rows, labels = digits[0][:300].numpy(), digits[1][:300].numpy()
    [found] = numbers("neighbors", embed(rows, labels))
    assert found.steps[-1] == 100
    for step in (1, 20, 100):
        [expected] = score(rows, labels, metrics=[f"knn_accuracy(k={step})"])
        assert found.accuracy[found.steps.tolist().index(step)] == expected.metrics["knn_accuracy"].value
    [expected] = score(rows, labels, metrics="hubness")
    assert found.skewness == expected.metrics["hubness"].value


def test_issues_are_those_of_find_issues(flawed, embed):
    rows, labels = flawed
    [gallery] = numbers("issues", embed(rows, labels), seed=3)
    expected = find_issues(rows, labels, ids=[f"row{row}" for row in range(100)], seed=3)
    assert gallery.found.counts == expected.counts
    of_kind = {name: [each.id for each in gallery.shown if each.kind == name] for name in ("label", "duplicate", "outlier")}
    assert set(of_kind["label"]) >= {"row3", "row4"}
    assert len(of_kind["duplicate"]) == 1  # the others stand beside it
    [copy] = [each for each in gallery.shown if each.kind == "duplicate"]
    assert {copy.id, *copy.near} == {"row10", "row11", "row20"}
    assert "row70" in of_kind["outlier"]
    assert gallery.images == {}
    assert "no images" in gallery.location


def test_the_worst_of_each_kind_are_chosen(flawed):
    rows = find_issues(*flawed).rows
    assert [each.kind for each in worst(rows, 3)] == ["label", "duplicate", "outlier"]
    assert [each.score for each in worst(rows, 3)] == [
        max(each.score for each in rows if each.kind == name) for name in ("label", "duplicate", "outlier")
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_images_are_drawn_with_labels(flawed, embed, tmp_path, width):
    rows, labels = flawed
    ids = [f"{row}.png" for row in range(100)]
    for row, name in enumerate(ids[:60]):  # some have none
        Image.new("RGB", (12 + row, 12), (row, 0, 0)).save(tmp_path / name)
    given = [embed(rows, labels, ids=ids, class_names=["cat", "dog"])]
    records = numbers("issues", *given, images=str(tmp_path))
    assert records[0].images["10.png"].getpixel((0, 0)) == (10, 0, 0)
    with picture(tmp_path / "a.svg", WIDTHS[width], lambda: palette(["cat", "dog"]), 1) as [sheet]:
        declaration(plugins.load("plotting", "issues")).draw(sheet, records)
        images = [image for axes in sheet._figure.findobj(Axes) for image in axes.images]
    text = (tmp_path / "a.svg").read_text()
    for word in ("dog → cat", "likely wrong", "3.png", "no image", "label errors", "outliers"):
        assert word in text
    assert len(images) == 5 + 3  # half of the wrong labels and the copies; the others have no image


def test_kinds_and_numbers_are_checked(flawed, embed):
    given = embed(*flawed)
    [gallery] = numbers("issues", given, kinds="outlier", most=1)
    assert [each.kind for each in gallery.shown] == ["outlier"]
    with pytest.raises(UsageError, match="no kind of issue 'labels'; did you mean 'label'"):
        numbers("issues", given, kinds="labels")
    with pytest.raises(UsageError, match="most must be an integer of at least 1"):
        numbers("issues", given, most=0)
    with pytest.raises(UsageError, match="at least one of label"):
        numbers("issues", given, kinds=())


def test_images_of_kinds_that_show_none(make_store, blobs, tmp_path):
    with pytest.raises(UsageError, match=r"`images=` applies to a page .* and to the kind issues"):
        plot([str(make_store(*blobs))], tmp_path / "a.png", kinds=["pca"], images=tmp_path)
