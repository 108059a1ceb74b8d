"""The kinds `compare` and `layers`: their numbers are those of score, and they draw whatever they may meet."""

import numpy as np
import pytest
import torch

from embedscope import plugins
from embedscope.errors import InputError, UndefinedError
from embedscope.evaluation import evaluate, score
from embedscope.plotting import declaration, plot
from embedscope.plotting.figure import WIDTHS, palette
from embedscope.plotting.pictures import picture

NAMES = ["$x^$", "<b>", "\u8c93", "a very long name of a class that goes on and on, and does not end before it has to", ""]


def numbers(kind, *inputs, **options):
    return plugins.load("plotting", kind)(inputs, **options)


@pytest.fixture
def pair(blobs):
    """Rows of three classes, and the same with the third one moved away."""
    rows, labels = blobs
    rows = rows / 4 + np.random.default_rng(1).normal(size=rows.shape)
    return rows, rows + np.where(labels == 2, 2.0, 0.0)[:, None] * np.eye(8)[2], labels


def test_changes_are_those_of_score(pair, embed):
    first, second, labels = pair
    [found] = numbers("compare", embed(first, labels), embed(second, labels, name="two"))
    table = score({"one": torch.as_tensor(first), "two": torch.as_tensor(second)}, labels, metrics="silhouette", compare=True)
    expected = {each.name: each for each in table.comparisons[0].classes}
    assert [each.name for each in found.changes] == sorted(expected, key=lambda name: -expected[name].difference)
    for each in found.changes:
        assert each.difference == pytest.approx(expected[each.name].difference, abs=1e-9)
        assert each.ci95 == pytest.approx(expected[each.name].ci95, abs=1e-9)
    assert found.rows == 90
    assert found.changes[0].name == "2"
    assert found.changes[0].significant


def test_layers_are_those_of_score(pair, embed):
    first, second, labels = pair
    found = numbers("layers", embed(first, labels), embed(second[:, 1:4], labels, name="two"), metrics=["silhouette", "gini"])
    for each in found:
        expected = evaluate(each.of.features, ["silhouette", "gini"], ci=True, device="cpu")
        assert {key: one.value for key, one in each.metrics.items()} == {
            key: one.value for key, one in expected.metrics.items()
        }
        assert each.metrics["silhouette"].ci95 == expected.metrics["silhouette"].ci95
    ranking = score(
        {"one": torch.as_tensor(first), "two": torch.as_tensor(second[:, 1:4])}, labels, metrics="silhouette", ci=True
    ).ranked()
    assert [each.of.name for each in found if "silhouette" in each.taken] == [ranking.layers[ranking.take].name]


@pytest.mark.parametrize(("width", "classes", "inputs"), [("column", 45, 2), ("page", 5, 6), ("slide", 2, 2)])
@pytest.mark.parametrize("kind", ["compare", "layers"])
def test_drawing(kind, width, classes, inputs, embed, tmp_path):
    """Nothing collapses, and nothing warns: long names, names in other scripts, classes of one member."""
    generator = np.random.default_rng(0)
    labels = np.r_[np.arange(classes), generator.integers(0, max(classes // 2, 1), size=60)]
    names = [f"{NAMES[place % 5]}{place}" for place in range(classes)]
    features = generator.normal(size=(len(labels), 9))
    given = [
        embed(features[:, each:] * each, labels, name=f"{NAMES[3]} {each}", class_names=names, layer=f"{NAMES[3]}{each}")
        for each in range(1, inputs + 1)
    ]
    options = {"metrics": ["silhouette", "gini", "explained_variance"]} if kind == "layers" else {}
    path = tmp_path / "a.svg"
    with picture(path, WIDTHS[width], lambda: palette(names, list(range(classes)), "because"), 1) as [sheet]:
        declaration(plugins.load("plotting", kind)).draw(sheet, numbers(kind, *given, **options))
    assert sheet.height < 60
    assert path.read_text().startswith("<?xml")


def test_pictures_say_what_they_show(pair, make_store, tmp_path):
    first, second, labels = pair
    stores = [str(make_store(rows, labels, name=f"{name}.h5")) for name, rows in (("early", first), ("late", second))]
    [path] = plot(stores, tmp_path / "a.svg", kinds=["compare"])
    text = path.read_text()
    assert "Silhouette by class, from early, 90 rows" in text
    assert "1 gained" in text
    [path] = plot(stores, tmp_path / "b.svg", kinds=["layers"], metrics="silhouette")
    assert "Layers of early, late, 90 samples" in path.read_text()
    assert "embedding (8)" in path.read_text()
    [path] = plot([stores[0], f"again={stores[0]}"], tmp_path / "c.svg", kinds=["layers"], metrics="silhouette")
    assert "Layers of early, again, 90 samples" in path.read_text()


def test_kinds_that_do_not_suit(pair, make_store, embed, tmp_path):
    first, second, labels = pair
    with pytest.raises(
        InputError, match="compare needs two or more checkpoints or layers, in order; only one embedding was given"
    ):
        plot([str(make_store(first, labels))], tmp_path / "a.png", kinds=["compare"])
    with pytest.raises(UndefinedError, match="at least 2 classes"):
        numbers("compare", embed(first, np.zeros(90)), embed(second, np.zeros(90)))
