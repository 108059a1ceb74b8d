import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from embedscope import plugins
from embedscope.errors import InputError, OutputError, UsageError
from embedscope.finetuning import finetune
from embedscope.plotting import _thinned, plot
from embedscope.plotting.figure import MAX_COLOURS, colours
from embedscope.store import read_features


@pytest.mark.parametrize("kind", plugins.names("plotting"))
def test_projection_separates_what_is_separate(kind, blobs):
    from sklearn.metrics import silhouette_score

    points = plugins.load("plotting", kind)(blobs[0].astype(float), seed=0)
    assert points.shape == (90, 2)
    assert silhouette_score(points, blobs[1]) > 0.5


@pytest.mark.parametrize("kind", plugins.names("plotting"))
def test_projection_is_seeded(kind, blobs):
    project = plugins.load("plotting", kind)
    np.testing.assert_array_equal(project(blobs[0].astype(float), seed=3), project(blobs[0].astype(float), seed=3))


@pytest.mark.parametrize("shape", [(3, 2), (5, 1), (4, 60), (60, 80)])
@pytest.mark.parametrize("kind", ["pca", "tsne"])
def test_projection_of_little(kind, shape):
    points = plugins.load("plotting", kind)(np.random.default_rng(0).normal(size=shape), seed=0)
    assert points.shape == (shape[0], 2)
    assert np.isfinite(points).all()


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_picture_in_every_format(make_store, blobs, tmp_path, suffix):
    path = plot([str(make_store(*blobs)), f"again={make_store(*blobs, name='b.h5')}"], tmp_path / f"a{suffix}", kinds=["pca"])
    magic = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(magic)
    if suffix == ".svg":
        text = path.read_text()
        for word in ("PCA of embedding, 90 samples", "again", "class"):
            assert word in text
    assert not (tmp_path / f"a{suffix}.partial").exists()


def test_columns_are_inputs_and_rows_are_kinds(make_store, blobs, tmp_path):
    store = str(make_store(*blobs))
    plot([store], tmp_path / "one.png", kinds=["pca"])
    plot([store, f"b={store}"], tmp_path / "four.png", kinds=["pca", "tsne(perplexity=5)"])
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "four.png") as four:
        assert four.width > 1.5 * one.width
        assert four.height > 1.5 * one.height


def test_run_directory_is_drawn_before_and_after(make_store, blobs, tmp_path):
    finetune(read_features(str(make_store(*blobs))), tmp_path / "run", epochs=1)
    text = plot([str(tmp_path / "run")], tmp_path / "run.svg", kinds=["pca"]).read_text()
    for title in (">before<", ">after ce<", ">after ce + 0.5*silhouette<"):
        assert title in text


def test_thinning_is_said_on_the_picture(make_store, blobs, tmp_path):
    text = plot([str(make_store(*blobs))], tmp_path / "a.svg", kinds=["pca"], max_points=30).read_text()
    assert "PCA of embedding, 30 of 90 samples" in text


def test_thinning_keeps_the_share_of_every_class():
    labels = np.array([0] * 600 + [1] * 300 + [2] * 99 + [3])
    kept = labels[_thinned(labels, 100, 0)]
    assert len(kept) == 100
    counts = np.bincount(kept)
    assert counts[3] == 1
    np.testing.assert_allclose(counts[:3], [60, 30, 10], atol=1)


def test_many_classes_have_a_note_instead_of_a_legend(make_store, tmp_path):
    features = np.random.default_rng(0).normal(size=(90, 4))
    text = plot([str(make_store(features, np.arange(90) % 45))], tmp_path / "a.svg", kinds=["pca"]).read_text()
    assert "45 classes" in text


@pytest.mark.parametrize("count", [1, 10, 11, MAX_COLOURS, MAX_COLOURS + 1, 200])
def test_a_colour_a_class(count):
    assert len({tuple(np.atleast_1d(colour)) for colour in colours(count)}) == count


def test_pca_needs_neither_umap_nor_manifold_nor_a_display(make_store, blobs, tmp_path):
    path = make_store(*blobs)
    code = (
        "import sys; sys.modules['umap'] = None\n"
        "from embedscope.plotting import plot\n"
        f"plot([{str(path)!r}], {str(tmp_path / 'a.png')!r}, kinds=['pca'])\n"
        "print([m for m in ('sklearn.manifold', 'matplotlib.pyplot', 'typer') if m in sys.modules])"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True, env={"PATH": "", "MPLBACKEND": "tkagg"})
    assert out.strip() == "[]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ["tsn"]}, "no kind of plot 'tsn'; did you mean 'tsne'"),
        ({"kinds": ["tsne(perplex=3)"]}, "no option of tsne 'perplex'; did you mean 'perplexity'"),
        ({"max_points": 2}, "a picture needs at least 3 points"),
        ({"kinds": ["tsne(perplexity='a')"]}, "perplexity has to be a number above 0, got a"),
        ({"kinds": ["tsne(perplexity=-3)"]}, "perplexity has to be a number above 0, got -3"),
        ({"kinds": ["umap(neighbors='a')"]}, "neighbors has to be a number from 2, got a"),
        ({"seed": 2**32}, "seed has to be a number from 0 to"),
    ],
)
def test_bad_options(make_store, blobs, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        plot([str(make_store(*blobs))], tmp_path / "a.png", **options)


def test_other_suffix(tmp_path):
    with pytest.raises(UsageError, match=r"the name has to end with .png, .svg, .pdf"):
        plot(["nowhere.h5"], tmp_path / "a.jpg")


def test_existing_picture(make_store, blobs, tmp_path):
    (tmp_path / "a.png").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        plot([str(make_store(*blobs))], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "mine"


def test_equal_rows(make_store, tmp_path):
    with pytest.raises(InputError, match="all rows are equal, there is nothing to project"):
        plot([str(make_store(np.full((9, 3), 0.1), np.arange(9) % 2))], tmp_path / "a.png")


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_rows_of_any_size(make_store, blobs, tmp_path, factor):
    plot([str(make_store(blobs[0] * factor, blobs[1]))], tmp_path / "a.png")


def test_names_are_not_formulas_and_need_no_glyph(make_store, blobs, tmp_path):
    path = make_store(*blobs, class_names=["$x^$", "<b>", "\u8c93"])
    text = plot([f"a$b_$={path}"], tmp_path / "a.svg", kinds=["pca"]).read_text()
    assert "$x^$" in text
    assert "a$b_$" in text
    plot([str(path)], tmp_path / "a.png", kinds=["pca"])


def test_run_by_name_and_with_a_layer(make_store, blobs, tmp_path):
    finetune(read_features(str(make_store(*blobs))), tmp_path / "run", epochs=1, objectives=["ce"])
    text = plot([f"mine={tmp_path / 'run'}"], tmp_path / "run.svg", kinds=["pca"]).read_text()
    assert ">mine: after ce<" in text
    with pytest.raises(UsageError, match="is a run, whose stores have one layer each"):
        plot([str(tmp_path / "run")], tmp_path / "b.svg", layers=["x"])


def test_umap_of_three_rows():
    with pytest.raises(InputError, match="UMAP needs at least 4 rows, got 3"):
        plugins.load("plotting", "umap")(np.eye(3), seed=0)


def test_too_few_rows(make_store, tmp_path):
    with pytest.raises(InputError, match="has 2 labelled rows, a picture needs at least 3"):
        plot([str(make_store(np.eye(2), [0, 1]))], tmp_path / "a.png", kinds=["pca"])
