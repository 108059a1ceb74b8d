import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from embedscope.errors import InputError, OutputError, UsageError
from embedscope.finetuning import finetune
from embedscope.plotting import plot
from embedscope.plotting.drawing import _palette
from embedscope.plotting.inputs import prepare
from embedscope.store import read_features


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_picture_in_every_format(make_store, blobs, tmp_path, suffix):
    [path] = plot([str(make_store(*blobs)), f"again={make_store(*blobs, name='b.h5')}"], tmp_path / f"a{suffix}", kinds=["pca"])
    magic = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(magic)
    if suffix == ".svg":
        text = path.read_text()
        for word in ("PCA of embedding, 90 samples", "again", "again: aligned with store (Procrustes)."):
            assert word in text
    assert not (tmp_path / f"a{suffix}.partial").exists()


def test_kinds_stand_below_one_another(make_store, blobs, tmp_path):
    store = str(make_store(*blobs))
    plot([store, f"b={store}"], tmp_path / "one.png", kinds=["pca"])
    plot([store, f"b={store}"], tmp_path / "two.png", kinds=["pca", "tsne(perplexity=5)"])
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert two.width == one.width
        assert two.height > 1.8 * one.height


def test_a_folder_has_a_picture_a_kind(make_store, blobs, tmp_path):
    store, out = str(make_store(*blobs)), tmp_path / "new" / "pictures"
    kinds = ["pca", "tsne(perplexity=5)", "tsne"]
    assert plot([store], out, kinds=kinds, form="svg") == [out / "pca.svg", out / "tsne.svg", out / "tsne-2.svg"]
    assert sorted(path.name for path in out.iterdir()) == ["pca.svg", "tsne-2.svg", "tsne.svg"]
    (out / "tsne.svg").unlink()
    with pytest.raises(OutputError, match=r"pca.svg exists; choose another name or pass `overwrite=True`"):
        plot([store], out, kinds=["tsne", "pca"], form="svg")
    assert not (out / "tsne.svg").exists()
    plot([store], out, kinds=["pca"], form="svg", overwrite=True)


def test_a_file_is_no_folder(make_store, blobs, tmp_path):
    (tmp_path / "pictures").write_text("mine")
    with pytest.raises(OutputError, match="pictures is a file; give a folder"):
        plot([str(make_store(*blobs))], tmp_path / "pictures")


def test_the_same_picture_is_the_same_file(make_store, blobs, tmp_path):
    store = str(make_store(*blobs))
    for suffix in (".png", ".pdf"):
        for name in ("a", "b"):
            plot([store], tmp_path / f"{name}{suffix}", kinds=["pca"])
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_run_directory_is_drawn_before_and_after(make_store, blobs, tmp_path):
    finetune(read_features(str(make_store(*blobs))), tmp_path / "run", epochs=1)
    [path] = plot([str(tmp_path / "run")], tmp_path / "run.svg", kinds=["pca"])
    text = path.read_text()
    for title in (">before<", ">after ce<", ">after ce + 0.5*silhouette<", "one trial per objective, seed 0"):
        assert title in text


def test_thinning_is_said_on_the_picture(make_store, blobs, tmp_path):
    [path] = plot([str(make_store(*blobs))], tmp_path / "a.svg", kinds=["pca"], max_points=30)
    text = path.read_text()
    assert "PCA of embedding, 30 of 90 samples" in text


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
        ({"kinds": ["tsne(perplex=3)"]}, "tsne has no option 'perplex'; did you mean 'perplexity'"),
        ({"max_points": 2}, "`max_points=` must be an integer of at least 3, got"),
        ({"width": "colum"}, "no width 'colum'; did you mean 'column'"),
        ({"form": "jpg"}, "no format 'jpg'"),
        ({"coordinates": "a.tsv"}, "'a.tsv' must end with .csv"),
        ({"max_points": 3, "kinds": ["pca"], "layout": "a.h5"}, "'a.h5' must end with .csv"),
        ({"kinds": ["tsne(perplexity='a')"]}, "perplexity must be a number above 0, got 'a'"),
        ({"kinds": ["tsne(perplexity=-3)"]}, "perplexity must be a number above 0, got -3"),
        ({"kinds": ["umap(neighbors='a')"]}, "neighbors must be an integer of at least 2, got 'a'"),
        ({"seed": 2**32}, "`seed=` must be an integer from 0 to"),
    ],
)
def test_bad_options(make_store, blobs, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        plot([str(make_store(*blobs))], tmp_path / "a.png", **options)


def test_other_suffix(tmp_path):
    with pytest.raises(UsageError, match=r"the name must end with .png, .svg, .pdf"):
        plot(["nowhere.h5"], tmp_path / "a.jpg")


def test_existing_picture(make_store, blobs, tmp_path):
    (tmp_path / "a.png").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        plot([str(make_store(*blobs))], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "mine"


def test_equal_rows(make_store, tmp_path):
    store = str(make_store(np.full((9, 3), 0.1), np.arange(9) % 2))
    for kind in ("pca", "tsne", "neighbors", "issues"):
        plot([store, f"b={store}"], tmp_path / f"{kind}.svg", kinds=[kind])
    assert "b: all rows are equal, so all points coincide." in (tmp_path / "pca.svg").read_text()
    drawn = plot([store], tmp_path / "all")
    assert {path.stem for path in drawn} >= {"tsne", "silhouette", "classes", "gini"}


def test_the_first_input_that_varies_is_the_one_that_others_are_turned_onto(make_store, blobs, tmp_path):
    rows, labels = blobs
    equal = f"equal={make_store(np.ones_like(rows), labels, name='e.h5')}"
    store = str(make_store(*blobs))
    plot([equal, store, f"again={store}"], tmp_path / "a.svg", kinds=["pca"])
    assert "again: aligned with store (Procrustes)" in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_a_folder_drawn_again_holds_what_was_asked_for(make_store, blobs, tmp_path, form):
    store, out, said = str(make_store(*blobs)), tmp_path / "out", []
    plot([store], out, kinds=["pca", "pca(seed=3)", "gini"], form=form)
    (out / f"tsne.{form}").write_bytes(b"of somebody else")  # named after a kind, and not made by embedscope
    (out / f"mine.{form}").write_bytes((out / f"gini.{form}").read_bytes())  # made by embedscope, and named by somebody
    (out / f"silhouette.{form}").symlink_to(out / f"mine.{form}")
    plot([store], out, kinds=["spectrum"], form=form)
    assert {path.stem for path in out.iterdir()} == {"pca", "pca-2", "gini", "tsne", "mine", "silhouette", "spectrum"}
    plot([store], out, kinds=["pca"], form="png", overwrite=True, say=said.append)
    assert {path.stem for path in out.iterdir()} == {"pca", "tsne", "mine", "silhouette"}
    assert {text.removesuffix(", drawn by an earlier run") for text in said} >= {f"removed {out / f'gini.{form}'}"}


def test_a_class_has_one_color_in_every_split(make_store, blobs, tmp_path):
    rows, labels = blobs
    split = np.where(labels == 1, "train", np.where(np.arange(90) < 45, "train", "test"))
    store = str(make_store(rows, labels, class_names=["a", "b", "c"], split=split.tolist()))
    chosen = [prepare([store], layers=(), split=part, max_points=100, seed=0) for part in ("train", "test")]
    assert [each.class_names for each in chosen] == [("a", "b", "c"), ("a", "c")]
    colors = [dict(zip(each.class_names, _palette(each).colors, strict=True)) for each in chosen]
    assert colors[1] == {name: colors[0][name] for name in "ac"}


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_rows_of_any_size(make_store, blobs, tmp_path, factor):
    plot([str(make_store(blobs[0] * factor, blobs[1]))], tmp_path / "a.png")


def test_names_are_not_formulas_and_need_no_glyph(make_store, blobs, tmp_path):
    path = make_store(*blobs, class_names=["$x^$", "<b>", "\u8c93"])
    [picture] = plot([f"a$b_$={path}"], tmp_path / "a.svg", kinds=["pca"])
    text = picture.read_text()
    assert "$x^$" in text
    assert "a$b_$" in text
    plot([str(path)], tmp_path / "a.png", kinds=["pca"])


def test_run_by_name_and_with_a_layer(make_store, blobs, tmp_path):
    finetune(read_features(str(make_store(*blobs))), tmp_path / "run", epochs=1, objectives=["ce"])
    [path] = plot([f"mine={tmp_path / 'run'}"], tmp_path / "run.svg", kinds=["pca"])
    text = path.read_text()
    assert ">mine: after ce<" in text
    with pytest.raises(UsageError, match="is a run, whose stores have one layer each"):
        plot([str(tmp_path / "run")], tmp_path / "b.svg", layers=["x"])


def test_too_few_rows(make_store, tmp_path):
    with pytest.raises(InputError, match="has 2 labeled rows; a picture needs at least 3"):
        plot([str(make_store(np.eye(2), [0, 1]))], tmp_path / "a.png", kinds=["pca"])


def test_what_inputs_share_stands_in_the_heading(make_store, blobs, tmp_path):
    first = make_store(*blobs)
    second = make_store(*blobs, name="b.h5", layer="other")
    third = make_store(blobs[0][:60], blobs[1][:60], name="c.h5", layer="other")
    [path] = plot([str(first), str(second)], tmp_path / "a.svg", kinds=["pca"])
    for text in (">PCA, 90 samples<", ">of embedding<", ">of other<"):
        assert text in path.read_text()
    [path] = plot([str(second), str(third)], tmp_path / "b.svg", kinds=["pca"])
    for text in (">PCA of other<", ">90 samples<", ">60 samples<"):
        assert text in path.read_text()
    [path] = plot([str(first), str(third)], tmp_path / "c.svg", kinds=["pca"])
    for text in (">PCA<", ">of embedding, 90 samples<", ">of other, 60 samples<"):
        assert text in path.read_text()
