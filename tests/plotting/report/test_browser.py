"""The page in a real browser: Chromium without a window, driven by selenium. Skipped where there is none."""

from pathlib import Path

import numpy as np
import pytest
import torch

from embedscope.data import open_dataset
from embedscope.extraction import extract
from embedscope.finetuning import finetune
from embedscope.models import open_model
from embedscope.plotting import plot, report
from embedscope.store import read_features
from embedscope.store.features import FeatureSet
from embedscope.store.provenance import ModelOrigin, Provenance
from embedscope.text import printable
from tests.plotting.report.browser import Page, in_browser
from tests.plotting.report.test_page import HOSTILE, features, view

pytest.importorskip("plotly", reason="plotly is not installed")
pytestmark = in_browser

SAMPLE_DATA = Path(__file__).parents[3] / "sample_data"


@pytest.fixture(scope="module")
def sample_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    for name in ("early", "late"):
        encoder = open_model(f"{SAMPLE_DATA / 'network.py'}:DigitNet", str(SAMPLE_DATA / f"{name}.safetensors"))
        data = open_dataset(str(SAMPLE_DATA / "digits"))
        extract(encoder, data, folder / f"{name}.h5", device="cpu")
    stores = [str(folder / "early.h5"), str(folder / "late.h5")]
    (path,) = plot(stores, folder / "page.html", kinds=["pca"], split="test", command="embedscope plot early.h5 late.h5")
    return path


def test_sample_data(chromium, sample_page):
    page = Page(chromium, sample_page)
    assert [heading.text for heading in page.all("nav a")] == [
        "Findings", "Scores", "Map", "Issues", "Comparison",
        "Silhouettes", "Neighbors", "Channels", "Spectrum", "Samples", "Provenance",
    ]  # fmt: skip
    assert page.drawn_points() == [582, 582]
    assert "0.2457" in page.text("#scores table")
    assert "0.3751 *" in page.text("#scores table")

    tip = page.hover()
    assert "class 9" in tip
    assert "nearest other class" in tip
    assert "silhouette" in tip
    assert "late: " in tip
    assert len(page.all("#tip img")) == 1
    rings = page.run("return figures.filter((f) => f.map).map((f) => f.plot.layout.shapes.length)")
    assert rings == [1, 1]  # the same sample is found in the other map

    page.pick("8")
    lit = page.run("return figures.filter((f) => f.map).map((f) => f.made.traces.map((t) => t.x.length))")
    assert lit == [[582 - 55, 55]] * 2
    assert page.text("#chosen") == "1 of 10 selected"
    assert page.run("return [...document.querySelectorAll('#legend [aria-pressed=true] .name')].map((n) => n.textContent)") == [
        "8"
    ]
    assert set(page.run("return [...tableBody.rows].map((row) => row.cells[2].textContent)")) == {"8"}
    assert page.run("return figures.find((f) => f.made.bands).made.traces.filter((t) => t.opacity === 1).length") == 1
    page.run("document.getElementById('clear').click()")
    assert page.text("#chosen") == "10 classes; select some"
    page.check_silence()


def test_table_sorts_and_shows_a_sample(chromium, sample_page):
    page = Page(chromium, sample_page)
    values = "return [...tableBody.rows].map((row) => Number(row.cells[5].textContent.replace('−', '-')))"
    worst = page.run(values)
    assert worst == sorted(worst)
    assert len(worst) == 20
    page.run("document.querySelector('[data-key=silhouette]').click()")
    assert page.run("return document.querySelector('[data-key=silhouette]').parentNode.ariaSort") == "descending"
    best = page.run(values)
    assert best == sorted(best, reverse=True)
    assert best[-1] > worst[-1]
    page.run("tableBody.rows[0].querySelector('button').click()")
    assert page.text("#sample h3") == page.run("return tableBody.rows[0].cells[1].textContent")
    assert page.run("return figures.filter((f) => f.map).map((f) => f.plot.layout.shapes.length)") == [1, 1]
    page.check_silence()


def test_keyboard_alone(chromium, sample_page):
    """From the top with Tab: theme, search, a class; a header of the table with Enter; a map with its keys."""
    from selenium.webdriver.common.keys import Keys

    page = Page(chromium, sample_page)

    def press(*keys):
        chromium.switch_to.active_element.send_keys(*keys)

    reached = []
    for _ in range(30):
        press(Keys.TAB)
        reached.append(page.run("const e = document.activeElement; return e.id || e.textContent"))
        if page.run("return document.activeElement.parentNode.id") == "legend":
            break
    assert reached[0] == "Skip to the figures"
    assert "theme" in reached
    assert "find" in reached
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"  # focus can be seen
    press(Keys.SPACE)
    assert page.run("return document.activeElement.ariaPressed") == "true"
    assert page.run("return [...state.picked].map((code) => CLASSES[code])") == ["0"]

    page.run("document.querySelector('[data-key=id]').focus()")
    press(Keys.ENTER)
    assert page.run("return document.activeElement.closest('th').ariaSort") == "ascending"

    page.run("figures.find((f) => f.map).plot.focus()")
    width = "const [a, b] = figures.find((f) => f.map).plot.layout.xaxis.range; return b - a"
    before = page.run(width)
    press("+")
    assert page.run(width) == pytest.approx(0.7 * before)
    press(Keys.ARROW_RIGHT)
    press("0")
    assert page.run(width) == pytest.approx(before)
    page.check_silence()


def test_dark_and_light(chromium, sample_page):
    def background():
        return page.run("return getComputedStyle(document.body).backgroundColor")

    def prefer(scheme):
        chromium.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )

    prefer("dark")
    page = Page(chromium, sample_page)
    assert background() == "rgb(20, 23, 27)"
    assert page.run("return figures[0].made.layout.font.color") == "#e8eaed"
    page.run("document.getElementById('theme').click()")
    assert background() == "rgb(255, 255, 255)"
    assert page.run("return figures[0].made.layout.font.color") == "#1b1f24"
    prefer("light")
    page.check_silence()


def test_phone_and_paper(chromium, sample_page):
    page = Page(chromium, sample_page, width=400)
    assert page.run("return document.documentElement.scrollWidth") <= 400
    assert all(width <= 400 for width in page.run("return figures.map((f) => f.plot.getBoundingClientRect().right)"))
    pdf = chromium.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert len(pdf) > 50_000
    page.check_silence()


def test_a_comparison_that_is_missing_is_explained_where_it_would_stand(chromium, blobs, tmp_path, monkeypatch):
    rows, labels = blobs
    monkeypatch.setattr(report, "MOST_ROWS", len(labels) - 1)
    report.write(tmp_path / "large.html", [view(features(rows, labels, "abc", name=name)) for name in "ab"])
    page = Page(chromium, tmp_path / "large.html")
    for section, option in (("comparison", "--compare"), ("issues", "--issues issues.csv")):
        text = page.run(f"return document.getElementById('{section}').textContent")
        assert f"up to {len(labels) - 1} rows" in text
        assert f"embedscope score FEATURES {option}" in text
    page.check_silence()


def test_fifty_thousand_points(chromium, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MOST_ROWS", 20_000)  # issues take half a minute
    generator = np.random.default_rng(0)
    count = 50_000
    labels = generator.integers(100, size=count)
    centers = generator.normal(size=(100, 4)) * 3
    rows = (centers[labels] + generator.normal(size=(count, 4))).astype(np.float32)
    ids = np.array([f"image_{row:06d}.png" for row in range(count)], dtype=object)
    names = tuple(f"class {label}" for label in range(100))
    found = FeatureSet("many", "many.h5", "layer", torch.from_numpy(rows), labels.astype(np.int64), names, ids)
    report.write(tmp_path / "many.html", [view(found)])
    page = Page(chromium, tmp_path / "many.html")
    assert page.drawn_points() == [50_000]
    assert page.run("return figures.find((f) => f.map).made.traces[0].type") == "scattergl"
    page.pick("class 42")
    assert page.run("return figures.find((f) => f.map).made.traces.at(-1).x.length") == (labels == 42).sum()
    assert "class class 42" in page.hover()
    page.check_silence()


def test_names_are_shown_and_not_run(chromium, blobs, tmp_path):
    labels = np.arange(90) % len(HOSTILE)
    more = ["<b>bold</b>", "<a href='javascript:alert(4)'>link</a>", "%{x} &lt;b&gt; $x^2$"]
    labels[60:] = 5 + np.arange(30) % 3
    names = [*(name.replace("\ud800", "") for name in HOSTILE), *more]  # half a character cannot pass the driver
    ids = [f"{names[label]}{row}" for row, label in enumerate(labels)]
    found = features(
        blobs[0], labels, names, name=HOSTILE[2], ids=ids, provenance=Provenance(model=ModelOrigin(spec=HOSTILE[1]))
    )
    report.write(tmp_path / "a.html", [view(found)], command=HOSTILE[0])
    page = Page(chromium, tmp_path / "a.html")
    shown = page.run("return [...document.querySelectorAll('#legend .name')].map((each) => each.textContent)")
    assert shown == [printable(name) for name in names]
    assert HOSTILE[2] in page.text("#map h3")
    ticks = page.run("return [...document.querySelectorAll('#silhouettes .ytick text')].map((each) => each.textContent)")
    assert any(tick.startswith("<b>bold</b>") for tick in ticks)
    assert any(tick.startswith("<script>alert(1)") for tick in ticks)
    assert any(tick.startswith("%{x} &lt;b&gt; $x") for tick in ticks)
    assert page.run("return document.querySelectorAll('svg a, svg [style*=bold], main script, main img').length") == 0
    assert ids[89] in page.hover()
    page.check_silence()  # an image that does not load, or a script that is refused, would be an error here


def test_run_directory(chromium, make_store, blobs, tmp_path):
    finetune(read_features(str(make_store(*blobs))), tmp_path / "run", epochs=3, trials=2)
    (path,) = plot([str(tmp_path / "run")], tmp_path / "run.html", kinds=["pca"])
    page = Page(chromium, path)
    assert "ce + 0.5*silhouette" in page.text("#run-0 table")
    assert "one trial per objective, seed 0; the means over trials are in the section Training" in page.text("body")
    assert page.run("return document.querySelectorAll('#run-0 figure').length") >= 7
    assert "Training" in [link.text for link in page.all("nav a")]
    page.check_silence()


@pytest.mark.parametrize("case", ["one class", "one sample a class", "many inputs", "a thousand classes", "equal channels"])
def test_shapes_that_break_pages(chromium, blobs, tmp_path, case):
    generator = np.random.default_rng(0)
    rows, labels = blobs
    views = {
        "one class": lambda: [view(features(rows, labels * 0, ["only"]), unlabelled=3)],
        "one sample a class": lambda: [view(features(rows, np.arange(90), [f"c{row}" for row in range(90)]))],
        "many inputs": lambda: [view(features(rows * (1 + n), labels, "abc", name=f"epoch {n}")) for n in range(12)],
        "a thousand classes": lambda: [
            view(features(generator.normal(size=(3000, 8)), np.arange(3000) % 1000, [f"class {n}" for n in range(1000)]))
        ],
        "equal channels": lambda: [view(features(np.ones((30, 3)), np.arange(30) % 2, "ab"))],
    }[case]()
    report.write(tmp_path / "a.html", views)
    page = Page(chromium, tmp_path / "a.html")
    if case == "one class":
        assert "the silhouette is undefined" in page.text("#silhouettes")
        assert "3 unlabeled rows are left out" in page.text("#scores")
    if case == "many inputs":
        assert len(page.drawn_points()) == 2  # the first and the last
        page.run("[...document.querySelectorAll('#map .controls button')][5].click()")
        page.wait(lambda: page.run("return document.documentElement.dataset.drawn") == "all")
        assert len(page.drawn_points()) == 3
    if case == "a thousand classes":
        page.run("const box = document.getElementById('find'); box.value = 'class 77'; box.dispatchEvent(new Event('input'))")
        assert page.run("return legendButtons.size") == 11
        page.pick("class 777")
        assert "class 777 (3)" in page.run("return figures.find((f) => f.made.bands).made.bands.map((band) => band.label)")
    if case == "equal channels":
        assert "Undefined" in page.text("#spectrum")
    page.check_silence()
