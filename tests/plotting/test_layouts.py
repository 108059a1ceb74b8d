"""Layouts: what projections keep, how they are aligned, and coordinates that go to a file and come back."""

import csv
import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from embedscope import plugins
from embedscope.errors import InputError, UndefinedError
from embedscope.plotting import declaration, plot
from embedscope.plotting.layouts import anchors, read_coordinates

KINDS = [kind for kind in plugins.names("plotting") if declaration(plugins.load("plotting", kind)).takes == "points"]


def project(kind, *inputs, **options):
    return plugins.load("plotting", kind)(inputs, **options)


@pytest.fixture(params=["openTSNE", "scikit-learn"])
def library(request, monkeypatch):
    """Both libraries that t-SNE runs on."""
    if request.param == "scikit-learn":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    else:
        pytest.importorskip("openTSNE")
    return request.param


@pytest.mark.parametrize("kind", KINDS)
def test_projection_separates_what_is_separate(kind, blobs, embed):
    from sklearn.metrics import silhouette_score

    [layout] = project(kind, embed(*blobs))
    assert layout.points.shape == (90, 2)
    assert silhouette_score(layout.points, blobs[1]) > 0.5


def test_tsne_by_either_library(library, blobs, embed):
    from sklearn.metrics import silhouette_score

    [layout] = project("tsne", embed(*blobs))
    assert silhouette_score(layout.points, blobs[1]) > 0.5
    assert layout.made.startswith(library)


@pytest.mark.parametrize("kind", KINDS)
def test_projection_is_seeded(kind, blobs, embed):
    first, again = (project(kind, embed(*blobs), seed=3)[0].points for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("shape", [(3, 2), (5, 1), (4, 60), (60, 80)])
@pytest.mark.parametrize("kind", ["pca", "tsne"])
def test_projection_of_little(kind, shape, embed):
    features = np.random.default_rng(0).normal(size=shape)
    [layout] = project(kind, embed(features, np.arange(len(features)) % 2))
    assert layout.points.shape == (shape[0], 2)
    assert np.isfinite(layout.points).all()


def test_pca_against_the_singular_value_decomposition(blobs, embed):
    rows = blobs[0].astype(np.float64)
    left, scale, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    [layout] = project("pca", embed(*blobs))
    expected = left[:, :2] * scale[:2]
    expected *= np.abs(layout.points).max() / np.abs(expected).max()
    np.testing.assert_allclose(np.abs(layout.points), np.abs(expected), atol=1e-10)
    shares = scale**2 / (scale**2).sum()
    assert layout.axes == (f"component 1 ({100 * shares[0]:.0f}%)", f"component 2 ({100 * shares[1]:.0f}%)")


def test_pca_of_a_rotated_input_is_turned_back(blobs, embed):
    rows = blobs[0].astype(np.float64)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))
    first, second = project("pca", embed(rows, blobs[1]), embed(-rows @ rotation, blobs[1], name="two"))
    second = second.points * (np.linalg.norm(first.points) / np.linalg.norm(second.points))
    np.testing.assert_allclose(second, first.points, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_same_rows_in_another_order_stay_where_they_were(kind, embed):
    """The second input is the first, reflected and in another order: classes lie nearest to where they lay, most of them.

    t-SNE and UMAP move clusters past one another even from such a start; chance alone leaves one of six in its place.
    """
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 6
    features = generator.normal(size=(120, 6)) + [6, 5, 4, 3, 2, 1] * np.eye(6)[labels]
    order = generator.permutation(120)
    ids = [f"row{row}" for row in order]
    first, second = project(kind, embed(features, labels), embed(-features[order], labels[order], name="two", ids=ids))
    before, after = (np.array([each.points[each.of.labels == c].mean(axis=0) for c in range(6)]) for each in (first, second))
    apart = np.linalg.norm(before[:, None] - after[None], axis=2)
    assert (apart.argmin(axis=1) == np.arange(6)).sum() >= 4
    assert second.aligned.endswith(("the layout of one and aligned with it", "aligned with one (Procrustes)"))
    assert not first.aligned


def test_rows_with_other_ids_or_classes_are_not_the_same(blobs, embed):
    [first] = project("pca", embed(*blobs))
    assert anchors(first, embed(*blobs, ids=[f"other{row}" for row in range(90)])) is None
    assert anchors(first, embed(blobs[0], (blobs[1] + 1) % 3)) is None
    half = anchors(first, embed(blobs[0][:45], blobs[1][:45], name="two"))
    np.testing.assert_array_equal(half.rows, np.arange(45))
    np.testing.assert_array_equal(half.points, first.points[:45])


def test_start_takes_rows_that_are_not_shared_with_it(blobs, embed):
    [first] = project("pca", embed(*blobs))
    some = replace(anchors(first, embed(*blobs)), rows=np.arange(0, 90, 2), points=first.points[::2])
    np.testing.assert_allclose(some.start(-3 * first.points), first.points, atol=1e-10)


def test_umap_of_three_rows(embed):
    with pytest.raises(UndefinedError, match="UMAP needs at least 4 rows, got 3 in one"):
        project("umap", embed(np.eye(3), [0, 0, 1]))


def test_coordinates_are_written_and_drawn_again(make_store, blobs, tmp_path):
    sources = [f"a={make_store(*blobs)}", f"b={make_store(*blobs, name='b.h5')}"]
    table = tmp_path / "xy.csv"
    kinds = ["pca", "tsne(perplexity=5)"]
    plot(sources, tmp_path / "one.svg", kinds=kinds, coordinates=table)
    with table.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["id", "label", "input", "kind", "x", "y"]
    assert len(lines) == 360
    assert {(line["input"], line["kind"]) for line in lines} == {(name, kind) for name in "ab" for kind in kinds}
    assert [line["label"] for line in lines[:4]] == ["0", "1", "2", "0"]
    again = tmp_path / "again.csv"
    plot(sources, tmp_path / "two.svg", kinds=kinds, layout=table, coordinates=again)
    assert again.read_text() == table.read_text()
    assert "Coordinates from xy.csv." in (tmp_path / "two.svg").read_text()


def test_part_of_the_rows_given_back_is_said(make_store, blobs, tmp_path):
    store = str(make_store(*blobs))
    plot([store], tmp_path / "one.svg", kinds=["pca"], coordinates=tmp_path / "xy.csv")
    lines = (tmp_path / "xy.csv").read_text().splitlines()
    (tmp_path / "xy.csv").write_text("\n".join([lines[0], *reversed(lines[1:41])]))
    [path] = plot([store], tmp_path / "two.svg", kinds=["pca"], layout=tmp_path / "xy.csv")
    assert "PCA of embedding, 40 of 90 samples" in path.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,x,y\n", "has no column input, kind; coordinates need id, label, input, kind, x, y"),
        ("id,input,kind,x,y\nrow0,store,pca,1,nan\n", "line 2: x and y must be finite numbers, got 1, nan"),
        ("id,input,kind,x,y\nrow0,store,pca,1\n", "line 2: x and y must be finite numbers, got 1, None"),
        ("id,input,kind,x,y\n" + 2 * "row0,store,pca,1,2\n", "line 3: duplicate id 'row0'"),
        ("id,input,kind,x,y\nrow0,other,pca,1,2\n", "no pca coordinates of store; it has pca of other"),
        ("id,input,kind,x,y\nrow0,store,pca,1,2\nx,store,pca,1,2\n", "1 of 2 ids is not a labeled row of store, such as 'x'"),
        ("id,input,kind,x,y\n", "no pca coordinates of store; it has none"),
    ],
)
def test_coordinates_that_cannot_be_used(make_store, blobs, tmp_path, text, message):
    (tmp_path / "xy.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        plot([str(make_store(*blobs))], tmp_path / "a.png", kinds=["pca"], layout=tmp_path / "xy.csv")
    assert not (tmp_path / "a.png").exists()


def test_coordinates_that_are_no_text(tmp_path):
    (tmp_path / "xy.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not a table of coordinates"):
        read_coordinates(tmp_path / "xy.csv")
    with pytest.raises(InputError, match=r"cannot read .*: No such file"):
        read_coordinates(tmp_path / "none.csv")


def test_hostile_names_come_back_from_a_table(make_store, blobs, tmp_path):
    """Ids that a spreadsheet would run are guarded in the table, and drawn from it again."""
    ids = [f"{'=+-@'[row % 4]}id\t{row}" for row in range(90)]
    store = str(make_store(*blobs, ids=ids, class_names=["=1+1", "\x1b[31mred", "b"]))
    table = tmp_path / "xy.csv"
    plot([f"@in={store}"], tmp_path / "a.png", kinds=["pca"], coordinates=table)
    assert not [line for line in table.read_text().splitlines()[1:] if line.lstrip('"')[0] in "=+-@"]
    given = read_coordinates(table)[("@in", "pca")]
    assert set(given) == set(ids)
    plot([f"@in={store}"], tmp_path / "b.png", kinds=["pca"], layout=table)


def test_control_characters_are_drawn_as_escapes(make_store, blobs, tmp_path):
    labels = np.arange(90) % 3
    names = ["\x1b[31mred", "a\u202eb\x9b", "=c"]
    store = str(make_store(blobs[0], labels, class_names=names, layer="la\x1byer"))
    kinds = ["pca", "silhouette", "classes", "gini", "spectrum"]
    (path,) = plot([f"na\x1bme={store}", f"b={store}"], tmp_path / "a.svg", kinds=kinds)
    text = path.read_text(encoding="utf-8")
    assert not set(text) & set("\x1b\x9b\u202e")
    assert text.count("\\x1b[31mred") >= 4
