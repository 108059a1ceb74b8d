"""The page as a document: what it carries, that nothing of it is run or fetched, and what it says where there is little."""

import base64
import csv
import hashlib
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from embedscope.errors import MissingExtraError, OutputError, UsageError
from embedscope.finetuning import finetune
from embedscope.metrics.silhouette import silhouette_samples
from embedscope.plotting import plot, report
from embedscope.plotting.report import document
from embedscope.store import read_features
from embedscope.store.features import FeatureSet
from embedscope.store.provenance import ModelOrigin, Provenance
from embedscope.text import printable

pytest.importorskip("plotly", reason="plotly is not installed")

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    "\"quotes\" 'and' &amp; `ticks`",
    "line\u2028separator\u2029 \ud800 <!-- {{plotly}}",
]


class Elements(HTMLParser):
    """Collects elements with their attributes, and the text of scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] == "script":
            self.scripts[-1] += data

    def handle_endtag(self, tag):
        if tag == "script":
            self.elements.append(("/script", {}))


def decoded(packed):
    kind = {"Uint16Array": "<u2", "Uint32Array": "<u4", "Float32Array": "<f4", "Float64Array": "<f8"}[packed["type"]]
    return np.frombuffer(base64.b64decode(packed["base64"]), dtype=kind)


def carried(path):
    return json.loads(Elements(path.read_text(encoding="utf-8")).scripts[0])


def features(rows, labels, class_names, *, name="a", ids=None, provenance=None):
    ids = np.array([f"row{row}" for row in range(len(labels))] if ids is None else ids, dtype=object)
    rows = torch.as_tensor(np.asarray(rows, dtype=np.float32))
    return FeatureSet(
        name, f"{name}.h5", "layer", rows, np.asarray(labels), tuple(class_names), ids, provenance=provenance or Provenance()
    )


def view(found, *, drawn=None, **more):
    drawn = np.arange(len(found.labels)) if drawn is None else drawn
    return report.View(found, drawn, {"PCA": np.asarray(found.features[:])[drawn, :2]}, **more)


@pytest.fixture
def two(blobs, tmp_path):
    rows, labels = blobs
    before, after = (
        features(rows, labels, "abc", name="before"),
        features(rows * [2, 1, 1, 1, 1, 1, 1, 1], labels, "abc", name="after"),
    )
    report.write(tmp_path / "two.html", [view(before), view(after)], command="embedscope plot before.h5 after.h5 -o two.html")
    return tmp_path / "two.html", before, after


def test_it_carries_what_was_measured(two):
    path, *both = two
    data = carried(path)
    assert data["classes"] == ["a", "b", "c"]
    assert len(data["rows"]) == 1  # both show the same rows, so ids and labels are there once
    assert data["rows"][0]["ids"] == both[0].ids.tolist()
    np.testing.assert_array_equal(decoded(data["rows"][0]["labels"]), both[0].labels)
    for packed, found in zip(data["views"], both, strict=True):
        expected = silhouette_samples(found.features, torch.from_numpy(found.labels)).numpy()
        np.testing.assert_array_equal(decoded(packed["silhouette"]), expected.astype(np.float32))
        assert packed["metrics"]["silhouette"]["value"] == pytest.approx(expected.mean(), abs=1e-14)
        sure = {name for name, metric in packed["metrics"].items() if metric["ci95"]}
        assert sure == {"silhouette", "soft_silhouette", "gini", "class_kl"}
        low, high = packed["metrics"]["silhouette"]["ci95"]
        assert low < expected.mean() < high
        points = found.features[:, :2].numpy().astype(float)
        layout = packed["layouts"]["PCA"]
        unit = np.ptp(points, axis=0).max() / 65535  # a step of the grid that coordinates are written on
        for axis, name in enumerate("xy"):
            np.testing.assert_allclose(decoded(layout[name]) * unit, points[:, axis] - points[:, axis].min(), atol=0.51 * unit)


def test_nothing_is_fetched_and_only_its_own_scripts_run(two):
    text = two[0].read_text(encoding="utf-8")
    found = Elements(text)
    for tag, attributes in found.elements:
        assert tag not in {"iframe", "object", "embed", "base", "form", "img", "video", "audio"}, tag
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith(("#", "data:")), attributes
        assert not any(name.startswith("on") for name in attributes), attributes
    assert not re.search(r"url\(|@import", text[text.index("<style>") : text.index("</style>")])
    policy = next(attributes["content"] for tag, attributes in found.elements if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy
    assert "'unsafe-inline'" not in policy.partition("style-src")[0]
    hashes = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in found.scripts[1:]}
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == hashes
    assert len(hashes) == 7


def test_names_of_any_kind_are_text(blobs, tmp_path):
    rows, labels = blobs
    labels = np.arange(90) % len(HOSTILE)
    ids = [f"{HOSTILE[row % len(HOSTILE)]}{row}" for row in range(90)]
    found = features(rows, labels, HOSTILE, name=HOSTILE[1], ids=ids, provenance=Provenance(model=ModelOrigin(spec=HOSTILE[0])))
    report.write(tmp_path / "a.html", [view(found)], command=HOSTILE[1])
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    elements = Elements(text)
    assert sum(tag == "script" for tag, _ in elements.elements) == 8  # the data, plotly, and six of ours
    assert not re.search("[<>&\u2028\u2029]", elements.scripts[0])
    data = json.loads(elements.scripts[0])
    assert data["classes"] == [printable(name, lines=True) for name in HOSTILE]
    assert data["rows"][0]["ids"] == [printable(name, lines=True) for name in ids]
    assert data["command"] == printable(HOSTILE[1], lines=True)
    assert "<title>embedscope: &lt;/script&gt;" in text


def test_the_same_views_give_the_same_page(two, tmp_path):
    path, before, after = two
    report.write(tmp_path / "b.html", [view(before), view(after)], command="embedscope plot before.h5 after.h5 -o two.html")
    assert (tmp_path / "b.html").read_bytes() == path.read_bytes()


def test_rows_that_differ_are_carried_apart_and_classes_have_one_code(blobs, tmp_path):
    rows, labels = blobs
    one = features(rows, labels, "abc", name="one")
    other = features(rows[:60], labels[:60], "cab", name="other")  # the same labels mean other classes
    report.write(tmp_path / "a.html", [view(one), view(other)])
    data = carried(tmp_path / "a.html")
    assert [entry["rows"] for entry in data["views"]] == [0, 1]
    names = np.array(data["classes"])
    assert names[decoded(data["rows"][1]["labels"])].tolist() == [("c", "a", "b")[label] for label in labels[:60]]
    owned = dict(data["views"][1]["metrics"]["gini"]["owned_channels"])
    assert sum(owned.values()) == 8


def test_a_sample_of_the_rows_is_measured_against_all(digits, tmp_path):
    found = features(digits[0].numpy(), digits[1].numpy(), [str(digit) for digit in range(10)])
    drawn = np.sort(np.random.default_rng(0).permutation(1797)[:600])
    report.write(tmp_path / "a.html", [view(found, drawn=drawn)])
    (entry,) = carried(tmp_path / "a.html")["views"]
    exact = silhouette_samples(found.features, torch.from_numpy(found.labels)).numpy()
    np.testing.assert_allclose(decoded(entry["silhouette"]), exact[drawn], atol=1e-6)
    low, high = entry["metrics"]["silhouette"]["ci95"]
    assert low < exact.mean() < high
    assert "estimated from a stratified sample of 600 of 1,797 rows" in entry["metrics"]["silhouette"]["note"]


def test_one_class(blobs, tmp_path):
    found = features(blobs[0], np.zeros(90, dtype=np.int64), ["only"])
    report.write(tmp_path / "a.html", [view(found, unlabelled=7)])
    (entry,) = carried(tmp_path / "a.html")["views"]
    assert entry["silhouette"] is None
    assert entry["nearest"] is None
    assert entry["metrics"]["silhouette"]["value"] is None
    assert "class" in entry["metrics"]["silhouette"]["note"]
    assert entry["unlabelled"] == 7


def test_from_stores(make_store, blobs, tmp_path):
    labels = np.where(np.arange(90) < 6, -1, blobs[1])
    store = make_store(blobs[0], labels)
    (path,) = plot(
        [str(store), f"again={store}"], tmp_path / "page.html", kinds=["pca", "tsne(perplexity=5)", "tsne"], command="typed"
    )
    data = carried(path)
    assert [entry["name"] for entry in data["views"]] == ["store", "again"]
    assert list(data["views"][0]["layouts"]) == ["PCA", "tsne(perplexity=5)", "tsne"]
    assert data["views"][0]["samples"] == 84
    assert data["views"][0]["unlabelled"] == 6
    assert data["command"] == "typed"
    assert ["run command", "embedscope extract net.py:Net data -o store.h5"] in data["views"][0]["provenance"]
    with pytest.raises(OutputError, match="exists"):
        plot([str(store)], path)


def test_thinned_rows_are_said(make_store, blobs, tmp_path):
    (path,) = plot([str(make_store(*blobs))], tmp_path / "page.html", kinds=["pca"], max_points=30)
    data = carried(path)
    assert len(data["rows"][0]["ids"]) == 30
    assert data["views"][0]["samples"] == 90


def test_a_run_brings_its_objectives_and_logs(make_store, blobs, tmp_path):
    finetune(read_features(str(make_store(*blobs))), tmp_path / "run", epochs=2, trials=2)
    (path,) = plot([str(tmp_path / "run")], tmp_path / "run.html", kinds=["pca"])
    data = carried(path)
    assert [entry["name"] for entry in data["views"]] == ["before", "after ce", "after ce + 0.5*silhouette"]
    (run,) = data["runs"]
    assert [each["expression"] for each in run["objectives"]] == ["ce", "ce + 0.5*silhouette"]
    for objective in run["objectives"]:
        assert [log["epoch"] for log in objective["logs"]] == [[1, 2], [1, 2]]
    assert run["objectives"][1]["summary"]["silhouette"]["difference"] is not None


def test_without_plotly(make_store, blobs, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingExtraError, match=r"plotly is not installed; pip install 'embedscope\[report\]'"):
        plot([str(make_store(*blobs))], tmp_path / "page.html", kinds=["pca"])
    assert not (tmp_path / "page.html").exists()


def test_a_script_that_would_end_its_element_is_refused():
    with pytest.raises(ValueError, match="cannot be embedded in a page"):
        document.page("", {}, "'</SCRIPT>'")


def test_what_is_not_compared_is_said_with_the_reason(two, blobs, tmp_path, monkeypatch):
    assert carried(two[0])["apart"] == []
    assert [each["view"] for each in carried(two[0])["comparisons"]] == [1]
    rows, labels = blobs
    one = features(rows, labels, "abc", name="one")
    other = features(rows, labels, "abc", name="other", ids=[f"else{row}" for row in range(len(labels))])
    report.write(tmp_path / "apart.html", [view(one), view(other)])
    data = carried(tmp_path / "apart.html")
    assert (data["comparisons"], data["apart"]) == ([], [[1, "they have no ids in common"]])
    monkeypatch.setattr(report, "MOST_ROWS", len(labels) - 1)
    report.write(tmp_path / "large.html", [view(one), view(one)])
    data = carried(tmp_path / "large.html")
    assert (data["comparisons"], data["apart"], data["issues"]) == ([], [], None)
    assert data["most_rows"] == len(labels) - 1


def test_commands_name_files(make_store, blobs, tmp_path):
    stores = [make_store(*blobs, name=name) for name in ("a b.h5", "c.h5")]
    plot([str(store) for store in stores], tmp_path / "files.html", kinds=["pca"], max_points=20)
    assert carried(tmp_path / "files.html")["sources"] == f"'{tmp_path}/a b.h5' {tmp_path}/c.h5"
    plot(blobs, tmp_path / "arrays.html", kinds=["pca"], max_points=20)
    assert carried(tmp_path / "arrays.html")["sources"] == "FEATURES"


def test_fifty_thousand_points_stay_small(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MOST_ROWS", 20_000)  # issues would take half a minute, and are at most 150 of a kind
    generator = np.random.default_rng(0)
    count = 50_000
    labels = np.arange(count) % 100
    rows = generator.normal(size=(count, 2)).astype(np.float32) + labels[:, None]
    ids = [f"train/n{label:08d}/n{label:08d}_{row:06d}.JPEG" for row, label in enumerate(labels)]
    found = features(rows, labels, [f"class {label}" for label in range(100)], ids=ids)
    report.write(tmp_path / "a.html", [view(found)])
    assert (tmp_path / "a.html").stat().st_size < 20e6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kinds": ["pca", "silhouette"]},
            "a page includes every other applicable view by default; omit `kinds=silhouette`",
        ),
        ({"width": "slide"}, "`width=slide` applies to pictures"),
    ],
)
def test_options_that_a_page_does_not_have(make_store, blobs, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        plot([str(make_store(*blobs))], tmp_path / "page.html", **options)


def test_coordinates_of_a_page_can_be_given_back(make_store, blobs, tmp_path):
    source = [str(make_store(*blobs))]
    (first,) = plot(source, tmp_path / "a.html", kinds=["pca"], coordinates=tmp_path / "xy.csv")
    (again,) = plot(source, tmp_path / "b.html", kinds=["pca"], layout=tmp_path / "xy.csv")
    assert carried(again)["views"][0]["layouts"] == carried(first)["views"][0]["layouts"]


def test_a_page_of_given_coordinates_shows_their_rows(make_store, blobs, tmp_path):
    """A table of fewer rows than the page would choose: every id has its own coordinates."""
    source = [str(make_store(*blobs))]
    plot(source, tmp_path / "a.png", kinds=["pca"], max_points=30, coordinates=tmp_path / "xy.csv")
    (path,) = plot(source, tmp_path / "a.html", kinds=["pca"], layout=tmp_path / "xy.csv", seed=5)
    data = carried(path)
    with (tmp_path / "xy.csv").open() as file:
        expected = {line["id"]: (float(line["x"]), float(line["y"])) for line in csv.DictReader(file)}
    assert set(data["rows"][0]["ids"]) == set(expected)
    assert len(expected) == 30
    shown = np.stack([decoded(data["views"][0]["layouts"]["PCA"][axis]) for axis in "xy"], axis=1).astype(float)
    wanted = np.array([expected[name] for name in data["rows"][0]["ids"]])
    wanted = (wanted - wanted.min(axis=0)) / np.ptp(wanted, axis=0).max()
    np.testing.assert_allclose(shown / 65535, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kinds": ["silhouette"], "coordinates": "a.csv"},
            "`coordinates=` applies to kinds with coordinates, and none is drawn",
        ),
        ({"form": "svg"}, "`form=svg` sets the format of pictures in a folder; a.png already sets its format"),
    ],
)
def test_options_that_would_do_nothing(make_store, blobs, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        plot([str(make_store(*blobs))], tmp_path / "a.png", **options)
    assert not (tmp_path / "a.png").exists()


def test_control_characters_are_shown_as_escapes(make_store, blobs, tmp_path):
    names, ids = ["\x1b[31mred", "a\u202eb", "c"], [f"\x9b{row}" for row in range(90)]
    store = make_store(*blobs, class_names=names, ids=ids, layer="la\x1byer")
    plot([f"na\x1bme={store}"], tmp_path / "a.html", kinds=["pca"], command="typed \x1b[2J")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', text, re.DOTALL)[1])
    assert not set(json.dumps(data, ensure_ascii=False)) & set("\x1b\x9b\u202e")
    assert "\\u001b" not in json.dumps(data)
    assert data["classes"] == ["\\x1b[31mred", "a\\u202eb", "c"]
    assert data["command"] == "typed \\x1b[2J"
    assert "<title>embedscope: na\\x1bme" in text


def test_metrics_of_the_table_are_those_asked_for(tmp_path):
    rows, labels = np.random.default_rng(0).normal(size=(12, 3)), np.arange(12) % 3
    plot((rows, labels), tmp_path / "a.html", kinds="pca", metrics=["rankme", "gini(dead='ignore')"])
    data = carried(tmp_path / "a.html")
    assert data["metrics"] == ["rankme", "gini"]
    measured = data["views"][0]["metrics"]
    assert measured["gini"]["options"]["dead"] == "ignore"
    assert set(measured) == {"rankme", "gini", "silhouette", "soft_silhouette", "class_kl", "explained_variance"}
