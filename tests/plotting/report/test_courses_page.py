"""The page of files of measurements: what it carries, and what it shows in a browser, in any theme and width."""

import numpy as np
import pytest

from embedscope.errors import InputError, UsageError
from embedscope.plotting import plot
from embedscope.store.trajectories import Point, append_points
from tests.plotting.report.browser import Page, in_browser
from tests.plotting.report.test_page import HOSTILE, Elements, carried, decoded

pytest.importorskip("plotly", reason="plotly is not installed")

FELL = "silhouette fell from 0.5 to 0.1 since step 500 while the loss fell"


def measurements(path, layers=("fc",), *, found=FELL, checkpoint=None, count=4):
    for number in range(count):
        step, last = 500 * number, number == count - 1
        values = [0.1, 0.5, 0.3, 0.1][number % 4]
        append_points(
            path,
            [
                Point(
                    step,
                    layer,
                    {"silhouette": values, "effective_rank": 10 - number / 8, "gini": 0.25 if number else None},
                    loss=None if checkpoint else 2.0 - number / 4,
                    time=f"2026-11-28T05:00:0{number % 10}+00:00",
                    seconds=0.25,
                    findings=(found,) if last and found else (),
                    samples=1200,
                    dimensions=16,
                    classes=10,
                    checkpoint=checkpoint and checkpoint.format(number),
                )
                for layer in layers
            ],
        )
    return path


@pytest.fixture
def file(tmp_path):
    return measurements(tmp_path / "monitor.jsonl", ("fc", "conv"))


def test_it_carries_the_numbers_of_the_file(file, tmp_path):
    (path,) = plot(file, tmp_path / "page.html", command="embedscope plot monitor.jsonl -o page.html")
    data = carried(path)
    assert [(each["name"], each["layer"]) for each in data["courses"]] == [("fc", "fc"), ("conv", "conv")]
    one = data["courses"][0]
    np.testing.assert_array_equal(decoded(one["steps"]), [0, 500, 1000, 1500])
    np.testing.assert_array_equal(decoded(one["values"]["silhouette"]), [0.1, 0.5, 0.3, 0.1])
    np.testing.assert_array_equal(decoded(one["values"]["gini"]), [np.nan, 0.25, 0.25, 0.25])
    np.testing.assert_array_equal(decoded(one["values"]["loss"]), [2, 1.75, 1.5, 1.25])
    assert one["findings"] == [[1500, FELL]]
    assert (one["samples"], one["dimensions"], one["classes"]) == (1200, 16, 10)
    assert data["better"] == {"silhouette": "higher", "effective_rank": None, "gini": "lower", "loss": "lower"}
    assert data["views"] == []
    assert path.stat().st_size < 6e6  # plotly's script is nearly all of it


def test_metrics_and_layers_are_chosen(file, tmp_path):
    (path,) = plot(file, tmp_path / "page.html", metrics="gini", layers="conv")
    (course,) = carried(path)["courses"]
    assert (course["layer"], list(course["values"])) == ("conv", ["gini"])


def test_a_long_run_stays_small(tmp_path):
    file = tmp_path / "long.jsonl"
    values = {f"{name}": 0.1 for name in ("silhouette", "gini", "effective_rank", "knn_accuracy")}
    append_points(file, [Point(step, "fc", values, loss=0.5) for step in range(20_000)])
    (path,) = plot(file, tmp_path / "page.html")
    plain = measurements(tmp_path / "short.jsonl")
    (short,) = plot(plain, tmp_path / "short.html")
    assert path.stat().st_size - short.stat().st_size < 2e6


def test_the_policy_holds_every_script(file, tmp_path):
    (path,) = plot(file, tmp_path / "page.html")
    found = Elements(path.read_text(encoding="utf-8"))
    assert not [each for _, each in found.elements if "src" in each]
    (policy,) = [each["content"] for tag, each in found.elements if tag == "meta" and "http-equiv" in each]
    assert policy.count("sha256-") == len(found.scripts) - 1  # all but the data


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kinds": "trajectory"}, UsageError, "a page includes every other applicable view by default"),
        ({"kinds": "tsne"}, InputError, "tsne needs features, and a file of measurements has none"),
        ({"images": "."}, UsageError, "`images=` needs samples, and a file of measurements has none"),
        ({"metrics": "class_kl"}, InputError, "no measured metric 'class_kl'"),
        ({"coordinates": "a.csv"}, UsageError, "`coordinates=` applies to kinds with coordinates"),
    ],
    ids=str,
)
def test_what_such_a_page_does_not_have(file, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        plot(file, tmp_path / "page.html", **options)
    assert not (tmp_path / "page.html").exists()


@in_browser
def test_two_runs_in_a_browser(chromium, file, tmp_path):
    other = measurements(tmp_path / "other.jsonl", found="", count=50)
    (path,) = plot([str(file), f"longer={other}"], tmp_path / "page.html", layers="fc")
    page = Page(chromium, path)
    assert [heading.text for heading in page.all("nav a")] == ["Findings", "Last values", "Trajectory", "Provenance"]
    assert page.text("#findings li").strip() == f"step 1,500 {FELL}."
    assert "Nothing stands out in 50 measurements of silhouette, effective_rank, gini." in page.text("#findings")
    (silhouette,) = [row for row in page.all("#scores tbody tr") if row.text.startswith("silhouette ↑")]
    first, second = (cell.text.split("\n") for cell in silhouette.find_elements("css selector", "td"))
    assert first == ["0.1000", "at first 0.1000", "best 0.5000, step 500"]
    assert second[0] == "0.5000"  # of the 50th measurement
    drawn = page.run("return figures.map((each) => each.made.traces.map((trace) => [trace.x.length, trace.y[0]]))")
    assert drawn == [[[4, 0.1], [50, 0.1]], [[4, 10], [50, 10]], [[4, None], [50, None]], [[4, 2], [50, 2]]]
    assert "Gaps" in page.text("#trajectory")
    assert page.all("aside") == []
    page.check_silence()


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_and_wide_light_and_dark(chromium, file, tmp_path, scheme):
    (path,) = plot(file, tmp_path / "page.html")
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        for width in (1280, 400):
            page = Page(chromium, path, width=width)
            assert page.run("return document.documentElement.scrollWidth") <= width
            ink = page.run("return figures[0].made.layout.font.color")
            assert ink == {"light": "#1b1f24", "dark": "#e8eaed"}[scheme]
            # Layers of one training share its loss.
            assert page.run("return figures.map((each) => each.made.traces.length)") == [2, 2, 2, 1]
            page.check_silence()
    finally:
        features[0]["value"] = "light"
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@in_browser
def test_checkpoints_and_names_of_any_kind(chromium, tmp_path):
    hostile = HOSTILE[2]
    file = measurements(tmp_path / "a.jsonl", (hostile, "fc"), found="", checkpoint="epoch-{}.pt", count=1)
    append_points(file, [Point(1, "fc", {"silhouette": None}, checkpoint="epoch-1.pt", findings=(HOSTILE[1],))])
    (path,) = plot(file, tmp_path / "page.html")
    page = Page(chromium, path)
    assert hostile in page.text("#scores thead")
    assert HOSTILE[1] in page.text("#findings")
    assert "These are scored checkpoints" in page.text("#findings")
    assert page.run("return document.querySelectorAll('main img, main script').length") == 0
    assert page.run("return courses[1].checkpoints") == ["epoch-0.pt", "epoch-1.pt"]
    page.check_silence()
