"""plot as a library call: figures of whatever score takes or returned."""

import numpy as np
import pytest

from embedscope import finetune, open_features, plot, score
from embedscope.errors import InputError, UsageError


def drawn(figure):
    """Collect all numbers and words of a figure."""
    axes = [each for each in figure.get_axes() if each.get_title(loc="left")]
    titles = [each.get_title(loc="left") for each in axes]
    names = [label.get_text() for each in axes for label in each.get_yticklabels()]
    return titles, names, [each.get_paths()[0].vertices for panel in axes for each in panel.collections if each.get_paths()]


@pytest.fixture
def arrays(blobs):
    rows, labels = blobs
    return rows, np.array(["ant", "bee", "cat"])[labels]


@pytest.mark.parametrize("given", ["pair", "labels", "mapping", "features", "list", "path", "scores", "one score"])
def test_every_source_gives_the_same_figure(arrays, make_store, given, tmp_path):
    rows, labels = arrays
    np.savez(tmp_path / "features.npz", X=rows, y=labels)
    (features,) = open_features([str(tmp_path / "features.npz")])
    sources = {
        "pair": (rows, labels),
        "labels": rows,
        "mapping": {"features": rows},
        "features": features,
        "list": [features],
        "path": tmp_path / "features.npz",
        "scores": score({"features": (rows, labels)}),
        "one score": score(rows, labels, metrics=["silhouette", "gini"])[0],
    }[given]
    figure = plot(sources, labels=labels if given in ("labels", "mapping") else None, kind="silhouette")
    titles, names, shapes = drawn(figure)
    expected = drawn(plot((rows, labels), kind="silhouette"))
    assert titles == expected[0]
    assert sorted(names) == ["ant", "bee", "cat"]
    assert names == expected[1]
    for one, other in zip(shapes, expected[2], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)
    assert [path.name for path in tmp_path.iterdir()] == ["features.npz"]


def test_a_figure_can_be_saved_as_any_other(arrays, tmp_path):
    figure = plot(arrays, kind="pca")
    assert type(figure).__module__ == "matplotlib.figure"
    figure.savefig(tmp_path / "later.png")
    assert (tmp_path / "later.png").read_bytes().startswith(b"\x89PNG")


def test_scores_side_by_side_of_a_sample(arrays):
    rows, labels = arrays
    found = score({"late": (rows, labels), "early": (rows / 2 + rows[::-1], labels)}, sample=40)
    titles, _, _ = drawn(plot(found, kind="silhouette"))
    assert [title.splitlines()[0] for title in titles] == ["late", "early"]
    assert all(f"mean {each.metrics['silhouette'].value:.3f}" in title for each, title in zip(found, titles, strict=True))


def test_scores_of_many_samples_are_thinned(arrays):
    figure = plot(score(*arrays), max_points=30)
    assert any("30 of 90 samples" in text.get_text() for text in figure.findobj(lambda each: hasattr(each, "get_text")))


def test_scores_are_drawn_as_silhouettes_by_default_and_hold_no_features(arrays):
    found = score(*arrays, metrics=["silhouette"])
    assert len(drawn(plot(found))[0]) == 1
    with pytest.raises(UsageError, match="scores contain values, not features; for this kind, draw the features"):
        plot(found, kind="pca")


@pytest.mark.parametrize("metrics", ["gini", "silhouette(distance='cosine')", ["soft_silhouette", "silhouette"]])
def test_scores_without_silhouettes_are_refused(arrays, metrics):
    with pytest.raises(InputError, match="the scores of features contain no per-sample silhouettes; measure silhouette first"):
        plot(score(*arrays, metrics=metrics))


def test_scores_take_no_split(arrays):
    with pytest.raises(UsageError, match="the rows of a file of scores are fixed"):
        plot(score(*arrays), split="test")


def test_output_writes(arrays, tmp_path):
    path = tmp_path / "a.png"
    assert plot(arrays, path, kind="silhouette") == [path]
    assert plot(score(*arrays), output=tmp_path / "b.png") == [tmp_path / "b.png"]


def test_runs_are_drawn(arrays):
    run = finetune(*arrays, objectives="ce", epochs=1, device="cpu", metrics="silhouette")
    titles, _, _ = drawn(plot(run, kind="comparison"))
    assert titles[0] == "silhouette ↑"


def test_a_string_is_one_kind_and_one_layer(arrays, make_store, blobs):
    store = make_store(*blobs)
    assert len(drawn(plot(store, kinds="silhouette", layers="embedding"))[0]) == 1


def test_kind_and_kinds_exclude_each_other(arrays):
    with pytest.raises(UsageError, match="`kind=` and `kinds=` are the same option"):
        plot(arrays, kind="pca", kinds=["pca"])


def test_a_form_needs_a_folder(arrays):
    with pytest.raises(UsageError, match="`form=svg` sets the format of pictures in a folder; choose a folder with `output=`"):
        plot(arrays, kind="pca", form="svg")


def test_metrics_of_the_trajectory(arrays):
    rows, labels = arrays
    stages = {name: (rows * step, labels) for name, step in (("a", 1), ("b", 2), ("c", 3))}
    titles, _, _ = drawn(plot(stages, kind="trajectory", metrics=["rankme", "gini(dead='ignore')"]))
    assert titles == ["rankme", "gini ↓"]


def test_metrics_that_nothing_draws_are_refused(arrays):
    with pytest.raises(UsageError, match=r"`metrics=` applies to a page \(\.html\) and to the kind trajectory"):
        plot(arrays, kind="pca", metrics="gini")


def test_a_metric_that_does_not_exist_is_refused(arrays):
    with pytest.raises(UsageError, match="did you mean 'gini'"):
        plot(arrays, kind="pca", metrics="ginni")
