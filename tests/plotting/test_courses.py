"""Files of measurements as the kind trajectory: the numbers that are drawn, and what cannot be drawn of them."""

import numpy as np
import pytest

from embedscope import plot
from embedscope.errors import InputError, UsageError
from embedscope.plotting.courses import read_courses
from embedscope.plotting.trajectory import trajectory
from embedscope.store.trajectories import Point, append_points


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "monitor.jsonl"
    for step in (0, 500, 1000):
        append_points(
            file,
            [
                Point(step, "fc", {"silhouette": step / 2000, "gini": None if step else 0.5}, loss=2.0 - step / 1000),
                Point(step, "conv", {"silhouette": -step / 2000}, loss=2.0 - step / 1000),
            ],
        )
    return file


@pytest.mark.parametrize("name", ["a.png", "a.html"])
def test_a_metric_that_is_not_installed_here_is_drawn(path, tmp_path, name):
    append_points(path, [Point(1500, "fc", {"silhouette": 0.6, "of_a_plugin": 0.5})])
    plot([str(path)], tmp_path / name)
    assert (tmp_path / name).stat().st_size > 1000


def test_the_numbers_are_those_of_the_file(path):
    one, other = read_courses([str(path)], layers=(), split=None)
    assert (one.name, other.name) == ("fc", "conv")
    assert one.steps.tolist() == [0, 500, 1000]
    np.testing.assert_array_equal(one.values["silhouette"], [0, 0.25, 0.5])
    np.testing.assert_array_equal(one.values["gini"], [0.5, np.nan, np.nan])
    np.testing.assert_array_equal(one.values["loss"], [2, 1.5, 1])
    assert list(other.values) == ["silhouette", "loss"]
    assert read_courses(str(path), layers="conv", split=None)[0].name == "monitor"
    assert [each.name for each in read_courses([str(path), f"b={path}"], layers="fc", split=None)] == ["monitor", "b"]
    assert [each.name for each in read_courses({"a": path, "b": str(path)}, layers="fc", split=None)] == ["a", "b"]
    assert [list(each.values) for each in trajectory([one, other], metrics="gini")] == [["gini"], []]


def test_lines_over_steps_are_drawn_and_a_shared_loss_once(path):
    figure = plot(str(path))
    panels = {axes.get_title(loc="left") or axes.get_title(): axes for axes in figure.get_axes() if axes.lines}
    assert {name: len(axes.lines) for name, axes in panels.items()} == {"silhouette ↑": 2, "gini ↓": 1, "loss": 1}
    np.testing.assert_array_equal(panels["silhouette ↑"].lines[0].get_xdata(), [0, 500, 1000])
    np.testing.assert_array_equal(panels["silhouette ↑"].lines[1].get_ydata(), [0, -0.25, -0.5])
    assert panels["loss"].get_xlabel() == "step"


def test_metrics_are_chosen(path):
    figure = plot(str(path), metrics=["silhouette"], layers="conv")
    assert [axes.get_ylabel() or len(axes.lines) for axes in figure.get_axes() if axes.lines] == [1]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "tsne"}, InputError, "tsne needs features, and a file of measurements has none"),
        ({"layers": "fcc"}, UsageError, "did you mean 'fc'"),
        ({"split": "test"}, UsageError, "omit `split=`"),
        ({"metrics": "class_kl"}, InputError, "no measured metric 'class_kl'"),
    ],
    ids=str,
)
def test_what_cannot_be_drawn(path, options, error, message):
    with pytest.raises(error, match=message):
        plot(str(path), **options)


def test_files_of_measurements_are_drawn_on_their_own(path, make_store, blobs):
    store = make_store(*blobs)
    with pytest.raises(UsageError, match=r"store\.h5 is not a file of measurements, but other inputs are"):
        plot([str(path), str(store)])


def test_a_damaged_file_is_told(path):
    path.write_text(path.read_text() + "{\n" + '{"step": 1}\n')
    with pytest.raises(InputError, match="line 7 is not a measurement"):
        plot(str(path))
